package gitops

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
)

// Labels that scraping adds.
var scraped = []string{"namespace", "pod", "container", "job", "instance", "le", "__name__"}

// Labels of every metric that our processes have, by name: metrics.txt, which tests/chart.rs writes.
func metrics(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		known[words[0]] = append(words[1:], scraped...)
	}
	return known
}

// What is wrong with an expression: it can't be parsed, or names a metric or label that there is not.
func wrong(known map[string][]string, expression string) []string {
	tree, err := parser.NewParser(parser.Options{}).ParseExpr(expression)
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	labels := slices.Clone(scraped)
	parser.Inspect(tree, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		has, exists := known[selector.Name]
		if !exists {
			found = append(found, "there is no metric "+selector.Name)
		}
		labels = append(labels, has...)
		for _, matcher := range selector.LabelMatchers {
			if exists && !slices.Contains(has, matcher.Name) {
				found = append(found, fmt.Sprintf("%s has no label %s", selector.Name, matcher.Name))
			}
		}
		return nil
	})
	parser.Inspect(tree, func(node parser.Node, _ []parser.Node) error {
		if sum, ok := node.(*parser.AggregateExpr); ok {
			for _, name := range sum.Grouping {
				if !slices.Contains(labels, name) {
					found = append(found, "grouped by "+name+", which no metric of the expression has")
				}
			}
		}
		return nil
	})
	return found
}

func TestAlertsUseWhatThereIs(t *testing.T) {
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations map[string]string
			}
		}
	}
	read(t, filepath.Join(root, "charts/smallfirst/files/rules.yaml"), &rules)
	known, alerts := metrics(t), 0
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			alerts++
			for _, problem := range wrong(known, rule.Expr) {
				t.Errorf("%s: %s", rule.Alert, problem)
			}
			if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
				t.Errorf("%s says not what to do", rule.Alert)
			}
		}
	}
	if alerts == 0 {
		t.Error("no alerts")
	}
}

func TestTheDashboardUsesWhatThereIs(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "charts/smallfirst/files/dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Definition string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	known, shown := metrics(t), ""
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			expression := strings.ReplaceAll(target.Expr, "$__rate_interval", "5m")
			shown += expression
			for _, problem := range wrong(known, expression) {
				t.Errorf("%s: %s", panel.Title, problem)
			}
		}
	}
	for _, variable := range dashboard.Templating.List {
		if inner, ok := strings.CutPrefix(variable.Definition, "label_values("); ok {
			selector := inner[:strings.LastIndex(inner, ",")]
			for _, problem := range wrong(known, selector) {
				t.Errorf("%s: %s", variable.Definition, problem)
			}
		}
	}
	// And nothing that is counted is left out.
	for name := range known {
		if base := strings.TrimSuffix(strings.TrimSuffix(name, "_sum"), "_count"); !strings.Contains(shown, base) {
			t.Errorf("no panel shows %s", name)
		}
	}
}

func TestWhatIsWrongInAnExpressionIsSeen(t *testing.T) {
	known := metrics(t)
	for _, expression := range []string{
		"sum(", "smallfirst_router_nothing", `smallfirst_router_requests_total{tier="a"}`, "sum by (tier) (smallfirst_router_requests_total)",
	} {
		if len(wrong(known, expression)) == 0 {
			t.Errorf("%s was taken", expression)
		}
	}
}
