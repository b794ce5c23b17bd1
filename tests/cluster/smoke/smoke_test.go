// Package smoke starts a full cluster of its own and uses it as a person would.
//
// It needs root and minutes on a machine without cached programs, so it runs when asked:
// SMALLFIRST_SMOKE=1 go test ./smoke
package smoke

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSmokeFullCluster(t *testing.T) {
	if os.Getenv("SMALLFIRST_SMOKE") == "" {
		t.Skip("set SMALLFIRST_SMOKE=1 to start a cluster")
	}
	dir := "/run/smallfirst/smoke"
	tool := tool{t, dir}
	if code := tool.try("up"); code == 77 {
		t.Skip("this machine can't run a full cluster")
	} else if code != 0 {
		t.Fatalf("up: exit code %d", code)
	}
	t.Cleanup(func() { tool.try("wipe") })

	programs := strings.TrimSpace(tool.run("build"))
	k := kubectl{t, filepath.Join(programs, "kubectl"), strings.TrimSpace(tool.run("kubeconfig"))}
	tool.run("image", "import", packProbe(t))

	// The namespace enforces the restricted Pod Security standard.
	k.run("apply", "-f", "pod.yaml")
	k.run("-n", "orchard", "rollout", "status", "deployment/tree", "--timeout=60s")
	if got := k.run("-n", "orchard", "logs", "deployment/tree"); !strings.Contains(got, "probe serves") {
		t.Errorf("logs: %q", got)
	}
	// exec, DNS and the service from a pod.
	k.until("pear", "-n", "orchard", "exec", "deployment/tree", "--", "/probe", "get", "http://basket.orchard.svc.cluster.local/")
	k.until("pear", "-n", "orchard", "exec", "deployment/tree", "--", "/probe", "get", "http://basket/")
	// The service and a pod from the machine itself.
	get(t, "http://"+k.run("-n", "orchard", "get", "service", "basket", "-o", "jsonpath={.spec.clusterIP}")+"/")
	get(t, "http://"+k.run("-n", "orchard", "get", "pod", "-l", "fruit=pear", "-o", "jsonpath={.items[0].status.podIP}")+":8080/")
	// The aggregation layer and metrics-server.
	k.until("tree-", "-n", "orchard", "top", "pods")
	k.until("smallfirst-node", "top", "nodes")
	if text, err := os.ReadFile(filepath.Join(dir, "audit.log")); err != nil || !bytes.Contains(text, []byte(`"resource":"deployments"`)) {
		t.Errorf("audit log: %v, %d bytes", err, len(text))
	}

	// Idempotent, and the same cluster after down and up.
	again := time.Now()
	tool.run("up")
	if took := time.Since(again); took > 15*time.Second {
		t.Errorf("up of a running cluster took %s", took)
	}
	tool.run("down")
	left(t, dir)
	tool.run("up")
	k.until("pear", "-n", "orchard", "exec", "deployment/tree", "--", "/probe", "get", "http://basket/")
	tool.run("wipe")
	left(t, dir)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there", dir)
	}
}

// left fails for every process, mount or link that a stopped cluster left behind.
func left(t *testing.T, dir string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(dir)) {
		t.Errorf("a mount under %s is left", dir)
	}
	if name := cgroupOf(t, dir); name != "" {
		if groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + name); len(groups) > 0 {
			t.Errorf("cgroups are left: %v", groups)
		}
	}
	entries, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, entry := range entries {
		if text, _ := os.ReadFile(entry); bytes.Contains(text, []byte(dir+"/")) {
			t.Errorf("%s is left: %s", entry, bytes.ReplaceAll(text, []byte{0}, []byte{' '}))
		}
	}
}

// cgroupOf gives the instance's name, which is its cgroups' too; empty after wipe.
func cgroupOf(t *testing.T, dir string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "instance.json"))
	if err != nil {
		return ""
	}
	var in struct{ Slot *int }
	if err := json.Unmarshal(raw, &in); err != nil || in.Slot == nil {
		t.Fatalf("instance.json: %v", err)
	}
	return fmt.Sprintf("smallfirst-%d", *in.Slot)
}

func packProbe(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	program, archive := filepath.Join(folder, "probe"), filepath.Join(folder, "probe.tar")
	build := exec.Command("go", "build", "-o", program, "../cmd/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	output(t, build)
	output(t, exec.Command("../run", "image", "pack", "-t", "smallfirst.local/probe:dev", "-o", archive, program+":/probe"))
	return archive
}

func get(t *testing.T, url string) {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{Proxy: nil}}
	response, err := client.Get(url)
	if err != nil {
		t.Error(err)
		return
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "pear\n" {
		t.Errorf("%s: %q, %v", url, body, err)
	}
}
