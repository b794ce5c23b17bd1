package build

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// module is built in its own folder, with the dependencies that its own go.mod and go.sum pin, and only when asked for.
type module struct {
	// name is what the cache folder's begins with.
	name, path, version string
	// sum is what Go's checksum database says of the module.
	sum string
}

// folder is where in the cache the module's programs are kept.
func (b *Builder) folder(m module, flags string) string {
	hash := sha256.Sum256([]byte(strings.Join([]string{m.version, m.sum, b.goVersion, flags}, "\n")))
	return filepath.Join(cacheRoot(), fmt.Sprintf("%s-%x", m.name, hash[:8]))
}

// download gives the folder of the module's source.
func (b *Builder) download(m module) (string, error) {
	download := exec.Command("go", "mod", "download", "-json", m.path+"@"+m.version)
	download.Dir, download.Stderr = b.source, os.Stderr
	out, err := download.Output()
	if err != nil {
		return "", fmt.Errorf("download %s: %w: %s", m.path, err, out)
	}
	var found struct{ Dir, Sum string }
	if err := json.Unmarshal(out, &found); err != nil {
		return "", err
	}
	if found.Sum != m.sum {
		return "", fmt.Errorf("%s %s has the sum %s, not %s", m.path, m.version, found.Sum, m.sum)
	}
	return found.Dir, nil
}
