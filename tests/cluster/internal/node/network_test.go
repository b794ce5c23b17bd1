package node

import (
	"slices"
	"strings"
	"testing"

	"smallfirst.dev/tests/cluster/internal/instance"
)

var pear = &instance.Instance{Dir: "/run/smallfirst/pear", Slot: 5, Variant: instance.Full}

func TestEveryRangeIsFenced(t *testing.T) {
	a := pear.Addresses()
	for _, cidr := range []string{a.NodeCIDR, a.PodCIDR, a.ServiceCIDR} {
		if !slices.ContainsFunc(FenceCommands(a), func(argv []string) bool {
			return slices.Contains(argv, "unreachable") && slices.Contains(argv, cidr)
		}) {
			t.Errorf("%s could leave the machine", cidr)
		}
	}
}

func TestTheNodeHasNoDefaultRoute(t *testing.T) {
	for _, argv := range LinkCommands(pear, 4321) {
		if slices.Contains(argv, "default") || strings.Contains(strings.Join(argv, " "), "0.0.0.0") {
			t.Errorf("%v", argv)
		}
	}
}

func TestOnlyRecordedSysctlsAreRestored(t *testing.T) {
	if known("kernel/core_pattern") || !known("vm/overcommit_memory") {
		t.Error("known")
	}
}
