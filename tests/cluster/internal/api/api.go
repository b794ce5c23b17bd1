// Package api asks the apiserver and the components whether they are ready, with the standard
// library alone: a client library would cost the tool minutes of compilation.
package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"smallfirst.dev/tests/cluster/internal/instance"
)

// Client talks as the cluster's administrator.
type Client struct {
	http *http.Client
	base string
}

// New reads the certificates from the run folder.
func New(in *instance.Instance) (*Client, error) {
	ca, err := os.ReadFile(in.Path("pki", "ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	pair, err := tls.LoadX509KeyPair(in.Path("pki", "admin.crt"), in.Path("pki", "admin.key"))
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		// A cluster on this machine is never behind a proxy.
		Proxy:           nil,
		TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	}
	return &Client{&http.Client{Transport: transport, Timeout: 3 * time.Second}, in.Addresses().URL()}, nil
}

// Probe says why an address isn't ready: an http(s) URL that must answer 200, or unix:PATH.
func (c *Client) Probe(address string) error {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		conn, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			conn.Close()
		}
		return err
	}
	_, err := c.do(http.MethodGet, address, nil)
	return err
}

// Get reads an API path into out; out may be nil.
func (c *Client) Get(path string, out any) error {
	body, err := c.do(http.MethodGet, c.base+path, nil)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(body, out)
}

// Apply is a server-side apply of one object in YAML or JSON.
func (c *Client) Apply(path, object string) error {
	_, err := c.do(http.MethodPatch, c.base+path+"?fieldManager=smallfirst-cluster&force=true", []byte(object))
	return err
}

func (c *Client) do(method, url string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(context.Background(), method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "smallfirst-cluster")
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/apply-patch+yaml")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= 300 {
		return nil, fmt.Errorf("%s %s: %s: %s", method, url, response.Status, bytes.TrimSpace(text))
	}
	return text, nil
}

// NodeReady says why no node has reported itself Ready since a moment.
//
// etcd keeps the last report across down and up, so an old one counts for nothing.
func (c *Client) NodeReady(since time.Time) error {
	var nodes struct {
		Items []struct {
			Status struct {
				Conditions []struct {
					Type, Status, Message string
					LastHeartbeatTime     time.Time
				}
			}
		}
	}
	if err := c.Get("/api/v1/nodes", &nodes); err != nil {
		return err
	}
	for _, node := range nodes.Items {
		for _, condition := range node.Status.Conditions {
			if condition.Type == "Ready" {
				if condition.Status == "True" && condition.LastHeartbeatTime.After(since) {
					return nil
				}
				return fmt.Errorf("node not ready: %s", condition.Message)
			}
		}
	}
	return fmt.Errorf("no node has registered")
}

// MetricsReady says why there are no metrics of nodes yet.
func (c *Client) MetricsReady() error {
	var list struct{ Items []struct{} }
	if err := c.Get("/apis/metrics.k8s.io/v1beta1/nodes", &list); err != nil {
		return err
	}
	if len(list.Items) == 0 {
		return fmt.Errorf("no metrics yet")
	}
	return nil
}
