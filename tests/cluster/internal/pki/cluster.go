package pki

import (
	"errors"
	"os"

	"smallfirst.dev/tests/cluster/internal/instance"
)

// NodeName is the one node of a full cluster.
const NodeName = "smallfirst-node"

// Ensure makes every certificate and kubeconfig of an instance, unless a complete set is there.
func Ensure(in *instance.Instance) error {
	done := in.Path("pki", "complete")
	if _, err := os.Stat(done); err == nil {
		return nil
	}
	dir, a := in.Path("pki"), in.Addresses()
	ca, err := NewAuthority(dir, "ca")
	if err != nil {
		return err
	}
	front, err := NewAuthority(dir, "front-proxy-ca")
	if err != nil {
		return err
	}
	// Only its key is used: service account tokens are signed with it.
	if _, err := NewAuthority(dir, "service-account"); err != nil {
		return err
	}
	local := []string{a.Server, "127.0.0.1", "localhost"}
	apiserver := append(local, a.Kubernetes, "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
	for file, s := range map[string]Subject{
		"apiserver":                {Name: "kube-apiserver", Hosts: apiserver},
		"apiserver-kubelet-client": {Name: "kube-apiserver-kubelet-client", Group: "system:masters"},
		"admin":                    {Name: "smallfirst-admin", Group: "system:masters"},
		"kube-controller-manager":  {Name: "system:kube-controller-manager", Hosts: local},
		"kube-scheduler":           {Name: "system:kube-scheduler", Hosts: local},
		"kube-proxy":               {Name: "system:kube-proxy"},
		"kubelet":                  {Name: "system:node:" + NodeName, Group: "system:nodes", Hosts: append(local, NodeName)},
		"coredns":                  {Name: "system:coredns"},
		"metrics-server":           {Name: "system:metrics-server", Hosts: append(local, "metrics-server.kube-system.svc")},
		"kwok":                     {Name: "kwok", Group: "system:masters"},
	} {
		if err := ca.Issue(dir, file, s); err != nil {
			return err
		}
	}
	if err := front.Issue(dir, "front-proxy-client", Subject{Name: "front-proxy-client"}); err != nil {
		return err
	}
	err = WriteKubeconfig(in.Kubeconfig(), dir, "admin", a.URL())
	for _, file := range []string{"kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "coredns", "metrics-server", "kwok"} {
		err = errors.Join(err, WriteKubeconfig(in.Path("conf", file+".kubeconfig"), dir, file, a.URL()))
	}
	if err != nil {
		return err
	}
	return os.WriteFile(done, nil, 0o644)
}
