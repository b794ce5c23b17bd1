package proc

import (
	"fmt"
	"os"
	"testing"

	"smallfirst.dev/tests/cluster/internal/instance"
)

func TestAPidFileOfSomebodyElseIsNotFollowed(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "sf")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	in := &instance.Instance{Dir: dir}
	if err := os.Mkdir(in.Path("pids"), 0o755); err != nil {
		t.Fatal(err)
	}
	started, _ := stat(os.Getpid())
	// This test's own process: alive, the start time is right, but its command line is not ours.
	for _, text := range []string{fmt.Sprintf("%d %s\n", os.Getpid(), started), "1 0\n", "-1 0\n", "x\n", ""} {
		if err := os.WriteFile(pidFile(in, "etcd"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if p := Find(in, "etcd"); p != nil {
			t.Errorf("%q gave pid %d", text, p.Pid)
		}
	}
}
