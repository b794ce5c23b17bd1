package node

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"smallfirst.dev/tests/cluster/internal/instance"
	"smallfirst.dev/tests/cluster/internal/proc"
)

// unreachableMetric loses against every route that the veth pair brings.
const unreachableMetric = "4000"

// Routes are `ip` commands; kept apart from their execution so that a test can read them.

// FenceCommands keep the three ranges on this machine whenever the node is not there: from before
// the veth pair comes until long after it went. Without them a client that still holds the
// kubeconfig would send packets to the machine's default route.
func FenceCommands(a instance.Addresses) [][]string {
	var all [][]string
	for _, cidr := range []string{a.NodeCIDR, a.PodCIDR, a.ServiceCIDR} {
		all = append(all, []string{"ip", "route", "replace", "unreachable", cidr, "metric", unreachableMetric})
	}
	return all
}

// LinkCommands connect the node of the holder process with the machine.
func LinkCommands(in *instance.Instance, holder int) [][]string {
	a, outer, pid := in.Addresses(), link(in), strconv.Itoa(holder)
	inside := func(args ...string) []string {
		return append([]string{"nsenter", "--target", pid, "--net", "--"}, args...)
	}
	return [][]string{
		{"ip", "link", "add", outer, "type", "veth", "peer", "name", "node0", "netns", pid},
		{"ip", "address", "add", a.Host + "/24", "dev", outer},
		{"ip", "link", "set", outer, "up"},
		inside("ip", "link", "set", "lo", "up"),
		inside("ip", "address", "add", a.Server+"/24", "dev", "node0"),
		inside("ip", "link", "set", "node0", "up"),
		// A service address needs some route before kube-proxy's rules can rewrite it. The node has
		// no default route: what is not this cluster's is unreachable.
		inside("ip", "route", "add", a.ServiceCIDR, "dev", "node0", "src", a.Server),
		{"ip", "route", "add", a.PodCIDR, "via", a.Server},
		{"ip", "route", "add", a.ServiceCIDR, "via", a.Server},
	}
}

// Connect fences the ranges and links the node.
func Connect(in *instance.Instance, holder *proc.Process) error {
	for _, argv := range append(FenceCommands(in.Addresses()), LinkCommands(in, holder.Pid)...) {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// Disconnect removes our end of the pair at once, where the kernel would take a moment.
func Disconnect(in *instance.Instance) { _ = exec.Command("ip", "link", "delete", link(in)).Run() }

func link(in *instance.Instance) string { return "smallfirst" + strconv.Itoa(in.Slot) }
