// Package node makes the world that a full cluster's node lives in: a network namespace with a veth
// pair to the machine, a mount namespace, cgroups.
//
// Both namespaces belong to one process, the holder, and to whatever was started in them. When all
// of these have ended the kernel takes back every mount, link and route: nothing is unmounted by
// hand on the machine, so nothing wrong can be.
package node

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"smallfirst.dev/tests/cluster/internal/instance"
	"smallfirst.dev/tests/cluster/internal/proc"
)

// hidden are machine folders with fixed names in containerd, its CNI library and the kubelet; the
// node sees its own instead.
var hidden = map[string]string{
	"/var/lib/cni":        "hidden/cni",
	"/run/containerd":     "hidden/containerd",
	"/var/log/containers": "hidden/containers",
}

// StartHolder starts `cluster hold RUN` in new namespaces and waits until it has set them up.
func StartHolder(in *instance.Instance) (*proc.Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ready := in.Path("hidden", "ready")
	if err := os.Remove(ready); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	// Unshareflags with CLONE_NEWNS makes Go turn every mount private first.
	attr := syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	p, err := proc.Start(in, "holder", os.Environ(), []string{self, "hold", in.Dir}, attr)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(ready); err == nil {
			return p, nil
		}
		if !p.Alive() {
			break
		}
	}
	return nil, fmt.Errorf("the node's namespaces could not be set up: %s", proc.Tail(in, "holder", 3))
}

// Hold is the holder's main.
func Hold(in *instance.Instance) error {
	for target, own := range hidden {
		source := in.Path(own)
		if err := os.MkdirAll(source, 0o755); err != nil {
			return err
		}
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(source, target, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", target, err)
		}
	}
	// Mount propagation into pods needs shared mounts; shared with nobody outside.
	if err := syscall.Mount("", "/", "", syscall.MS_SHARED|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(in.Path("hidden", "ready"), []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	return nil
}

// Enter is the command prefix that starts something in the holder's namespaces.
//
// nsenter execs without a fork, so the pid stays the component's own. `ip netns exec` would remount
// /sys and hide the cgroups.
func Enter(holder *proc.Process, mounts bool) []string {
	argv := []string{"nsenter", "--target", strconv.Itoa(holder.Pid), "--net"}
	if mounts {
		argv = append(argv, "--mount")
	}
	return append(argv, "--")
}

// sysctls are what the kubelet writes machine-wide.
var sysctls = []string{"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"}

// RecordSysctls keeps the machine's values as they were before the first full cluster.
func RecordSysctls() error {
	path := sysctlFile()
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	var text strings.Builder
	for _, name := range sysctls {
		if value, err := os.ReadFile("/proc/sys/" + name); err == nil {
			fmt.Fprintf(&text, "%s %s\n", name, strings.TrimSpace(string(value)))
		}
	}
	return os.WriteFile(path, []byte(text.String()), 0o644)
}

// RestoreSysctls puts them back; called when the last full cluster goes down.
func RestoreSysctls() error {
	raw, err := os.ReadFile(sysctlFile())
	if os.IsNotExist(err) {
		return nil
	} else if err != nil {
		return err
	}
	for line := range strings.Lines(string(raw)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || !known(name) {
			return fmt.Errorf("%s: unexpected line %q", sysctlFile(), line)
		}
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0o644); err != nil {
			return err
		}
	}
	return os.Remove(sysctlFile())
}

func known(name string) bool {
	for _, s := range sysctls {
		if s == name {
			return true
		}
	}
	return false
}

func sysctlFile() string { return instance.MachineState() + "/sysctls" }
