package render

import (
	"fmt"

	"smallfirst.dev/tests/cluster/internal/instance"
	"smallfirst.dev/tests/cluster/internal/pki"
)

// ContainerdSocket is where containerd of a full cluster listens.
func ContainerdSocket(in *instance.Instance) string { return in.Path("containerd", "containerd.sock") }

func containerd(in *instance.Instance) Component {
	return Component{
		Name: "containerd", Space: NodeSpace, Program: "containerd", System: true,
		Ready: "unix:" + ContainerdSocket(in),
		Args:  []string{"--config", in.Path("conf", "containerd.toml")},
	}
}

func kubelet(in *instance.Instance, a instance.Addresses) Component {
	return Component{
		Name: "kubelet", Space: NodeSpace, Program: "kubeparts", Ready: fmt.Sprintf("http://%s:10248/healthz", a.Server),
		Args: []string{
			"kubelet", "--config=" + in.Path("conf", "kubelet.yaml"), "--kubeconfig=" + in.Path("conf", "kubelet.kubeconfig"),
			"--root-dir=" + in.Path("kubelet"), "--hostname-override=" + pki.NodeName, "--node-ip=" + a.Server,
		},
	}
}

func kubeProxy(in *instance.Instance, a instance.Addresses) Component {
	return Component{
		Name: "kube-proxy", Space: NodeSpace, Program: "kubeparts", Ready: fmt.Sprintf("http://%s:10256/livez", a.Server),
		Args: []string{"kube-proxy", "--config=" + in.Path("conf", "kube-proxy.yaml")},
	}
}

func coredns(in *instance.Instance, a instance.Addresses) Component {
	return Component{
		Name: "coredns", Space: NetSpace, Program: "coredns", Ready: fmt.Sprintf("http://%s:8181/ready", a.Server),
		Args: []string{"-conf", in.Path("conf", "Corefile")},
	}
}

func metricsServer(in *instance.Instance, a instance.Addresses) Component {
	config := in.Path("conf", "metrics-server.kubeconfig")
	return Component{
		Name: "metrics-server", Space: NetSpace, Program: "metrics-server",
		Args: []string{
			"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
			"--bind-address=" + a.Server, "--secure-port=4443",
			"--tls-cert-file=" + in.Path("pki", "metrics-server.crt"), "--tls-private-key-file=" + in.Path("pki", "metrics-server.key"),
			"--kubelet-certificate-authority=" + in.Path("pki", "ca.crt"), "--kubelet-preferred-address-types=InternalIP",
			// The resolution must exceed the kubelet's time-out.
			"--metric-resolution=10s", "--kubelet-request-timeout=5s",
		},
	}
}
