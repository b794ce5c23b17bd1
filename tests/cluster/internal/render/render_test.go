package render

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"smallfirst.dev/tests/cluster/internal/guard"
	"smallfirst.dev/tests/cluster/internal/instance"
)

func of(v instance.Variant) *instance.Instance {
	return &instance.Instance{Dir: "/run/smallfirst/orchard", Slot: 7, Variant: v}
}

func TestNoPlaceholderIsLeft(t *testing.T) {
	for name, text := range Files(of(instance.Full), "Y2E=") {
		if left := regexp.MustCompile(`@[A-Z]+@`).FindString(text); left != "" {
			t.Errorf("%s: %s", name, left)
		}
	}
}

func TestEveryComponentNamesTheRunFolder(t *testing.T) {
	// Otherwise down would not know it for its own.
	for _, v := range []instance.Variant{instance.Full, instance.ControlPlane, instance.Kwok} {
		in := of(v)
		for _, stage := range Components(in) {
			for _, c := range stage {
				if !guard.Mentions(c.Args, in.Dir) {
					t.Errorf("%s of %s does not", c.Name, v)
				}
			}
		}
	}
}

func TestOnlyAFullClusterLeavesLoopback(t *testing.T) {
	for _, v := range []instance.Variant{instance.ControlPlane, instance.Kwok} {
		for _, stage := range Components(of(v)) {
			for _, c := range stage {
				if c.Space != HostSpace {
					t.Errorf("%s of %s wants a namespace", c.Name, v)
				}
				if !strings.Contains(c.Ready, "127.0.0.1") {
					t.Errorf("%s of %s listens on %s", c.Name, v, c.Ready)
				}
			}
		}
	}
}

func TestInstancesShareNoPort(t *testing.T) {
	seen := map[int]int{}
	for slot := range instance.Slots {
		a := (&instance.Instance{Dir: "/run/smallfirst/orchard", Slot: slot, Variant: instance.Kwok}).Addresses()
		for _, port := range []int{a.APIServer, a.Etcd, a.EtcdPeer, a.EtcdHealth, a.ControllerManager, a.Scheduler, a.Kwok} {
			if other, taken := seen[port]; taken {
				t.Fatalf("slots %d and %d share port %d", other, slot, port)
			}
			if port >= 32768 {
				t.Errorf("port %d is ephemeral", port)
			}
			seen[port] = slot
		}
	}
}

func TestCNIConfigIsJSON(t *testing.T) {
	var out map[string]any
	if err := json.Unmarshal([]byte(Files(of(instance.Full), "")["conf/cni/10-pods.conflist"]), &out); err != nil {
		t.Fatal(err)
	}
}
