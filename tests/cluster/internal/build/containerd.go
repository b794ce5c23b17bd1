package build

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"smallfirst.dev/tests/cluster/internal/instance"
)

// containerdModule has what Debian's containerd has not: volumes of OCI images.
var containerdModule = module{
	name: "containerd", path: "github.com/containerd/containerd/v2", version: "v2.4.2",
	sum: "h1:p6Qg+xbEz8lvwdhHDx0U469xENvp4LgGBx+E7djXkGw=",
}

// Containerd makes, unless they are there, containerd, its shim and ctr; gives their folder, which up takes them from when it
// is the first in PATH.
func (b *Builder) Containerd(say func(string, ...any)) (string, error) {
	const flags = "-s -w"
	dir := b.folder(containerdModule, flags)
	unlock, err := instance.Lock(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, program := range []string{"containerd", "containerd-shim-runc-v2", "ctr"} {
		target := filepath.Join(dir, program)
		if _, err := os.Stat(target); err == nil {
			continue
		}
		start := time.Now()
		say("building %s %s (the first of three takes a minute) ...", program, containerdModule.version)
		source, err := b.download(containerdModule)
		if err != nil {
			return "", err
		}
		if err := compile(source, flags, target, "./cmd/"+program); err != nil {
			return "", fmt.Errorf("build %s: %w", program, err)
		}
		say("%s built %.1fs", program, time.Since(start).Seconds())
	}
	return dir, nil
}
