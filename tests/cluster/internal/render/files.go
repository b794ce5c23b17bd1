package render

import (
	_ "embed"
	"strconv"
	"strings"

	"smallfirst.dev/tests/cluster/internal/instance"
	"smallfirst.dev/tests/cluster/internal/pki"
)

// PauseImage holds every pod's namespaces.
const PauseImage = "smallfirst.local/pause:dev"

var (
	//go:embed files/audit-policy.yaml
	auditPolicy string
	//go:embed files/containerd.toml
	containerdConfig string
	//go:embed files/cni.conflist
	cniConfig string
	//go:embed files/kubelet.yaml
	kubeletConfig string
	//go:embed files/kube-proxy.yaml
	kubeProxyConfig string
	//go:embed files/Corefile
	corefile string
	//go:embed files/addons.yaml
	addons string
)

// Files gives the configuration files of an instance: path relative to the run folder -> text.
//
// The templates name values as @NAME@; what stays unreplaced is a mistake that a test catches.
func Files(in *instance.Instance, caBundle string) map[string]string {
	a := in.Addresses()
	fill := strings.NewReplacer(
		"@RUN@", in.Dir, "@NAME@", in.Name(), "@SLOT@", strconv.Itoa(in.Slot), "@NODE@", pki.NodeName,
		"@SERVER@", a.Server, "@DNS@", a.DNS, "@PODS@", a.PodCIDR, "@PAUSE@", PauseImage,
		"@CONTEXT@", pki.Context, "@SOCKET@", ContainerdSocket(in), "@CA@", caBundle, "@CNI@", CNIFolder(),
	)
	files := map[string]string{"conf/audit-policy.yaml": auditPolicy}
	if in.Variant == instance.Full {
		for name, text := range map[string]string{
			"conf/containerd.toml": containerdConfig, "conf/cni/10-pods.conflist": cniConfig,
			"conf/kubelet.yaml": kubeletConfig, "conf/kube-proxy.yaml": kubeProxyConfig,
			"conf/Corefile": corefile, "conf/addons.yaml": addons, "conf/resolv.conf": "",
		} {
			files[name] = fill.Replace(text)
		}
	}
	return files
}
