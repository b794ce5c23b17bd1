package gitops

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/yannh/kubeconform/pkg/validator"
	"sigs.k8s.io/yaml"
)

// Where a schema is kept, in kubeconform's words.
const location = "{{ .Group }}/{{ .ResourceKind }}_{{ .ResourceAPIVersion }}.json"

const objectMeta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"

// Kubeconform, strict, over the schemas of the Kubernetes that the tests run on, and of definitions: ours, and those of
// the tools that modules.txt names. Nothing is downloaded but Go modules.
func conform(t *testing.T) validator.Validator {
	t.Helper()
	folder := t.TempDir()
	kubernetes := module(t, "../cluster/parts", "k8s.io/kubernetes")
	var swagger struct {
		Definitions map[string]any `json:"definitions"`
	}
	read(t, filepath.Join(kubernetes, "api/openapi-spec/swagger.json"), &swagger)
	for name, definition := range swagger.Definitions {
		swagger.Definitions[name] = strict(definition)
	}
	// What OpenAPI can't say: these are numbers or strings.
	for _, name := range []string{
		"io.k8s.apimachinery.pkg.api.resource.Quantity", "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
	} {
		swagger.Definitions[name] = map[string]any{"type": []any{"number", "string"}}
	}
	for name, definition := range swagger.Definitions {
		kinds, _ := definition.(map[string]any)["x-kubernetes-group-version-kind"].([]any)
		for _, kind := range kinds {
			of := func(field string) string { return kind.(map[string]any)[field].(string) }
			keep(t, folder, of("group"), of("version"), of("kind"), swagger.Definitions, reference(name))
		}
	}
	for _, file := range definitionFiles(t) {
		define(t, folder, file, swagger.Definitions)
	}
	conform, err := validator.New([]string{filepath.Join(folder, location)}, validator.Opts{Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	return conform
}

// Files with CustomResourceDefinitions.
func definitionFiles(t *testing.T) []string {
	t.Helper()
	patterns := []string{"../../crds/*.yaml"}
	text, err := os.ReadFile("modules.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range strings.Fields(string(text)) {
		folder := module(t, ".", version)
		patterns = append(patterns, filepath.Join(folder, "config/crd/bases/*.yaml"),
			filepath.Join(folder, "config/crd/standard/*.yaml"),
			filepath.Join(folder, "example/prometheus-operator-crd/*.yaml"))
	}
	var files []string
	for _, pattern := range patterns {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	return files
}

// The folder of a module: NAME as the go.mod of a folder has it, or NAME@VERSION.
func module(t *testing.T, folder, name string) string {
	t.Helper()
	command := exec.Command("go", "mod", "download", "-json", name)
	command.Dir = folder
	output, err := command.Output()
	var found struct{ Dir, Error string }
	if parse := json.Unmarshal(output, &found); parse != nil || found.Dir == "" {
		t.Fatalf("%s: %v %v %s", name, err, parse, found.Error)
	}
	return found.Dir
}

func read(t *testing.T, file string, into any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// The schema of every version of a definition.
func define(t *testing.T, folder, file string, definitions map[string]any) {
	t.Helper()
	var crd struct {
		Kind string
		Spec struct {
			Group    string
			Names    struct{ Kind string }
			Versions []struct {
				Name   string
				Schema struct{ OpenAPIV3Schema map[string]any }
			}
		}
	}
	read(t, file, &crd)
	if crd.Kind != "CustomResourceDefinition" {
		return
	}
	for _, version := range crd.Spec.Versions {
		schema := strict(version.Schema.OpenAPIV3Schema).(map[string]any)
		properties := schema["properties"].(map[string]any)
		properties["apiVersion"], properties["kind"] = map[string]any{"type": "string"}, map[string]any{"type": "string"}
		properties["metadata"] = reference(objectMeta)
		keep(t, folder, crd.Spec.Group, version.Name, crd.Spec.Names.Kind, definitions, schema)
	}
}

// Writes the schema of a kind, with the definitions that it needs.
func keep(t *testing.T, folder, group, version, kind string, definitions map[string]any, schema map[string]any) {
	t.Helper()
	needed := map[string]any{}
	collect(schema, definitions, needed)
	whole := maps.Clone(schema)
	if _, simple := schema["$ref"]; simple {
		// Beside a reference nothing counts.
		whole = map[string]any{"allOf": []any{schema}}
	}
	whole["$schema"], whole["definitions"] = "http://json-schema.org/draft-07/schema#", needed
	text, err := json.Marshal(whole)
	if group == "" {
		// kubeconform takes the apiVersion v1 for group and version.
		group = version
	}
	file := filepath.Join(folder, group, fmt.Sprintf("%s_%s.json", strings.ToLower(kind), version))
	if err = errors.Join(err, os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, text, 0o644)); err != nil {
		t.Fatal(err)
	}
}

func reference(name string) map[string]any {
	return map[string]any{"$ref": "#/definitions/" + name}
}

// Definitions that a schema refers to, and those that they refer to.
func collect(schema any, definitions, needed map[string]any) {
	switch schema := schema.(type) {
	case []any:
		for _, item := range schema {
			collect(item, definitions, needed)
		}
	case map[string]any:
		if target, ok := schema["$ref"].(string); ok {
			name := strings.TrimPrefix(target, "#/definitions/")
			if _, known := needed[name]; !known {
				needed[name] = definitions[name]
				collect(definitions[name], definitions, needed)
			}
		}
		for _, item := range schema {
			collect(item, definitions, needed)
		}
	}
}

// A schema that refuses fields that it does not name.
func strict(schema any) any {
	switch schema := schema.(type) {
	case []any:
		items := slices.Clone(schema)
		for i := range items {
			items[i] = strict(items[i])
		}
		return items
	case map[string]any:
		out := map[string]any{}
		for key, value := range schema {
			if names, ok := value.(map[string]any); ok && key == "properties" {
				fields := map[string]any{}
				for name, field := range names {
					fields[name] = strict(field)
				}
				out[key] = fields
				continue
			}
			if key != "default" {
				out[key] = strict(value)
			}
		}
		_, named := out["properties"].(map[string]any)
		_, open := out["additionalProperties"]
		if named && !open && out["x-kubernetes-preserve-unknown-fields"] != true {
			out["additionalProperties"] = false
		}
		if out["x-kubernetes-int-or-string"] == true {
			out["type"] = []any{"integer", "string"}
		}
		return out
	default:
		return schema
	}
}
