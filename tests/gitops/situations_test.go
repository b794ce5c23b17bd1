package gitops

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// What a tool should make of a situation.
type verdict struct {
	kstatus status.Status
	argo    string
}

var (
	progress = verdict{status.InProgressStatus, "Progressing"}
	good     = verdict{status.CurrentStatus, "Healthy"}
	failed   = verdict{status.FailedStatus, "Degraded"}
	leaving  = verdict{status.TerminatingStatus, "Progressing"}
)

// The files of situations/, which tests/situations.rs writes.
var verdicts = map[string]verdict{
	"tier-fresh":               progress,
	"tier-making":              progress,
	"tier-rolling":             progress,
	"tier-ready":               good,
	"tier-edited":              progress,
	"tier-failed":              failed,
	"tier-mended":              good,
	"tier-scaled-to-zero":      good,
	"tier-idle":                good,
	"tier-scaling":             good,
	"tier-two-autoscalers":     failed,
	"tier-lost-its-replica":    good,
	"tier-invalid":             failed,
	"tier-conflict":            failed,
	"tier-not-applied":         progress,
	"tier-provider-down":       good,
	"tier-deleted":             leaving,
	"path-fresh":               progress,
	"path-ready":               good,
	"path-missing-reference":   progress,
	"path-invalid":             failed,
	"policy-fresh":             progress,
	"policy-ready":             good,
	"policy-routers-rolling":   progress,
	"policy-missing-reference": progress,
	"policy-propagating":       progress,
	"policy-table-refused":     failed,
	"policy-invalid":           failed,
	// A last good table serves; the reference may still come.
	"policy-keeps-its-table-until-a-path-comes": progress,
	// What the spec asks for is rolled out, though nobody scales it.
	"tier-metrics-api-unavailable": good,
}

func situation(t *testing.T, name string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("situations", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	// As clients read it: integers are integers.
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(text); err != nil {
		t.Fatal(err)
	}
	return object.Object
}

func TestEverySituationHasAVerdict(t *testing.T) {
	files, err := filepath.Glob("situations/*.json")
	if err != nil || len(files) != len(verdicts) {
		t.Errorf("%d situations, %d verdicts, %v", len(files), len(verdicts), err)
	}
}

func TestKstatusAgrees(t *testing.T) {
	for name, wanted := range verdicts {
		t.Run(name, func(t *testing.T) {
			found, err := status.Compute(&unstructured.Unstructured{Object: situation(t, name)})
			if err != nil {
				t.Fatal(err)
			}
			if found.Status != wanted.kstatus {
				t.Errorf("%s: %s; wanted %s", found.Status, found.Message, wanted.kstatus)
			}
		})
	}
}

func TestArgoAgrees(t *testing.T) {
	script, err := os.ReadFile("../../deploy/argocd/health.lua")
	if err != nil {
		t.Fatal(err)
	}
	for name, wanted := range verdicts {
		t.Run(name, func(t *testing.T) {
			health, message := argo(t, string(script), situation(t, name))
			if health != wanted.argo || message == "" {
				t.Errorf("%s: %q; wanted %s", health, message, wanted.argo)
			}
		})
	}
}

// Definitions of another version may have no default, and anybody may write a status.
func TestArgoSurvivesAnyStatus(t *testing.T) {
	script, err := os.ReadFile("../../deploy/argocd/health.lua")
	if err != nil {
		t.Fatal(err)
	}
	object := situation(t, "tier-ready")
	for _, text := range []string{`null`, `{}`, `{"conditions": []}`, `{"conditions": [{"type": "Ready", "status": "Unknown"}]}`,
		`{"conditions": [{"type": "Stalled", "status": "False"}]}`} {
		var status any
		if err := json.Unmarshal([]byte(text), &status); err != nil {
			t.Fatal(err)
		}
		object["status"] = status
		if health, _ := argo(t, string(script), object); health != "Progressing" {
			t.Errorf("%s: %s", text, health)
		}
	}
	object["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Stalled", "status": "True"}}}
	if health, _ := argo(t, string(script), object); health != "Degraded" {
		t.Errorf("stalled without words: %s", health)
	}
}

// Runs a health script as Argo CD does: its Lua, the libraries that it opens, its second, its conversion.
func argo(t *testing.T, script string, object map[string]any) (health, message string) {
	t.Helper()
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable,
	} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			t.Fatal(err)
		}
	}
	limit, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	state.SetContext(limit)
	state.SetGlobal("obj", decoded(state, object))
	if err := state.DoString(script); err != nil {
		t.Fatal(err)
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		t.Fatalf("the script returns no table but %s", state.Get(-1).Type())
	}
	health = table.RawGetString("status").String()
	if !slices.Contains([]string{"Unknown", "Progressing", "Suspended", "Healthy", "Degraded", "Missing"}, health) {
		t.Fatalf("%q is no health of Argo CD", health)
	}
	return health, table.RawGetString("message").String()
}

func decoded(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case bool:
		return lua.LBool(value)
	case float64:
		return lua.LNumber(value)
	case int64:
		return lua.LNumber(value)
	case string:
		return lua.LString(value)
	case []any:
		list := state.CreateTable(len(value), 0)
		for _, item := range value {
			list.Append(decoded(state, item))
		}
		return list
	case map[string]any:
		table := state.CreateTable(0, len(value))
		for key, item := range value {
			table.RawSetString(key, decoded(state, item))
		}
		return table
	default:
		return lua.LNil
	}
}
