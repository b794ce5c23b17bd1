package pki

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
)

// Context is the name of the only context of every kubeconfig.
const Context = "smallfirst-test"

// WriteKubeconfig writes a kubeconfig with the certificate dir/file.{crt,key} inlined.
func WriteKubeconfig(path, dir, file, server string) error {
	var inlined [3]string
	for i, name := range []string{"ca.crt", file + ".crt", file + ".key"} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		inlined[i] = base64.StdEncoding.EncodeToString(raw)
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: %[1]s
contexts:
- name: %[1]s
  context: {cluster: %[1]s, user: %[2]s}
clusters:
- name: %[1]s
  cluster: {server: "%[3]s", certificate-authority-data: %[4]s}
users:
- name: %[2]s
  user: {client-certificate-data: %[5]s, client-key-data: %[6]s}
`, Context, file, server, inlined[0], inlined[1], inlined[2])
	return os.WriteFile(path, []byte(text), 0o600)
}
