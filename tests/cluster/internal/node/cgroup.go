package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"smallfirst.dev/tests/cluster/internal/instance"
)

const cgroupFS = "/sys/fs/cgroup"

// controllers are those the kubelet wants.
var controllers = []string{"cpu", "cpuset", "memory", "pids", "hugetlb", "io"}

// cgroupDirs gives the instance's own folder in every hierarchy: one with cgroup v2, one a
// controller with v1, where runc uses a "unified" one as well if it is there.
func cgroupDirs(in *instance.Instance) []string {
	if unified() {
		return []string{filepath.Join(cgroupFS, in.Name())}
	}
	var dirs []string
	entries, _ := os.ReadDir(cgroupFS)
	seen := map[string]bool{}
	for _, entry := range entries {
		// cpu and cpuacct may be links to one folder.
		real, err := filepath.EvalSymlinks(filepath.Join(cgroupFS, entry.Name()))
		if err != nil || seen[real] {
			continue
		}
		seen[real] = true
		if _, err := os.Stat(filepath.Join(real, "cgroup.procs")); err == nil {
			dirs = append(dirs, filepath.Join(real, in.Name()))
		}
	}
	return dirs
}

func unified() bool {
	_, err := os.Stat(filepath.Join(cgroupFS, "cgroup.controllers"))
	return err == nil
}

// MakeCgroups creates the kubelet's cgroupRoot.
func MakeCgroups(in *instance.Instance) error {
	for _, dir := range cgroupDirs(in) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		// cgroup v1: a new cpuset is empty, and no process may enter it.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			own := filepath.Join(dir, file)
			if value, err := os.ReadFile(own); err == nil && !unified() && strings.TrimSpace(string(value)) == "" {
				parent, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
				if err != nil {
					return err
				}
				if err := os.WriteFile(own, parent, 0o644); err != nil {
					return err
				}
			}
		}
	}
	if unified() {
		for _, dir := range []string{cgroupFS, filepath.Join(cgroupFS, in.Name())} {
			for _, controller := range controllers {
				// One that the kernel lacks is missed later, by name, by the kubelet.
				_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
			}
		}
	}
	return nil
}

// KillPods kills every process in the instance's cgroups until none is left.
func KillPods(in *instance.Instance) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		pids := pids(in)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v of pods do not die", pids)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func pids(in *instance.Instance) []int {
	var all []int
	for _, root := range cgroupDirs(in) {
		_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.Name() != "cgroup.procs" {
				return nil
			}
			raw, _ := os.ReadFile(path)
			for _, field := range strings.Fields(string(raw)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 1 && pid != os.Getpid() && !zombie(pid) {
					all = append(all, pid)
				}
			}
			return nil
		})
	}
	return all
}

func zombie(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(raw), ") ")
	return strings.HasPrefix(after, "Z")
}

// RemoveCgroups deletes the instance's empty cgroups, the deepest first.
func RemoveCgroups(in *instance.Instance) error {
	var failed error
	for _, root := range cgroupDirs(in) {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := removeCgroup(dirs[i]); err != nil {
				failed = errors.Join(failed, err)
			}
		}
	}
	return failed
}

// removeCgroup retries: a zombie keeps its cgroup busy until init has reaped it.
func removeCgroup(dir string) error {
	var err error
	for range 150 {
		if err = syscall.Rmdir(dir); err == nil || errors.Is(err, syscall.ENOENT) {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("rmdir %s: %w", dir, err)
}
