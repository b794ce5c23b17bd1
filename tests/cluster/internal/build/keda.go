package build

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"smallfirst.dev/tests/cluster/internal/image"
	"smallfirst.dev/tests/cluster/internal/instance"
)

// KEDA's module is built in its own folder, so with the dependencies that its own go.mod and go.sum pin.
const (
	kedaModule  = "github.com/kedacore/keda/v2"
	kedaVersion = "v2.21.0"
	// kedaSum is what Go's checksum database says of the module.
	kedaSum   = "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps="
	kedaImage = "smallfirst.local/keda:" + kedaVersion
)

// kedaPrograms are the packages by the names that the manifests call them by.
var kedaPrograms = map[string]string{
	"keda": "./cmd/operator", "keda-adapter": "./cmd/adapter", "keda-admission-webhooks": "./cmd/webhooks",
}

// KEDA makes, unless they are there, keda.tar, an image with its three programs, and keda.yaml, its own manifests on that
// image; gives their folder.
func (b *Builder) KEDA(say func(string, ...any)) (string, error) {
	flags := "-s -w -X " + kedaModule + "/version.Version=" + strings.TrimPrefix(kedaVersion, "v")
	hash := sha256.Sum256([]byte(strings.Join([]string{kedaVersion, kedaSum, b.goVersion, flags}, "\n")))
	dir := filepath.Join(cacheRoot(), fmt.Sprintf("keda-%x", hash[:8]))
	unlock, err := instance.Lock(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	manifests := filepath.Join(dir, "keda.yaml")
	if _, err := os.Stat(manifests); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	source, err := b.kedaSource()
	if err != nil {
		return "", err
	}
	files := map[string]string{}
	for name, pkg := range kedaPrograms {
		start := time.Now()
		say("building %s %s (the first of three takes a quarter of an hour) ...", name, kedaVersion)
		target := filepath.Join(dir, name)
		if err := compile(source, flags, target, pkg); err != nil {
			return "", fmt.Errorf("build %s: %w", name, err)
		}
		files["/"+name] = target
		say("%s built %.1fs", name, time.Since(start).Seconds())
	}
	spec := image.Spec{Name: kedaImage, Entrypoint: []string{"/keda"}, User: "65532", Files: files}
	if err := image.WriteFile(filepath.Join(dir, "keda.tar"), spec); err != nil {
		return "", err
	}
	if err := b.Ensure(say, "kubeparts"); err != nil {
		return "", err
	}
	kustomize := exec.Command(filepath.Join(b.Dir, "kubectl"), "kustomize", filepath.Join(source, "config", "default"))
	kustomize.Stderr = os.Stderr
	text, err := kustomize.Output()
	if err != nil {
		return "", fmt.Errorf("KEDA's manifests: %w", err)
	}
	own, err := onImage(string(text), kedaImage, len(kedaPrograms))
	if err != nil {
		return "", err
	}
	// The last file: where it is the others are whole.
	if err := os.WriteFile(manifests+".new", []byte(own), 0o644); err != nil {
		return "", err
	}
	return dir, os.Rename(manifests+".new", manifests)
}

// kedaSource gives the folder of KEDA's module.
func (b *Builder) kedaSource() (string, error) {
	download := exec.Command("go", "mod", "download", "-json", kedaModule+"@"+kedaVersion)
	download.Dir, download.Stderr = b.source, os.Stderr
	out, err := download.Output()
	if err != nil {
		return "", fmt.Errorf("download %s: %w: %s", kedaModule, err, out)
	}
	var module struct{ Dir, Sum string }
	if err := json.Unmarshal(out, &module); err != nil {
		return "", err
	}
	if module.Sum != kedaSum {
		return "", fmt.Errorf("%s %s has the sum %s, not %s", kedaModule, kedaVersion, module.Sum, kedaSum)
	}
	return module.Dir, nil
}

var kedaImages = regexp.MustCompile(`image: ghcr\.io/kedacore/\S+`)

// onImage lets the containers of KEDA's manifests run an image that the node has; there must be so many.
func onImage(manifests, name string, containers int) (string, error) {
	if found := len(kedaImages.FindAllString(manifests, -1)); found != containers {
		return "", fmt.Errorf("KEDA's manifests have %d images, not %d", found, containers)
	}
	manifests = kedaImages.ReplaceAllLiteralString(manifests, "image: "+name)
	return strings.ReplaceAll(manifests, "imagePullPolicy: Always", "imagePullPolicy: IfNotPresent"), nil
}
