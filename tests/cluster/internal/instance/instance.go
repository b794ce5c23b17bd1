// Package instance is a cluster's identity: where it runs, which addresses and ports are its own.
//
// Everything that must not clash between two clusters on one machine follows from one small number,
// the slot, which is claimed machine-wide and given back by wipe.
package instance

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"smallfirst.dev/tests/cluster/internal/guard"
)

// Variant says how much of a cluster there is.
type Variant string

const (
	// Full has a node with real pods, in its own network and mount namespace. Needs root.
	Full Variant = "full"
	// ControlPlane has etcd, apiserver and controller-manager on the loopback address.
	ControlPlane Variant = "control-plane"
	// Kwok is ControlPlane with a scheduler and fake nodes.
	Kwok Variant = "kwok"
)

// ParseVariant reads a variant's name.
func ParseVariant(s string) (Variant, error) {
	for _, v := range []Variant{Full, ControlPlane, Kwok} {
		if string(v) == s {
			return v, nil
		}
	}
	return "", fmt.Errorf("unknown variant %q, want full, control-plane or kwok", s)
}

// Instance is written to instance.json in the run folder; the rest is derived.
type Instance struct {
	Dir     string  `json:"dir"`
	Slot    int     `json:"slot"`
	Variant Variant `json:"variant"`
}

// Load reads the instance of a run folder; a missing one is os.ErrNotExist.
func Load(dir string) (*Instance, error) {
	if err := guard.RunDir(dir); err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(filepath.Join(dir, "instance.json"))
	if err != nil {
		return nil, err
	}
	in := &Instance{}
	if err := json.Unmarshal(raw, in); err != nil {
		return nil, fmt.Errorf("%s/instance.json: %w", dir, err)
	}
	if in.Dir != dir || in.Slot < 0 || in.Slot >= Slots {
		return nil, fmt.Errorf("%s/instance.json is of another folder (%s) or slot (%d)", dir, in.Dir, in.Slot)
	}
	return in, nil
}

// Create claims a slot and makes the run folder.
func Create(dir string, variant Variant) (*Instance, error) {
	if err := guard.RunDir(dir); err != nil {
		return nil, err
	}
	for _, sub := range []string{"logs", "pids", "pki", "conf"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	slot, err := claim(dir)
	if err != nil {
		return nil, err
	}
	in := &Instance{Dir: dir, Slot: slot, Variant: variant}
	raw, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		return nil, err
	}
	return in, os.WriteFile(in.Path("instance.json"), append(raw, '\n'), 0o644)
}

// Path is a path inside the run folder.
func (in *Instance) Path(elem ...string) string {
	return filepath.Join(append([]string{in.Dir}, elem...)...)
}

// Name tells instances apart in cgroups, CNI networks and messages.
func (in *Instance) Name() string { return fmt.Sprintf("smallfirst-%d", in.Slot) }

// Kubeconfig is the administrator's.
func (in *Instance) Kubeconfig() string { return in.Path("kubeconfig") }

// Root is the folder of all run folders: SMALLFIRST_RUN, /run/smallfirst for root, else the user's.
func Root() string {
	if dir := os.Getenv("SMALLFIRST_RUN"); dir != "" {
		return filepath.Clean(dir)
	}
	return machineRoot()
}

func machineRoot() string {
	if os.Getuid() == 0 {
		return "/run/smallfirst"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); strings.HasPrefix(dir, "/") {
		return filepath.Join(dir, "smallfirst")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("smallfirst-%d", os.Getuid()))
}
