// Package render turns an instance into command lines and configuration files. It does no I/O, but for
// CNIFolder, which looks for a folder.
package render

import (
	"fmt"

	"smallfirst.dev/tests/cluster/internal/instance"
)

// Space says in which namespaces a component runs.
type Space int

const (
	// HostSpace is the machine's own network and mounts (control-plane and kwok variants).
	HostSpace Space = iota
	// NetSpace is the node's network with the machine's mounts.
	NetSpace
	// NodeSpace is the node's network and mounts: what mounts things for pods.
	NodeSpace
)

// Component is one process.
type Component struct {
	Name  string
	Space Space
	// Program is looked up in the cache folder, or in PATH when System is set.
	Program string
	System  bool
	Args    []string
	// Ready is an address that answers 200 when the component is; empty: it is ready when it runs.
	Ready string
}

// Components lists an instance's processes in the order of their start.
//
// Stages start together; a stage begins when the one before is ready.
func Components(in *instance.Instance) [][]Component {
	a := in.Addresses()
	space := HostSpace
	if in.Variant == instance.Full {
		space = NetSpace
	}
	first := []Component{etcd(in, a, space), apiserver(in, a, space)}
	second := []Component{controllerManager(in, a, space)}
	switch in.Variant {
	case instance.ControlPlane:
	case instance.Kwok:
		second = append(second, scheduler(in, a, space), kwok(in, a))
	case instance.Full:
		first = append(first, containerd(in))
		second = append(second, kubelet(in, a), kubeProxy(in, a), scheduler(in, a, space), coredns(in, a), metricsServer(in, a))
	}
	return [][]Component{first, second}
}

func etcd(in *instance.Instance, a instance.Addresses, space Space) Component {
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", a.Etcd), fmt.Sprintf("http://127.0.0.1:%d", a.EtcdPeer)
	health := fmt.Sprintf("http://%s:%d", a.Server, a.EtcdHealth)
	return Component{
		Name: "etcd", Space: space, Program: "kubeparts", Ready: health + "/health",
		Args: []string{
			"etcd", "--name=test", "--data-dir=" + in.Path("etcd"),
			"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=test=" + peer,
			"--listen-metrics-urls=" + health,
			// A test cluster outlives no power failure; every write would wait for the disk.
			"--unsafe-no-fsync",
			"--log-level=warn", "--auto-compaction-mode=periodic", "--auto-compaction-retention=10m",
		},
	}
}

func apiserver(in *instance.Instance, a instance.Addresses, space Space) Component {
	pki := func(file string) string { return in.Path("pki", file) }
	args := []string{
		"kube-apiserver",
		"--bind-address=" + a.Server, "--advertise-address=" + a.Server, fmt.Sprintf("--secure-port=%d", a.APIServer),
		fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", a.Etcd),
		"--service-cluster-ip-range=" + a.ServiceCIDR,
		"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
		"--client-ca-file=" + pki("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + pki("service-account.pub"),
		"--service-account-signing-key-file=" + pki("service-account.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true", "--profiling=false",
		// The aggregation layer: metrics.k8s.io, external.metrics.k8s.io.
		"--requestheader-client-ca-file=" + pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + pki("front-proxy-client.crt"), "--proxy-client-key-file=" + pki("front-proxy-client.key"),
		// One file that is never rotated: tests read it from the start. wipe deletes it.
		"--audit-policy-file=" + in.Path("conf", "audit-policy.yaml"), "--audit-log-path=" + in.Path("audit.log"),
		"--audit-log-maxsize=1000000", "--audit-log-maxage=0", "--audit-log-maxbackup=0",
	}
	if in.Variant == instance.Full {
		args = append(args,
			// Aggregated APIs are asked at their pods.
			"--enable-aggregator-routing=true",
			"--kubelet-client-certificate="+pki("apiserver-kubelet-client.crt"), "--kubelet-client-key="+pki("apiserver-kubelet-client.key"),
			"--kubelet-certificate-authority="+pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		)
	} else {
		// A loopback address can't be an endpoint of the kubernetes service. (Nor of any other: what is aggregated here is
		// a process of the machine, by a Service of type ExternalName.)
		args = append(args, "--endpoint-reconciler-type=none")
	}
	return Component{Name: "kube-apiserver", Space: space, Program: "kubeparts", Args: args, Ready: a.URL() + "/readyz"}
}

func controllerManager(in *instance.Instance, a instance.Addresses, space Space) Component {
	config := in.Path("conf", "kube-controller-manager.kubeconfig")
	pki := func(file string) string { return in.Path("pki", file) }
	return Component{
		Name: "kube-controller-manager", Space: space, Program: "kubeparts",
		Ready: fmt.Sprintf("https://%s:%d/healthz", a.Server, a.ControllerManager),
		Args: []string{
			"kube-controller-manager", "--kubeconfig=" + config,
			"--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
			"--bind-address=" + a.Server, fmt.Sprintf("--secure-port=%d", a.ControllerManager),
			"--tls-cert-file=" + pki("kube-controller-manager.crt"), "--tls-private-key-file=" + pki("kube-controller-manager.key"),
			"--leader-elect=false", "--use-service-account-credentials=true",
			"--root-ca-file=" + pki("ca.crt"), "--service-account-private-key-file=" + pki("service-account.key"),
			"--cluster-signing-cert-file=" + pki("ca.crt"), "--cluster-signing-key-file=" + pki("ca.key"),
			// With the default of 20 requests a second it needs 6 s to start.
			"--kube-api-qps=300", "--kube-api-burst=500",
			// Autoscaling in the time of a test, not of a day.
			"--horizontal-pod-autoscaler-sync-period=5s", "--horizontal-pod-autoscaler-downscale-stabilization=30s",
			"--horizontal-pod-autoscaler-cpu-initialization-period=30s", "--horizontal-pod-autoscaler-initial-readiness-delay=10s",
		},
	}
}

func scheduler(in *instance.Instance, a instance.Addresses, space Space) Component {
	config := in.Path("conf", "kube-scheduler.kubeconfig")
	return Component{
		Name: "kube-scheduler", Space: space, Program: "kubeparts",
		Ready: fmt.Sprintf("https://%s:%d/healthz", a.Server, a.Scheduler),
		Args: []string{
			"kube-scheduler", "--kubeconfig=" + config,
			"--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
			"--bind-address=" + a.Server, fmt.Sprintf("--secure-port=%d", a.Scheduler),
			"--tls-cert-file=" + in.Path("pki", "kube-scheduler.crt"), "--tls-private-key-file=" + in.Path("pki", "kube-scheduler.key"),
			"--leader-elect=false", "--kube-api-qps=300", "--kube-api-burst=500",
		},
	}
}

func kwok(in *instance.Instance, a instance.Addresses) Component {
	return Component{
		Name: "kwok", Program: "kwok", Ready: fmt.Sprintf("http://127.0.0.1:%d/healthz", a.Kwok),
		Args: []string{
			"--kubeconfig=" + in.Path("conf", "kwok.kubeconfig"), "--config=" + in.Path("conf", "kwok-stages.yaml"),
			"--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
			fmt.Sprintf("--server-address=127.0.0.1:%d", a.Kwok), "--node-lease-duration-seconds=40",
		},
	}
}
