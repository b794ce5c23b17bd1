// Package build makes the cluster's programs and keeps them under the hash of what they are made of.
//
// The folder is ${SMALLFIRST_CACHE:-$HOME/.cache/smallfirst}/cluster/HASH. The hash covers the
// sources and go.sum files of the modules, the Go version and the flags; a change of any of them
// is another folder, and an old folder can be deleted at any time.
package build

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"smallfirst.dev/tests/cluster/internal/image"
	"smallfirst.dev/tests/cluster/internal/instance"
	"smallfirst.dev/tests/cluster/internal/render"
)

// unit is one program: the module folder under tests/cluster and the package in it.
type unit struct{ module, pkg string }

var units = map[string]unit{
	"kubeparts":      {"parts", "./cmd/kubeparts"},
	"coredns":        {"parts", "./cmd/coredns"},
	"metrics-server": {"parts", "sigs.k8s.io/metrics-server/cmd/metrics-server"},
	"kwok":           {"parts", "sigs.k8s.io/kwok/cmd/kwok"},
	"helm":           {"helm", "helm.sh/helm/v4/cmd/helm"},
	"pause":          {".", "./cmd/pause"},
}

// Programs are what a variant runs.
func Programs(v instance.Variant) []string {
	switch v {
	case instance.Full:
		return []string{"kubeparts", "coredns", "metrics-server", "pause"}
	case instance.Kwok:
		return []string{"kubeparts", "kwok"}
	}
	return []string{"kubeparts"}
}

// All is every program, helm included.
func All() []string {
	return []string{"kubeparts", "coredns", "metrics-server", "kwok", "pause", "helm"}
}

// ErrNoGo says that there is neither a cached build nor a compiler.
var ErrNoGo = errors.New("there is no Go compiler (go) in PATH")

// Builder knows the sources and the cache folder that belongs to them.
type Builder struct{ source, Dir, version, goVersion string }

// New finds the sources and hashes them.
func New() (*Builder, error) {
	source, err := findSource()
	if err != nil {
		return nil, err
	}
	if _, err := exec.LookPath("go"); err != nil {
		return nil, ErrNoGo
	}
	goVersion, err := exec.Command("go", "env", "GOVERSION", "GOARCH").Output()
	if err != nil {
		return nil, err
	}
	version, err := kubernetesVersion(filepath.Join(source, "parts", "go.mod"))
	if err != nil {
		return nil, err
	}
	hash, err := hashTree(source, []string{"parts", "helm", "cmd/pause"}, string(goVersion)+ldflags(version))
	if err != nil {
		return nil, err
	}
	return &Builder{source, filepath.Join(cacheRoot(), hash), version, string(goVersion)}, nil
}

// Version is the Kubernetes version, such as v1.36.3.
func (b *Builder) Version() string { return b.version }

// Ensure builds those of the named programs that the cache lacks, one at a time.
func (b *Builder) Ensure(say func(string, ...any), names ...string) error {
	unlock, err := instance.Lock(b.Dir + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	for _, name := range names {
		target := filepath.Join(b.Dir, name)
		if _, err := os.Stat(target); err == nil {
			continue
		}
		start := time.Now()
		say("building %s (the first time takes minutes) ...", name)
		if err := os.MkdirAll(b.Dir, 0o755); err != nil {
			return err
		}
		u := units[name]
		if err := compile(filepath.Join(b.source, u.module), ldflags(b.version), target, u.pkg); err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
		if err := b.finish(name); err != nil {
			return err
		}
		say("%s built %.1fs", name, time.Since(start).Seconds())
	}
	return nil
}

// compile makes a program of a package of the module in dir.
func compile(dir, flags, target, pkg string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", target+".new", pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	return os.Rename(target+".new", target)
}

// finish makes what belongs to a program beside it.
func (b *Builder) finish(name string) error {
	switch name {
	case "kubeparts":
		err := os.Symlink("kubeparts", filepath.Join(b.Dir, "kubectl"))
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	case "kwok":
		return b.kwokStages()
	case "pause":
		return b.pauseImage()
	}
	return nil
}

func (b *Builder) pauseImage() error {
	return image.WriteFile(filepath.Join(b.Dir, "pause.tar"), image.Spec{
		Name: render.PauseImage, Entrypoint: []string{"/pause"}, User: "65535",
		Files: map[string]string{"/pause": filepath.Join(b.Dir, "pause")},
	})
}

// kwokStages joins the Stage files of kwok's own module: what makes fake nodes and pods Ready.
func (b *Builder) kwokStages() error {
	list := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok")
	list.Dir = filepath.Join(b.source, "parts")
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("find kwok's module: %w", err)
	}
	var all []string
	for _, stage := range []string{"node/fast", "node/heartbeat-with-lease", "pod/fast"} {
		files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "kustomize/stage", stage, "*.yaml"))
		if err != nil {
			return err
		}
		for _, file := range files {
			if filepath.Base(file) == "kustomization.yaml" {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			all = append(all, string(text))
		}
	}
	if len(all) == 0 {
		return errors.New("kwok's module has no Stage files where they used to be")
	}
	return os.WriteFile(filepath.Join(b.Dir, "kwok-stages.yaml"), []byte(strings.Join(all, "\n---\n")), 0o644)
}

// ldflags gives the servers their version; without it they say v0.0.0 and clients refuse them.
func ldflags(version string) string {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	flags := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, x := range []string{"gitVersion=" + version, "gitMajor=" + parts[0], "gitMinor=" + parts[1], "gitTreeState=clean", "gitCommit=unknown", "buildDate=1970-01-01T00:00:00Z"} {
			flags = append(flags, "-X "+pkg+"."+x)
		}
	}
	return strings.Join(flags, " ")
}

func kubernetesVersion(goMod string) (string, error) {
	text, err := os.ReadFile(goMod)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "k8s.io/kubernetes" && strings.Count(fields[1], ".") >= 2 {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("%s does not require k8s.io/kubernetes", goMod)
}

func hashTree(root string, folders []string, more string) (string, error) {
	var files []string
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			return "", err
		}
	}
	sort.Strings(files)
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n", more)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %x\n", name, sha256.Sum256(text))
	}
	return fmt.Sprintf("%x", sum.Sum(nil))[:16], nil
}

// findSource looks for tests/cluster: SMALLFIRST_CLUSTER_SRC (set by the run script), or upwards.
func findSource() (string, error) {
	if dir := os.Getenv("SMALLFIRST_CLUSTER_SRC"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		for _, candidate := range []string{dir, filepath.Join(dir, "tests", "cluster")} {
			if _, err := os.Stat(filepath.Join(candidate, "parts", "go.mod")); err == nil {
				return candidate, nil
			}
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("run this inside the repository, or set SMALLFIRST_CLUSTER_SRC to its tests/cluster")
		}
	}
}

func cacheRoot() string {
	if dir := os.Getenv("SMALLFIRST_CACHE"); dir != "" {
		return filepath.Join(dir, "cluster")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = os.TempDir()
	}
	return filepath.Join(home, ".cache", "smallfirst", "cluster")
}
