// Package image packs files into a container image archive, without a daemon or a registry.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"
)

// Spec is an image of one layer.
type Spec struct {
	// Name with tag, for example smallfirst.local/router:dev.
	Name       string
	Entrypoint []string
	Env        []string
	// User should be numeric: runAsNonRoot can't judge a name.
	User string
	// Files maps a path in the image to one on this machine; a folder is taken with what it holds.
	Files map[string]string
}

// Write writes a docker archive (`docker save`), which every containerd imports.
//
// It depends on the files' content and modes alone, so the same input gives the same image.
func Write(w io.Writer, spec Spec) error {
	layer, err := layer(spec.Files)
	if err != nil {
		return err
	}
	digest := fmt.Sprintf("%x", sha256.Sum256(layer))
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": "1970-01-01T00:00:00Z",
		"config": map[string]any{"Entrypoint": spec.Entrypoint, "Env": spec.Env, "User": spec.User, "WorkingDir": "/"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest}},
	})
	if err != nil {
		return err
	}
	configName := fmt.Sprintf("%x.json", sha256.Sum256(config))
	manifest, err := json.Marshal([]map[string]any{{
		"Config": configName, "RepoTags": []string{spec.Name}, "Layers": []string{digest + "/layer.tar"},
	}})
	if err != nil {
		return err
	}
	archive := tar.NewWriter(w)
	for _, file := range []struct {
		name string
		data []byte
	}{{digest + "/layer.tar", layer}, {configName, config}, {"manifest.json", manifest}} {
		if err := add(archive, file.name, 0o644, file.data); err != nil {
			return err
		}
	}
	return archive.Close()
}

// WriteFile writes it to a file.
func WriteFile(archive string, spec Spec) error {
	out, err := os.Create(archive)
	if err != nil {
		return err
	}
	return errors.Join(Write(out, spec), out.Close())
}

func layer(files map[string]string) ([]byte, error) {
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	made := map[string]bool{}
	for _, entry := range sorted(files) {
		if err := parents(archive, made, entry.target); err != nil {
			return nil, err
		}
		info, err := os.Stat(entry.source)
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			if err := addTree(archive, made, entry.target, entry.source); err != nil {
				return nil, err
			}
			continue
		}
		data, err := os.ReadFile(entry.source)
		if err != nil {
			return nil, err
		}
		if err := add(archive, entry.target, int64(info.Mode().Perm()), data); err != nil {
			return nil, err
		}
	}
	// A sticky, world-writable /tmp is what most programs expect of a root file system.
	if !made["tmp"] {
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), archive.Close()
}

func parents(archive *tar.Writer, made map[string]bool, target string) error {
	parts := strings.Split(path.Dir(target), "/")
	for i := range parts {
		dir := strings.Join(parts[:i+1], "/")
		if dir == "." || dir == "" || made[dir] {
			continue
		}
		made[dir] = true
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
			return err
		}
	}
	return nil
}

func add(archive *tar.Writer, name string, mode int64, data []byte) error {
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := archive.Write(data)
	return err
}
