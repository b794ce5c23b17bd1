package image

import (
	"archive/tar"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

type entry struct{ target, source string }

// sorted gives the files in the order of their place in the image, without a leading slash.
func sorted(files map[string]string) []entry {
	all := make([]entry, 0, len(files))
	for target, source := range files {
		all = append(all, entry{strings.TrimPrefix(path.Clean("/"+target), "/"), source})
	}
	sort.Slice(all, func(i, j int) bool { return all[i].target < all[j].target })
	return all
}

// addTree adds a folder's regular files and links.
func addTree(archive *tar.Writer, made map[string]bool, target, source string) error {
	return filepath.WalkDir(source, func(at string, found os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(source, at)
		if err != nil {
			return err
		}
		name := path.Join(target, filepath.ToSlash(relative))
		if err := parents(archive, made, name); err != nil {
			return err
		}
		info, err := found.Info()
		if err != nil {
			return err
		}
		switch {
		case found.IsDir():
			return parents(archive, made, name+"/x")
		case info.Mode()&os.ModeSymlink != 0:
			link, err := os.Readlink(at)
			if err != nil {
				return err
			}
			return archive.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: link, Mode: 0o777})
		case info.Mode().IsRegular():
			data, err := os.ReadFile(at)
			if err != nil {
				return err
			}
			return add(archive, name, int64(info.Mode().Perm()), data)
		}
		return fmt.Errorf("%s is neither a file, a folder nor a link", at)
	})
}

// ParseFile reads a command line's SOURCE:TARGET.
func ParseFile(argument string) (target, source string, err error) {
	source, target, ok := strings.Cut(argument, ":")
	if !ok || source == "" || !strings.HasPrefix(target, "/") {
		return "", "", fmt.Errorf("%q is not SOURCE:/TARGET", argument)
	}
	return target, source, nil
}
