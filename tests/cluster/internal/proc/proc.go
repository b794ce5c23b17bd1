// Package proc starts a component detached from the tool, and stops it again by its pid file.
//
// A pid file holds the pid and the process's start time, so that a pid the kernel gave to somebody
// else is never taken for ours; and the command line must name the run folder (package guard).
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"smallfirst.dev/tests/cluster/internal/guard"
	"smallfirst.dev/tests/cluster/internal/instance"
)

// Process is a started component, or one found by its pid file.
type Process struct {
	Name string
	Pid  int
	// exited is closed when a process started by this run of the tool has ended; else nil.
	exited chan struct{}
}

// Start runs argv in its own session, with its output appended to logs/name.log.
func Start(in *instance.Instance, name string, env []string, argv []string, attr syscall.SysProcAttr) (*Process, error) {
	logFile, err := os.OpenFile(in.Path("logs", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env, cmd.Dir = logFile, logFile, env, in.Dir
	attr.Setsid = true
	cmd.SysProcAttr = &attr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{Name: name, Pid: cmd.Process.Pid, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // whoever waits for readiness says what the log says
		close(p.exited)
	}()
	started, _ := stat(p.Pid)
	return p, os.WriteFile(pidFile(in, name), fmt.Appendf(nil, "%d %s\n", p.Pid, started), 0o644)
}

// Find gives the running process of a pid file, or nil.
func Find(in *instance.Instance, name string) *Process {
	raw, err := os.ReadFile(pidFile(in, name))
	if err != nil {
		return nil
	}
	fields := strings.Fields(string(raw))
	if len(fields) != 2 {
		return nil
	}
	pid, err := strconv.Atoi(fields[0])
	if err != nil || pid <= 1 {
		return nil
	}
	started, alive := stat(pid)
	if !alive || started != fields[1] || !guard.Mentions(cmdline(pid), in.Dir) {
		return nil
	}
	return &Process{Name: name, Pid: pid}
}

// Alive says whether the process still runs; a zombie does not.
func (p *Process) Alive() bool {
	if p.exited != nil {
		select {
		case <-p.exited:
			return false
		default:
			return true
		}
	}
	_, alive := stat(p.Pid)
	return alive
}

// Stop asks all processes to end, and kills what is left after the grace.
func Stop(in *instance.Instance, grace time.Duration, names ...string) error {
	var left []*Process
	for _, name := range names {
		if p := Find(in, name); p != nil {
			_ = syscall.Kill(p.Pid, syscall.SIGTERM)
			left = append(left, p)
		}
	}
	left = await(left, grace)
	for _, p := range left {
		_ = syscall.Kill(p.Pid, syscall.SIGKILL)
	}
	left = await(left, 5*time.Second)
	var err error
	for _, p := range left {
		err = errors.Join(err, fmt.Errorf("%s (pid %d) does not die", p.Name, p.Pid))
	}
	if err == nil {
		for _, name := range names {
			_ = os.Remove(pidFile(in, name))
		}
	}
	return err
}

// await polls until all have ended or the time is over, and gives those that live.
func await(all []*Process, limit time.Duration) []*Process {
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		var left []*Process
		for _, p := range all {
			if p.Alive() {
				left = append(left, p)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		all = left
	}
}

// Mentioning gives all processes whose command line names the run folder, other than this tool.
func Mentioning(in *instance.Instance) []*Process {
	var found []*Process
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, entry := range entries {
		pid, err := strconv.Atoi(filepath.Base(entry))
		if err != nil || pid == os.Getpid() || pid <= 1 {
			continue
		}
		args := cmdline(pid)
		if _, alive := stat(pid); alive && len(args) > 0 && guard.Mentions(args, in.Dir) {
			found = append(found, &Process{Name: filepath.Base(args[0]), Pid: pid})
		}
	}
	return found
}

// KillAll kills the given processes.
func KillAll(all []*Process) []*Process {
	for _, p := range all {
		_ = syscall.Kill(p.Pid, syscall.SIGKILL)
	}
	return await(all, 5*time.Second)
}

// Tail is the end of a component's log.
func Tail(in *instance.Instance, name string, lines int) string {
	raw, err := os.ReadFile(in.Path("logs", name+".log"))
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimSpace(raw), []byte("\n"))
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return string(bytes.Join(all, []byte("\n")))
}

func pidFile(in *instance.Instance, name string) string { return in.Path("pids", name+".pid") }

// stat gives a process's start time in clock ticks, and whether it is neither gone nor a zombie.
func stat(pid int) (started string, alive bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false
	}
	// The second field, the name, may hold spaces and brackets; fields count from after it.
	after := raw[bytes.LastIndexByte(raw, ')')+1:]
	fields := strings.Fields(string(after))
	if len(fields) < 20 {
		return "", false
	}
	return fields[19], fields[0] != "Z" && fields[0] != "X"
}

func cmdline(pid int) []string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
}
