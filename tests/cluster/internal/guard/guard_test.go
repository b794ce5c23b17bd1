package guard

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRunDirRefusesWhatCouldMatchTheMachine(t *testing.T) {
	for _, dir := range []string{"", "/", "/run", "run/x", "/run/../etc", "/run/x/", "/run//x", "/run/a b"} {
		if RunDir(dir) == nil {
			t.Errorf("%q was accepted", dir)
		}
	}
	if err := RunDir("/run/smallfirst/orchard"); err != nil {
		t.Error(err)
	}
}

func TestUnderIsStrict(t *testing.T) {
	cases := map[string]bool{
		"/run/sf/a/b": true, "/run/sf/a": false, "/run/sf/ab": false, "/run/sf/a/../c": false, "/": false, "a/b": false,
	}
	for path, want := range cases {
		if got := Under("/run/sf/a", path); got != want {
			t.Errorf("Under(%q) = %v", path, got)
		}
	}
	if Under("", "/etc/passwd") {
		t.Error("an empty run folder matched")
	}
}

func TestMentions(t *testing.T) {
	dir := "/run/sf/a"
	for _, args := range [][]string{{"etcd", "--data-dir=/run/sf/a/etcd"}, {"x", "-conf", "/run/sf/a/Corefile"}, {"x", dir}} {
		if !Mentions(args, dir) {
			t.Errorf("%q not recognised", args)
		}
	}
	for _, args := range [][]string{{"etcd", "--data-dir=/run/sf/ab/etcd"}, {"vi", "notes"}, {}} {
		if Mentions(args, dir) {
			t.Errorf("%q taken for ours", args)
		}
	}
	if Mentions([]string{"/sbin/init"}, "") {
		t.Error("an empty run folder matched")
	}
}

func TestRemoveAllNeedsARunDir(t *testing.T) {
	if RemoveAll("") == nil || RemoveAll("/") == nil {
		t.Fatal("accepted")
	}
	dir := filepath.Join(t.TempDir(), "x")
	if len(dir) > 64 {
		t.Skip("the temporary folder's name is too long")
	}
	if err := os.MkdirAll(dir+"/y", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

func TestMountUnder(t *testing.T) {
	info := "22 1 0:21 / /proc rw - proc proc rw\n23 1 0:22 / /run/sf/a/k rw - tmpfs tmpfs rw\n"
	if got := mountUnder(info, "/run/sf/a"); got != "/run/sf/a/k" {
		t.Error(got)
	}
	if got := mountUnder(info, "/run/sf/b"); got != "" {
		t.Error(got)
	}
}
