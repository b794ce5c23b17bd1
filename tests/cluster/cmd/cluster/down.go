package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"smallfirst.dev/tests/cluster/internal/guard"
	"smallfirst.dev/tests/cluster/internal/instance"
	"smallfirst.dev/tests/cluster/internal/node"
	"smallfirst.dev/tests/cluster/internal/proc"
)

func down(args []string) error { return ended("down", args, stopIt) }

func wipe(args []string) error {
	return ended("wipe", args, func(in *instance.Instance) error {
		if err := stopIt(in); err != nil {
			return err
		}
		if err := guard.RemoveAll(in.Dir); err != nil {
			return err
		}
		return in.Release()
	})
}

// ended does something with the instance that the flags name, while nobody else does; without one it says so.
func ended(command string, args []string, end func(*instance.Instance) error) error {
	set, t := flags(command)
	if err := set.Parse(args); err != nil {
		return err
	}
	dir, _, err := t.resolve()
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
		say("there is no cluster in %s", dir)
		return nil
	}
	if err != nil {
		return err
	}
	return end(in)
}

func stopIt(in *instance.Instance) error {
	begin := time.Now()
	if err := stop(in); err != nil {
		return err
	}
	say("cluster %s down %.1fs", in.Name(), time.Since(begin).Seconds())
	return nil
}

// stop ends everything of an instance: kubelet, pods, what served them, the store, the namespaces.
//
// The kubelet goes first, or it would restart the pods. Containerd gets a moment to see its
// containers' ends, so that it and its shims put their state in order. What is then left with the
// run folder in its command line (a shim, a half-started component) is killed.
func stop(in *instance.Instance) error {
	full := in.Variant == instance.Full
	if full {
		err := errors.Join(proc.Stop(in, 2*time.Second, "kubelet"), node.KillPods(in))
		if err != nil {
			return err
		}
		awaitShims(in, 2*time.Second)
	}
	err := errors.Join(
		proc.Stop(in, 2*time.Second, "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns", "metrics-server", "kwok", "containerd"),
		proc.Stop(in, 3*time.Second, "etcd"),
		proc.Stop(in, time.Second, "holder"),
	)
	if left := proc.KillAll(proc.Mentioning(in)); len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("%d processes of %s do not die", len(left), in.Dir))
	}
	if !full {
		return err
	}
	node.Disconnect(in)
	err = errors.Join(err, node.RemoveCgroups(in))
	for _, other := range in.Others() {
		if other.Variant == instance.Full && proc.Find(other, "holder") != nil {
			return err
		}
	}
	return errors.Join(err, node.RestoreSysctls())
}

func awaitShims(in *instance.Instance, limit time.Duration) {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		shims := 0
		for _, p := range proc.Mentioning(in) {
			if p.Name == "containerd-shim-runc-v2" {
				shims++
			}
		}
		if shims == 0 {
			return
		}
	}
}
