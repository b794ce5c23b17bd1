package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestArchiveIsReproducibleAndNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "plum")
	if err := os.WriteFile(file, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	spec := Spec{Name: "smallfirst.local/plum:dev", Entrypoint: []string{"/bin/plum"}, User: "65532", Files: map[string]string{"/bin/plum": file}}
	var first, second bytes.Buffer
	if err := Write(&first, spec); err != nil {
		t.Fatal(err)
	}
	if err := Write(&second, spec); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two archives of the same files differ")
	}
	for archive := tar.NewReader(&first); ; {
		header, err := archive.Next()
		if err != nil {
			t.Fatal("no manifest.json: ", err)
		}
		if header.Name != "manifest.json" {
			continue
		}
		raw, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		var manifest []struct{ RepoTags []string }
		if err := json.Unmarshal(raw, &manifest); err != nil || manifest[0].RepoTags[0] != spec.Name {
			t.Errorf("%s: %v", raw, err)
		}
		return
	}
}

func TestParseFile(t *testing.T) {
	if target, source, err := ParseFile("a/b:/c"); err != nil || target != "/c" || source != "a/b" {
		t.Error(target, source, err)
	}
	for _, bad := range []string{"a", "a:b", ":/c"} {
		if _, _, err := ParseFile(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}
