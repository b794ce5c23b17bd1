package build

import (
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
var kedaModule = module{
	name: "keda", path: "github.com/kedacore/keda/v2", version: "v2.21.0",
	sum: "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=",
}

// kedaPrograms are the packages by the names that the manifests call them by.
var kedaPrograms = map[string]string{
	"keda": "./cmd/operator", "keda-adapter": "./cmd/adapter", "keda-admission-webhooks": "./cmd/webhooks",
}

// KEDA makes, unless they are there, keda.tar, an image with its three programs, and keda.yaml, its own manifests on that
// image; gives their folder.
func (b *Builder) KEDA(say func(string, ...any)) (string, error) {
	flags := "-s -w -X " + kedaModule.path + "/version.Version=" + strings.TrimPrefix(kedaModule.version, "v")
	name := "smallfirst.local/keda:" + kedaModule.version
	dir := b.folder(kedaModule, flags)
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
	source, err := b.download(kedaModule)
	if err != nil {
		return "", err
	}
	files := map[string]string{}
	for program, pkg := range kedaPrograms {
		start := time.Now()
		say("building %s %s (the first of three takes a quarter of an hour) ...", program, kedaModule.version)
		target := filepath.Join(dir, program)
		if err := compile(source, flags, target, pkg); err != nil {
			return "", fmt.Errorf("build %s: %w", program, err)
		}
		files["/"+program] = target
		say("%s built %.1fs", program, time.Since(start).Seconds())
	}
	spec := image.Spec{Name: name, Entrypoint: []string{"/keda"}, User: "65532", Files: files}
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
	own, err := onImage(string(text), name, len(kedaPrograms))
	if err != nil {
		return "", err
	}
	// The last file: where it is the others are whole.
	if err := os.WriteFile(manifests+".new", []byte(own), 0o644); err != nil {
		return "", err
	}
	return dir, os.Rename(manifests+".new", manifests)
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
