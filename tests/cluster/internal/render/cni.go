package render

import (
	"os"
	"path/filepath"
)

// CNIFolder is where the CNI plugins are: Debian's place, or the one of upstream's archives. Empty
// when there are none.
func CNIFolder() string {
	for _, dir := range []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"} {
		if _, err := os.Stat(filepath.Join(dir, "ptp")); err == nil {
			return dir
		}
	}
	return ""
}
