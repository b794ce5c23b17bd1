// Package guard decides what the tool may delete, unmount or kill.
//
// The policy: only what lies strictly under the instance's own run folder, which must be a
// non-empty, absolute, clean path of at least two elements. An unset variable once made a clean-up
// script match every mount of the machine; here an empty or short folder is an error, not a prefix.
package guard

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// RunDir says whether dir may serve as a run folder.
//
// The length limit is the kernel's: a unix socket path has 108 bytes and ours add up to 40.
func RunDir(dir string) error {
	switch {
	case dir == "":
		return fmt.Errorf("the run folder is empty")
	case !filepath.IsAbs(dir):
		return fmt.Errorf("the run folder %q is not absolute", dir)
	case filepath.Clean(dir) != dir:
		return fmt.Errorf("the run folder %q is not clean, want %q", dir, filepath.Clean(dir))
	case strings.Count(dir, "/") < 2:
		return fmt.Errorf("the run folder %q is a top folder of the machine", dir)
	case len(dir) > 64:
		return fmt.Errorf("the run folder %q is longer than 64 bytes, too long for its sockets", dir)
	case strings.ContainsAny(dir, " \t\n\"\\"):
		return fmt.Errorf("the run folder %q has a character that would need quoting", dir)
	}
	return nil
}

// Under says whether path lies strictly under dir, by name alone (no link is followed).
func Under(dir, path string) bool {
	if RunDir(dir) != nil || !filepath.IsAbs(path) {
		return false
	}
	clean := filepath.Clean(path)
	return strings.HasPrefix(clean, dir+"/")
}

// Mentions says whether a command line has an argument that names dir or something under it, alone
// or as a flag's value. Every process the tool starts has one; that is how it knows its own.
func Mentions(cmdline []string, dir string) bool {
	if RunDir(dir) != nil {
		return false
	}
	for _, arg := range cmdline {
		for _, value := range []string{arg, afterEquals(arg)} {
			if value == dir || strings.HasPrefix(value, dir+"/") {
				return true
			}
		}
	}
	return false
}

func afterEquals(arg string) string {
	_, value, _ := strings.Cut(arg, "=")
	return value
}

// RemoveAll deletes a run folder, unless something is still mounted in it as this process sees it.
func RemoveAll(dir string) error {
	if err := RunDir(dir); err != nil {
		return err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if at := mountUnder(string(mounts), dir); at != "" {
		return fmt.Errorf("not deleting %s: %s is a mount point", dir, at)
	}
	return os.RemoveAll(dir)
}

// mountUnder gives the first mount point at or under dir in the text of a mountinfo file.
func mountUnder(mountinfo, dir string) string {
	for line := range strings.Lines(mountinfo) {
		if fields := strings.Fields(line); len(fields) > 4 {
			if at := fields[4]; at == dir || Under(dir, at) {
				return at
			}
		}
	}
	return ""
}
