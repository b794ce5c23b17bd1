package smoke

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// tool is tests/cluster/run with a run folder.
type tool struct {
	t   *testing.T
	dir string
}

func (c tool) command(args []string) *exec.Cmd {
	// Flags come after the command: "image import" is two words.
	words := 1
	if args[0] == "image" {
		words = 2
	}
	all := append(append([]string{}, args[:words]...), "--run-dir", c.dir)
	return exec.Command("../run", append(all, args[words:]...)...)
}

func (c tool) run(args ...string) string {
	c.t.Helper()
	return output(c.t, c.command(args))
}

// try gives the exit code and logs what was printed.
func (c tool) try(args ...string) int {
	c.t.Helper()
	out, err := c.command(args).CombinedOutput()
	c.t.Logf("%v\n%s", args, out)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return 0
}

type kubectl struct {
	t                *testing.T
	path, kubeconfig string
}

func (k kubectl) run(args ...string) string {
	k.t.Helper()
	return output(k.t, exec.Command(k.path, append([]string{"--kubeconfig", k.kubeconfig}, args...)...))
}

// until repeats a command for up to a minute until its output has the word.
func (k kubectl) until(word string, args ...string) {
	k.t.Helper()
	var out []byte
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		out, err = exec.Command(k.path, append([]string{"--kubeconfig", k.kubeconfig}, args...)...).CombinedOutput()
		if err == nil && strings.Contains(string(out), word) {
			return
		}
	}
	k.t.Fatalf("%v: %v: %s", args, err, out)
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%v: %v: %s", cmd.Args, err, exit.Stderr)
		}
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return string(out)
}
