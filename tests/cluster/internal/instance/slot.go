package instance

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Slots is how many clusters one machine can hold: ports and address ranges are cut for so many.
const Slots = 64

// slotDir is the same for every run root, since ports and routes belong to the machine.
func slotDir() string { return filepath.Join(machineRoot(), ".slots") }

// claim gives dir the slot it already has, or the lowest free one.
//
// A slot's file holds the run folder's path. A slot whose folder is gone (deleted by hand) is free.
// A slot whose first loopback port is taken is skipped: another user may hold it.
func claim(dir string) (int, error) {
	if err := os.MkdirAll(slotDir(), 0o755); err != nil {
		return 0, err
	}
	unlock, err := Lock(filepath.Join(slotDir(), "lock"))
	if err != nil {
		return 0, err
	}
	defer unlock()
	free := -1
	for slot := range Slots {
		owner, err := os.ReadFile(slotFile(slot))
		switch {
		case err == nil && strings.TrimSpace(string(owner)) == dir:
			return slot, nil
		case err == nil && exists(filepath.Join(strings.TrimSpace(string(owner)), "instance.json")):
			continue
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return 0, err
		}
		if free < 0 && portFree(loopbackBase+slot*loopbackStep) {
			free = slot
		}
	}
	if free < 0 {
		return 0, fmt.Errorf("all %d slots are taken, see %s", Slots, slotDir())
	}
	return free, os.WriteFile(slotFile(free), []byte(dir+"\n"), 0o644)
}

// Release gives the slot back; called by wipe, after the run folder is gone.
func (in *Instance) Release() error {
	unlock, err := Lock(filepath.Join(slotDir(), "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	owner, err := os.ReadFile(slotFile(in.Slot))
	if err != nil || strings.TrimSpace(string(owner)) != in.Dir {
		return nil // not ours any more
	}
	return os.Remove(slotFile(in.Slot))
}

// Others gives the run folders of all other claimed slots.
func (in *Instance) Others() []*Instance {
	var others []*Instance
	for slot := range Slots {
		owner, err := os.ReadFile(slotFile(slot))
		if err != nil || slot == in.Slot {
			continue
		}
		if other, err := Load(strings.TrimSpace(string(owner))); err == nil {
			others = append(others, other)
		}
	}
	return others
}

// MachineState is a folder for what concerns the whole machine, such as recorded sysctls.
func MachineState() string { return slotDir() }

// Lock takes an exclusive lock on a file, waiting for it.
func Lock(path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

func slotFile(slot int) string { return filepath.Join(slotDir(), fmt.Sprint(slot)) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func portFree(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	l.Close()
	return true
}
