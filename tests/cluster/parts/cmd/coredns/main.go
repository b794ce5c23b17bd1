// Command coredns is CoreDNS with the few plugins that cluster DNS needs.
//
// Upstream's main pulls in every plugin, among them the client libraries of four clouds; leaving
// them out makes the build several times shorter. Which plugins run, and in which order, is
// dnsserver.Directives; an import only makes a plugin available.
package main

import (
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"

	"github.com/coredns/coredns/coremain"
)

func main() { coremain.Run() }
