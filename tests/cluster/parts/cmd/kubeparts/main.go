// Command kubeparts holds every server of the test cluster in one executable.
//
// The servers share nearly all of their code, so one link step and one 145 MB file replace seven.
// The first argument, or else the name the file was called by (kubectl is a symbolic link to it),
// picks the server; the rest is that server's own command line.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	_ "time/tzdata" // CronJob time zones, without a zoneinfo folder on the machine

	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
)

// parts maps the first argument to a server; each returns the exit code.
var parts = map[string]func() int{
	"etcd":                    etcd,
	"kube-apiserver":          apiserver,
	"kube-controller-manager": controllerManager,
	"kube-scheduler":          scheduler,
	"kubelet":                 kubelet,
	"kube-proxy":              kubeProxy,
	"kubectl":                 kubectl,
}

func main() {
	name := filepath.Base(os.Args[0])
	run, ok := parts[name]
	if !ok && len(os.Args) > 1 {
		name = os.Args[1]
		if run, ok = parts[name]; ok {
			os.Args = append([]string{name}, os.Args[2:]...)
		}
	}
	if !ok {
		fmt.Fprintf(os.Stderr, "usage: kubeparts %s [ARGUMENT...]\n", strings.Join(names(), "|"))
		os.Exit(2)
	}
	os.Exit(run())
}

func names() []string {
	all := make([]string, 0, len(parts))
	for name := range parts {
		all = append(all, name)
	}
	sort.Strings(all)
	return all
}
