package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"

	"smallfirst.dev/tests/cluster/internal/image"
	"smallfirst.dev/tests/cluster/internal/instance"
	"smallfirst.dev/tests/cluster/internal/render"
)

func imageCommand(args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return flag.ErrHelp
	}
	switch args[0] {
	case "import":
		return imageImport(args[1:])
	case "pack":
		return imagePack(args[1:])
	}
	return fmt.Errorf("unknown command image %q", args[0])
}

func imageImport(args []string) error {
	set, t := flags("image import")
	if err := set.Parse(args); err != nil {
		return err
	}
	in, err := t.load()
	if err != nil {
		return err
	}
	if in.Variant != instance.Full {
		return fmt.Errorf("a %s cluster has no node to load images into", in.Variant)
	}
	if set.NArg() == 0 {
		return errors.New("no image archive given")
	}
	return importImages(in, set.Args())
}

func importImages(in *instance.Instance, archives []string) error {
	for _, archive := range archives {
		ctr := exec.Command("ctr", "--address", render.ContainerdSocket(in), "--namespace", "k8s.io", "images", "import", archive)
		if out, err := ctr.CombinedOutput(); err != nil {
			return fmt.Errorf("import %s: %w: %s", archive, err, out)
		}
	}
	return nil
}

func imagePack(args []string) error {
	set := flag.NewFlagSet("image pack", flag.ContinueOnError)
	spec := image.Spec{Files: map[string]string{}}
	set.StringVar(&spec.Name, "t", "", "name with tag, such as smallfirst.local/NAME:dev")
	out := set.String("o", "", "the archive to write")
	entrypoint := set.String("entrypoint", "", "path in the image")
	set.StringVar(&spec.User, "user", "65532", "numeric user")
	if err := set.Parse(args); err != nil {
		return err
	}
	if spec.Name == "" || *out == "" || set.NArg() == 0 {
		return errors.New("image pack needs -t NAME, -o FILE and at least one SOURCE:/TARGET")
	}
	for _, argument := range set.Args() {
		target, source, err := image.ParseFile(argument)
		if err != nil {
			return err
		}
		spec.Files[target] = source
		if *entrypoint == "" {
			*entrypoint = target
		}
	}
	spec.Entrypoint = []string{*entrypoint}
	return image.WriteFile(*out, spec)
}
