package main

import (
	"fmt"
	"path/filepath"

	"smallfirst.dev/tests/cluster/internal/instance"
)

// addons loads the pause image and applies the objects of CoreDNS and metrics-server: both need
// their permissions before they start.
func (s *starter) addons() error {
	if s.in.Variant != instance.Full {
		return nil
	}
	if err := importImages(s.in, []string{filepath.Join(s.builder.Dir, "pause.tar")}); err != nil {
		return err
	}
	return s.wait("add-ons", func() error {
		return s.kubectl("apply", "--server-side", "--force-conflicts", "-f", s.in.Path("conf", "addons.yaml"))
	})
}

// objects makes the fake nodes of kwok, and waits until the cluster can be used.
func (s *starter) objects(kwokNodes int) error {
	switch s.in.Variant {
	case instance.Full:
		if err := s.wait("node", func() error { return s.client.NodeReady(s.nodeSince) }); err != nil {
			return err
		}
	case instance.Kwok:
		for i := range kwokNodes {
			name := fmt.Sprintf("kwok-%d", i)
			object := fmt.Sprintf(`{"apiVersion":"v1","kind":"Node","metadata":{"name":%q,`+
				`"annotations":{"kwok.x-k8s.io/node":"fake"},"labels":{"type":"kwok","kubernetes.io/hostname":%q,`+
				`"kubernetes.io/os":"linux","kubernetes.io/arch":"amd64"}}}`, name, name)
			if err := s.client.Apply("/api/v1/nodes/"+name, object); err != nil {
				return err
			}
		}
		if kwokNodes > 0 {
			if err := s.wait("fake nodes", func() error { return s.client.NodeReady(s.nodeSince) }); err != nil {
				return err
			}
		}
	case instance.ControlPlane:
	}
	// Until its service account is there a namespace refuses pods.
	account := func() error { return s.client.Get("/api/v1/namespaces/default/serviceaccounts/default", nil) }
	if err := s.wait("default service account", account); err != nil {
		return err
	}
	if s.in.Variant != instance.Full {
		return nil
	}
	return s.wait("metrics API", func() error { return s.client.Get("/apis/metrics.k8s.io/v1beta1", nil) })
}
