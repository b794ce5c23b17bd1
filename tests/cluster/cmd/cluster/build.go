package main

import (
	"errors"
	"fmt"

	"smallfirst.dev/tests/cluster/internal/build"
	"smallfirst.dev/tests/cluster/internal/instance"
)

// prepare makes the programs of a variant.
func prepare(variant instance.Variant) (*build.Builder, error) {
	builder, err := newBuilder()
	if err != nil {
		return nil, err
	}
	return builder, builder.Ensure(say, build.Programs(variant)...)
}

func newBuilder() (*build.Builder, error) {
	builder, err := build.New()
	if errors.Is(err, build.ErrNoGo) {
		return nil, skipped{err.Error()}
	}
	return builder, err
}

func buildCommand(args []string) error {
	set, t := flags("build")
	all := set.Bool("all", false, "every program, helm included")
	if err := set.Parse(args); err != nil {
		return err
	}
	_, variant, err := t.resolve()
	if err != nil {
		return err
	}
	if err := able(variant); err != nil {
		return err
	}
	builder, err := newBuilder()
	if err != nil {
		return err
	}
	names := build.Programs(variant)
	if *all {
		names = build.All()
	}
	if err := builder.Ensure(say, names...); err != nil {
		return err
	}
	fmt.Println(builder.Dir)
	return nil
}

// fetch makes the command line tools and prints the folder to put into PATH.
func fetch(args []string) error {
	set, _ := flags("fetch")
	if err := set.Parse(args); err != nil {
		return err
	}
	builder, err := newBuilder()
	if err != nil {
		return err
	}
	if err := builder.Ensure(say, "kubeparts", "helm"); err != nil {
		return err
	}
	fmt.Println(builder.Dir)
	return nil
}

// part makes one that is built only when asked for, and prints its folder.
func part(name string, args []string, build func(*build.Builder, func(string, ...any)) (string, error)) error {
	set, _ := flags(name)
	if err := set.Parse(args); err != nil {
		return err
	}
	builder, err := newBuilder()
	if err != nil {
		return err
	}
	dir, err := build(builder, say)
	if err != nil {
		return err
	}
	fmt.Println(dir)
	return nil
}

// environment prints shell lines for eval.
func environment(args []string) error {
	set, t := flags("env")
	if err := set.Parse(args); err != nil {
		return err
	}
	in, err := t.load()
	if err != nil {
		return err
	}
	builder, err := newBuilder()
	if err != nil {
		return err
	}
	fmt.Printf("export KUBECONFIG='%s'\nexport PATH='%s':\"$PATH\"\n", in.Kubeconfig(), builder.Dir)
	return nil
}
