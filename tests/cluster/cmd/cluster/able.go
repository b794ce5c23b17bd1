package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"smallfirst.dev/tests/cluster/internal/instance"
	"smallfirst.dev/tests/cluster/internal/render"
)

// needed maps each program that a node calls to the Debian package that has it; see
// debian-packages.txt.
var needed = [][2]string{
	{"containerd", "containerd"}, {"ctr", "containerd"}, {"containerd-shim-runc-v2", "containerd"}, {"runc", "runc"},
	{"ip", "iproute2"}, {"nft", "nftables"}, {"iptables", "iptables"}, {"nsenter", "util-linux"}, {"unshare", "util-linux"},
}

// able says, as a reason to skip, what this machine lacks for a variant.
func able(variant instance.Variant) error {
	if variant != instance.Full {
		return nil
	}
	if os.Getuid() != 0 {
		return skipped{"a cluster with a node needs root (the variants control-plane and kwok do not)"}
	}
	var missing []string
	for _, n := range needed {
		if _, err := exec.LookPath(n[0]); err != nil {
			missing = append(missing, fmt.Sprintf("%s (Debian package %s)", n[0], n[1]))
		}
	}
	if render.CNIFolder() == "" {
		missing = append(missing, "the CNI plugin ptp (Debian package containernetworking-plugins)")
	}
	if len(missing) > 0 {
		return skipped{"these are not installed: " + strings.Join(missing, ", ")}
	}
	if out, err := exec.Command("unshare", "--net", "--mount", "true").CombinedOutput(); err != nil {
		return skipped{"this machine allows no namespaces: " + strings.TrimSpace(string(out))}
	}
	return nil
}
