package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"smallfirst.dev/tests/cluster/internal/api"
	"smallfirst.dev/tests/cluster/internal/build"
	"smallfirst.dev/tests/cluster/internal/instance"
	"smallfirst.dev/tests/cluster/internal/node"
	"smallfirst.dev/tests/cluster/internal/pki"
	"smallfirst.dev/tests/cluster/internal/proc"
	"smallfirst.dev/tests/cluster/internal/render"
)

// readyTimeout is generous: two cores may be busy with a compiler.
const readyTimeout = 120 * time.Second

// up starts what is missing: build -> files -> node -> store and apiserver -> add-ons -> the rest -> ready.
func up(args []string) error {
	set, t := flags("up")
	nodes := set.Int("kwok-nodes", 2, "how many fake nodes (kwok)")
	if err := set.Parse(args); err != nil {
		return err
	}
	dir, variant, err := t.resolve()
	if err != nil {
		return err
	}
	if err := able(variant); err != nil {
		return err
	}
	builder, err := prepare(variant)
	if err != nil {
		return err
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	in, err := instance.Load(dir)
	if errors.Is(err, os.ErrNotExist) {
		in, err = instance.Create(dir, variant)
	}
	if err != nil {
		return err
	}
	if in.Variant != variant {
		return fmt.Errorf("%s holds a cluster of variant %s: wipe it first, or take another --run-dir", dir, in.Variant)
	}
	return start(in, builder, *nodes)
}

func start(in *instance.Instance, builder *build.Builder, nodes int) error {
	begin := time.Now()
	if err := writeFiles(in, builder); err != nil {
		return err
	}
	client, err := api.New(in)
	if err != nil {
		return err
	}
	s := &starter{in: in, builder: builder, client: client, begin: begin}
	if in.Variant == instance.Full {
		if s.holder, err = ensureNode(in); err != nil {
			return err
		}
		say("node namespaces ready %.1fs", time.Since(begin).Seconds())
	}
	for i, stage := range render.Components(in) {
		if err := s.stage(stage); err != nil {
			return err
		}
		if i == 0 {
			if err := s.addons(); err != nil {
				return err
			}
		}
	}
	if err := s.objects(nodes); err != nil {
		return err
	}
	say("cluster %s (%s, Kubernetes %s) ready %.1fs", in.Name(), in.Variant, builder.Version(), time.Since(begin).Seconds())
	say("  export KUBECONFIG=%s PATH=%s:$PATH", in.Kubeconfig(), builder.Dir)
	return nil
}

// writeFiles makes certificates once and configuration always.
func writeFiles(in *instance.Instance, builder *build.Builder) error {
	if err := pki.Ensure(in); err != nil {
		return err
	}
	ca, err := os.ReadFile(in.Path("pki", "ca.crt"))
	if err != nil {
		return err
	}
	files := render.Files(in, base64.StdEncoding.EncodeToString(ca))
	if in.Variant == instance.Kwok {
		stages, err := os.ReadFile(filepath.Join(builder.Dir, "kwok-stages.yaml"))
		if err != nil {
			return err
		}
		files["conf/kwok-stages.yaml"] = string(stages)
	}
	for name, text := range files {
		// kube-proxy ends when its file is written anew, even with the same text.
		if old, err := os.ReadFile(in.Path(name)); err == nil && string(old) == text {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(in.Path(name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(in.Path(name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// ensureNode gives the holder of the node's namespaces. If it died, what is left of the node is
// stopped first: it would live in namespaces that nothing can enter any more.
func ensureNode(in *instance.Instance) (*proc.Process, error) {
	if holder := proc.Find(in, "holder"); holder != nil {
		return holder, nil
	}
	if err := stop(in); err != nil {
		return nil, err
	}
	if err := node.RecordSysctls(); err != nil {
		return nil, err
	}
	if err := node.MakeCgroups(in); err != nil {
		return nil, err
	}
	holder, err := node.StartHolder(in)
	if err != nil {
		return nil, err
	}
	return holder, node.Connect(in, holder)
}

// starter is one run of up.
type starter struct {
	in      *instance.Instance
	builder *build.Builder
	client  *api.Client
	holder  *proc.Process
	begin   time.Time
	// nodeSince is the moment after which the node must have reported itself: the zero time when
	// its kubelet ran before this up. A kubelet with no news writes every five minutes only.
	nodeSince time.Time
}

// stage starts its components together and waits for each.
func (s *starter) stage(components []render.Component) error {
	running := make([]*proc.Process, len(components))
	for i, c := range components {
		if running[i] = proc.Find(s.in, c.Name); running[i] != nil {
			continue
		}
		p, err := proc.Start(s.in, c.Name, s.environment(), s.argv(c), syscall.SysProcAttr{})
		if err != nil {
			return err
		}
		running[i] = p
		if c.Name == "kubelet" || c.Name == "kwok" {
			s.nodeSince = s.begin
		}
	}
	for i, c := range components {
		err := s.wait(c.Name, func() error {
			if !running[i].Alive() {
				return fatal{fmt.Errorf("it has ended; the last lines of %s:\n%s", s.in.Path("logs", c.Name+".log"), proc.Tail(s.in, c.Name, 8))}
			}
			if c.Ready == "" {
				return nil
			}
			return s.client.Probe(c.Ready)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *starter) argv(c render.Component) []string {
	program := c.Program
	if !c.System {
		program = filepath.Join(s.builder.Dir, c.Program)
	}
	argv := append([]string{program}, c.Args...)
	if c.Space == render.HostSpace {
		return argv
	}
	return append(node.Enter(s.holder, c.Space == render.NodeSpace), argv...)
}

// environment is the tool's own without what would change a server's behaviour.
func (s *starter) environment() []string {
	path := os.Getenv("PATH")
	return []string{"PATH=" + path + ":/usr/sbin:/sbin", "HOME=" + s.in.Dir, "TMPDIR=" + os.TempDir(), "LANG=C.UTF-8"}
}

// fatal ends a wait at once.
type fatal struct{ error }

// wait polls until check is content, then prints the time since the start of up.
func (s *starter) wait(what string, check func() error) error {
	for deadline := time.Now().Add(readyTimeout); ; time.Sleep(50 * time.Millisecond) {
		err := check()
		if err == nil {
			say("%s ready %.1fs", what, time.Since(s.begin).Seconds())
			return nil
		}
		var f fatal
		if errors.As(err, &f) || time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready: %w", what, err)
		}
	}
}

// kubectl runs the cached kubectl as the administrator.
func (s *starter) kubectl(args ...string) error {
	cmd := exec.Command(filepath.Join(s.builder.Dir, "kubectl"), append([]string{"--kubeconfig=" + s.in.Kubeconfig()}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %v: %w: %s", args, err, out)
	}
	return nil
}
