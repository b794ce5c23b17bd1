package instance

import "fmt"

// Loopback ports start below the kernel's ephemeral range (32768), so no client socket takes one.
const (
	loopbackBase = 21000
	loopbackStep = 20
)

// Addresses are an instance's own: ranges of a full cluster are routed on this machine only and
// become unreachable when it is down.
type Addresses struct {
	// Server is where the control plane listens: the node's address, or loopback.
	Server string
	// Host is the root namespace's end of the veth pair; empty without a node.
	Host string
	// NodeCIDR, PodCIDR and ServiceCIDR are the three ranges of a full cluster.
	NodeCIDR, PodCIDR, ServiceCIDR string
	// Kubernetes and DNS are the fixed service addresses.
	Kubernetes, DNS string

	APIServer, Etcd, EtcdPeer, EtcdHealth, ControllerManager, Scheduler, Kwok int
}

// Addresses derives all addresses from the slot.
func (in *Instance) Addresses() Addresses {
	a := Addresses{
		NodeCIDR:    fmt.Sprintf("10.99.%d.0/24", in.Slot),
		PodCIDR:     fmt.Sprintf("10.100.%d.0/24", in.Slot),
		ServiceCIDR: fmt.Sprintf("10.101.%d.0/24", in.Slot),
		Kubernetes:  fmt.Sprintf("10.101.%d.1", in.Slot),
		DNS:         fmt.Sprintf("10.101.%d.10", in.Slot),
	}
	if in.Variant == Full {
		a.Server = fmt.Sprintf("10.99.%d.2", in.Slot)
		a.Host = fmt.Sprintf("10.99.%d.1", in.Slot)
		a.APIServer, a.Etcd, a.EtcdPeer, a.EtcdHealth = 6443, 2379, 2380, 2381
		a.ControllerManager, a.Scheduler = 10257, 10259
		return a
	}
	// Without a node nothing is routed; scale tests need more Services than a node would ever serve.
	a.ServiceCIDR = fmt.Sprintf("10.102.%d.0/22", 4*in.Slot)
	a.Kubernetes = fmt.Sprintf("10.102.%d.1", 4*in.Slot)
	a.DNS = fmt.Sprintf("10.102.%d.10", 4*in.Slot)
	base := loopbackBase + in.Slot*loopbackStep
	a.Server = "127.0.0.1"
	a.APIServer, a.Etcd, a.EtcdPeer, a.EtcdHealth = base, base+1, base+2, base+3
	a.ControllerManager, a.Scheduler, a.Kwok = base+4, base+5, base+6
	return a
}

// URL is the apiserver's.
func (a Addresses) URL() string { return fmt.Sprintf("https://%s:%d", a.Server, a.APIServer) }
