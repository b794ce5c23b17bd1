// Command cluster runs a real Kubernetes on this machine for tests and the demo.
//
//	build -> up -> (kubeconfig, env, image, status) -> down -> wipe
//
// Each command is one file. See README.md.
package main

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"smallfirst.dev/tests/cluster/internal/build"
	"smallfirst.dev/tests/cluster/internal/guard"
	"smallfirst.dev/tests/cluster/internal/instance"
	"smallfirst.dev/tests/cluster/internal/node"
)

const usage = `usage: cluster COMMAND [--run-dir DIR] [--variant full|control-plane|kwok] ...

  up [--kwok-nodes N]       start what is not running yet, until it is ready
  down                      stop; the disk stays
  wipe                      down, and delete the run folder
  status [-o json]          what runs
  kubeconfig                print the path of the administrator's kubeconfig
  env                       print shell lines that set KUBECONFIG and PATH
  image import FILE...      load image archives into the node
  image pack -t NAME -o FILE [--entrypoint P] [--user N] SOURCE:/TARGET...
                            make an image archive of files, without docker
  build                     compile what the variant runs, into the cache
  fetch                     compile helm and kubectl, print their folder
  keda                      compile KEDA, print the folder of keda.tar, its image, and keda.yaml, its manifests
  containerd                compile a containerd with image volumes, print its folder, to be put first into PATH

The run folder defaults to ${SMALLFIRST_RUN:-/run/smallfirst}/VARIANT.
Exit code 77: this machine can't, and a line says why.
`

// skipped is why this machine can't run a cluster; exit code 77.
type skipped struct{ reason string }

func (s skipped) Error() string { return "skipped, because " + s.reason }

func main() {
	err := run(os.Args[1:])
	var skip skipped
	switch {
	case err == nil:
	case errors.As(err, &skip):
		fmt.Println(skip.Error())
		os.Exit(77)
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return flag.ErrHelp
	}
	command, args := args[0], args[1:]
	switch command {
	case "up":
		return up(args)
	case "down":
		return down(args)
	case "wipe":
		return wipe(args)
	case "status":
		return status(args)
	case "kubeconfig":
		return kubeconfig(args)
	case "env":
		return environment(args)
	case "image":
		return imageCommand(args)
	case "build":
		return buildCommand(args)
	case "fetch":
		return fetch(args)
	case "keda":
		return part(command, args, (*build.Builder).KEDA)
	case "containerd":
		return part(command, args, (*build.Builder).Containerd)
	case "hold": // not for people: the process that owns the node's namespaces
		if len(args) != 1 {
			return flag.ErrHelp
		}
		in, err := instance.Load(args[0])
		if err != nil {
			return err
		}
		return node.Hold(in)
	case "help", "-h", "--help":
		fmt.Print(usage)
		return nil
	}
	fmt.Fprint(os.Stderr, usage)
	return fmt.Errorf("unknown command %q", command)
}

// target are the flags that every command has.
type target struct {
	dir     string
	variant string
}

// flags makes a command's flag set with the common flags.
func flags(command string) (*flag.FlagSet, *target) {
	set, t := flag.NewFlagSet(command, flag.ContinueOnError), &target{}
	set.StringVar(&t.dir, "run-dir", "", "the cluster's own folder")
	set.StringVar(&t.variant, "variant", string(instance.Full), "full, control-plane or kwok")
	set.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	return set, t
}

// resolve gives the run folder and the variant.
func (t *target) resolve() (string, instance.Variant, error) {
	variant, err := instance.ParseVariant(t.variant)
	if err != nil {
		return "", "", err
	}
	dir := t.dir
	if dir == "" {
		dir = filepath.Join(instance.Root(), string(variant))
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", "", err
	}
	return dir, variant, guard.RunDir(dir)
}

// load gives the instance of the run folder that the flags name.
func (t *target) load() (*instance.Instance, error) {
	dir, _, err := t.resolve()
	if err != nil {
		return nil, err
	}
	in, err := instance.Load(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no cluster in %s (start one with up)", dir)
	}
	return in, err
}

// lock keeps two runs of the tool off one run folder.
func lock(dir string) (func(), error) {
	name := fmt.Sprintf("%x.lock", sha256.Sum256([]byte(dir)))[:16]
	return instance.Lock(filepath.Join(instance.MachineState(), name))
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
