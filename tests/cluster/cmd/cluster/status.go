package main

import (
	"encoding/json"
	"fmt"
	"os"

	"smallfirst.dev/tests/cluster/internal/api"
	"smallfirst.dev/tests/cluster/internal/instance"
	"smallfirst.dev/tests/cluster/internal/proc"
	"smallfirst.dev/tests/cluster/internal/render"
)

// state is what `status -o json` prints; others read it, so fields are only added.
type state struct {
	Name       string           `json:"name"`
	Dir        string           `json:"dir"`
	Variant    instance.Variant `json:"variant"`
	Server     string           `json:"server"`
	Kubeconfig string           `json:"kubeconfig"`
	AuditLog   string           `json:"auditLog"`
	Ready      bool             `json:"ready"`
	Components []component      `json:"components"`
}

type component struct {
	Name   string `json:"name"`
	Pid    int    `json:"pid,omitempty"`
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"`
}

// status prints what runs; its exit code is 1 unless all is ready.
func status(args []string) error {
	set, t := flags("status")
	output := set.String("o", "text", "text or json")
	if err := set.Parse(args); err != nil {
		return err
	}
	in, err := t.load()
	if err != nil {
		return err
	}
	s := inspect(in)
	if *output == "json" {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(s)
	} else {
		fmt.Printf("%s %s %s\nkubeconfig %s\n", s.Name, s.Variant, s.Server, s.Kubeconfig)
		for _, c := range s.Components {
			word := "ready"
			if !c.Ready {
				word = "not ready: " + c.Reason
			}
			fmt.Printf("%-24s %-8d %s\n", c.Name, c.Pid, word)
		}
	}
	if err == nil && !s.Ready {
		err = fmt.Errorf("not everything is ready")
	}
	return err
}

func inspect(in *instance.Instance) state {
	s := state{
		Name: in.Name(), Dir: in.Dir, Variant: in.Variant, Server: in.Addresses().URL(),
		Kubeconfig: in.Kubeconfig(), AuditLog: in.Path("audit.log"), Ready: true,
	}
	client, clientErr := api.New(in)
	for _, stage := range render.Components(in) {
		for _, c := range stage {
			found := component{Name: c.Name}
			p := proc.Find(in, c.Name)
			err := clientErr
			if p == nil {
				err = fmt.Errorf("not running")
			} else {
				found.Pid = p.Pid
				if err == nil && c.Ready != "" {
					err = client.Probe(c.Ready)
				}
			}
			if found.Ready = err == nil; err != nil {
				found.Reason, s.Ready = err.Error(), false
			}
			s.Components = append(s.Components, found)
		}
	}
	return s
}

func kubeconfig(args []string) error {
	set, t := flags("kubeconfig")
	if err := set.Parse(args); err != nil {
		return err
	}
	in, err := t.load()
	if err != nil {
		return err
	}
	fmt.Println(in.Kubeconfig())
	return nil
}
