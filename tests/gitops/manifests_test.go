package gitops

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/yannh/kubeconform/pkg/validator"
	"sigs.k8s.io/yaml"
)

const root = "../.."

// Options of the chart, each row one rendering of it. Every value of values.yaml is in some row.
var options = []string{
	"",
	"replicas=2",
	"watchNamespace=ai",
	"image.repository=registry.example/sf,image.tag=v9,image.pullPolicy=Always",
	"resources.requests.cpu=1,resources.requests.memory=1Gi,resources.limits.memory=2Gi",
	"log=debug",
	"nodeSelector.disk=fast,tolerations[0].key=a,tolerations[0].operator=Exists",
	"metricsApi.enabled=true",
	"scaler.enabled=true,scaling.autoscaler=KEDA",
	"metrics.service.enabled=true",
	"metrics.podMonitor.enabled=true,metrics.podMonitor.labels.a=b,metrics.podMonitor.interval=1m",
	"metrics.serviceMonitor.enabled=true,metrics.serviceMonitor.labels.a=b,metrics.serviceMonitor.interval=1m",
	"metrics.rules.enabled=true,metrics.rules.labels.a=b",
	"metrics.dashboard.enabled=true,metrics.dashboard.labels.grafana_dashboard=here",
}

// Runs a program of the cluster tool's; where it is missing, the test says so.
func output(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	command := exec.Command(name, args...)
	command.Dir = root
	var said bytes.Buffer
	command.Stderr = &said
	text, err := command.Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skipf("skipped, because %s can't be run: %v", name, err)
	}
	if err != nil {
		t.Fatalf("%s %s: %v %s", name, strings.Join(args, " "), err, said.String())
	}
	return text
}

// Every object of a stream must be right.
func check(t *testing.T, conform validator.Validator, name string, text []byte) {
	t.Helper()
	found := 0
	for _, result := range conform.Validate(name, io.NopCloser(bytes.NewReader(text))) {
		switch result.Status {
		case validator.Empty:
		case validator.Valid:
			found++
		default:
			signature, _ := result.Resource.Signature()
			t.Errorf("%s: %s %s: %v", name, signature.Kind, signature.Name, result.Err)
		}
	}
	if found == 0 {
		t.Errorf("%s: no object", name)
	}
}

func TestManifestsConform(t *testing.T) {
	conform := conform(t)
	t.Run("charts", func(t *testing.T) {
		check(t, conform, "smallfirst-crds", output(t, "helm", "template", "x", "charts/smallfirst-crds"))
		for _, option := range append(options, strings.Join(options[1:], ",")) {
			text := output(t, "helm", "template", "smallfirst", "charts/smallfirst", "--namespace", "smallfirst-system", "--set", option)
			check(t, conform, option, text)
		}
	})
	t.Run("bases", func(t *testing.T) {
		for _, folder := range folders(t) {
			check(t, conform, folder, output(t, "kubectl", "kustomize", folder))
		}
	})
	t.Run("files", func(t *testing.T) {
		for _, pattern := range []string{"deploy/samples/*.yaml", "deploy/flux/*.yaml"} {
			files, err := filepath.Glob(filepath.Join(root, pattern))
			if err != nil || len(files) == 0 {
				t.Errorf("%s: %v", pattern, err)
			}
			for _, file := range files {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				check(t, conform, file, text)
			}
		}
	})
	t.Run("children", func(t *testing.T) {
		files, err := filepath.Glob(filepath.Join(root, "tests/golden/*/plan.yaml"))
		if err != nil || len(files) == 0 {
			t.Errorf("no golden plans: %v", err)
		}
		for _, file := range files {
			if text := children(t, file); len(text) > 0 {
				check(t, conform, file, text)
			}
		}
	})
}

// A checker that takes everything would find nothing: what is wrong is seen.
func TestWhatIsWrongDoesNotConform(t *testing.T) {
	conform := conform(t)
	for name, text := range map[string]string{
		"an unknown field":       "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {prots: []}}",
		"a wrong type":           "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {replicas: two}}",
		"metadata":               "{apiVersion: smallfirst.dev/v1alpha1, kind: ModelTier, metadata: {nmae: a}, spec: {}}",
		"a field of ours":        "{apiVersion: smallfirst.dev/v1alpha1, kind: EscalationPath, metadata: {name: a}, spec: {owner: o, stesp: []}}",
		"a kind that nobody has": "{apiVersion: v1, kind: Servcie, metadata: {name: a}}",
		"a field of Prometheus":  "{apiVersion: monitoring.coreos.com/v1, kind: PodMonitor, metadata: {name: a}, spec: {selecter: {}}}",
		"a field of Flux":        "{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {name: a}, spec: {intervall: 1m}}",
	} {
		for _, result := range conform.Validate(name, io.NopCloser(strings.NewReader(text))) {
			if result.Status == validator.Valid || result.Status == validator.Skipped {
				t.Errorf("%s was taken", name)
			}
		}
	}
}

// Every value has a row: values.yaml and the rows are read side by side.
func TestEveryValueIsRendered(t *testing.T) {
	var values map[string]any
	read(t, filepath.Join(root, "charts/smallfirst/values.yaml"), &values)
	for _, path := range leaves("", values) {
		if !strings.Contains(","+strings.Join(options, ","), ","+path) {
			t.Errorf("no row sets %s", path)
		}
	}
}

func leaves(path string, value any) []string {
	fields, ok := value.(map[string]any)
	if !ok || len(fields) == 0 {
		return []string{path}
	}
	var found []string
	for name, field := range fields {
		found = append(found, leaves(strings.TrimPrefix(path+"."+name, "."), field)...)
	}
	return found
}

// Folders under deploy/ that kustomize builds.
func folders(t *testing.T) []string {
	t.Helper()
	var found []string
	walk := func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Name() == "kustomization.yaml" {
			folder, err := filepath.Rel(root, filepath.Dir(path))
			found = append(found, folder)
			return err
		}
		return err
	}
	if err := filepath.WalkDir(filepath.Join(root, "deploy"), walk); err != nil || len(found) == 0 {
		t.Fatalf("%v %v", found, err)
	}
	return found
}

// The objects of a golden plan as a stream. Tables are shown there as documents; the objects have them as text.
func children(t *testing.T, file string) []byte {
	t.Helper()
	var plan map[string]any
	read(t, file, &plan)
	var stream bytes.Buffer
	for _, part := range plan {
		objects, _ := part.([]any)
		if policy, ok := part.(map[string]any); ok {
			objects, _ = policy["objects"].([]any)
		}
		for _, object := range objects {
			data, _ := object.(map[string]any)["data"].(map[string]any)
			for name, value := range data {
				if _, text := value.(string); !text {
					table, err := json.Marshal(value)
					if err != nil {
						t.Fatal(err)
					}
					data[name] = string(table)
				}
			}
			text, err := yaml.Marshal(object)
			if err != nil {
				t.Fatal(err)
			}
			stream.WriteString("---\n")
			stream.Write(text)
		}
	}
	return stream.Bytes()
}
