// Command gogit is a small Git client on go-git v5. It proves that go-git talks
// to fleetpack's Git server; git itself proves nothing about it.
//
//	gogit clone URL DIR [--depth N] [--ref REF] [--bare]
//	gogit fetch DIR [--depth N] [--force] [--tags]
//	gogit ls-remote URL
//
// Every command prints `<hash> <ref>` lines, sorted, as `git ls-remote` does.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"sort"

	git "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/memory"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gogit: error:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("want clone URL DIR [--depth N] [--ref REF] [--bare], fetch DIR [--depth N] [--force] [--tags] or ls-remote URL")

func run(args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	f := flag.NewFlagSet("gogit "+args[0], flag.ExitOnError)
	depth := f.Int("depth", 0, "history of so many commits only")
	ref := f.String("ref", "", "this ref alone")
	bare := f.Bool("bare", false, "without a work tree")
	force := f.Bool("force", false, "take updates that are not fast-forward")
	tags := f.Bool("tags", false, "all tags")
	// Arguments first, flags anywhere: the flag package alone stops at the first
	// argument.
	var rest []string
	for left := args[1:]; ; left = f.Args()[1:] {
		if err := f.Parse(left); err != nil {
			return err
		}
		if f.NArg() == 0 {
			break
		}
		rest = append(rest, f.Arg(0))
	}
	switch {
	case args[0] == "clone" && len(rest) == 2:
		options := &git.CloneOptions{URL: rest[0], Depth: *depth}
		if *ref != "" {
			options.ReferenceName, options.SingleBranch = plumbing.ReferenceName(*ref), true
		}
		repository, err := git.PlainClone(rest[1], *bare, options)
		if err != nil {
			return err
		}
		return printRefs(repository)
	case args[0] == "fetch" && len(rest) == 1:
		repository, err := git.PlainOpen(rest[0])
		if err != nil {
			return err
		}
		options := &git.FetchOptions{Depth: *depth, Force: *force}
		if *tags {
			options.Tags = git.AllTags
		}
		if err := repository.Fetch(options); err != nil && !errors.Is(err, git.NoErrAlreadyUpToDate) {
			return err
		}
		return printRefs(repository)
	case args[0] == "ls-remote" && len(rest) == 1:
		remote := git.NewRemote(memory.NewStorage(), &config.RemoteConfig{Name: "origin", URLs: rest})
		refs, err := remote.List(&git.ListOptions{PeelingOption: git.AppendPeeled})
		if err != nil {
			return err
		}
		show(refs)
		return nil
	}
	return errUsage
}

func printRefs(repository *git.Repository) error {
	iterator, err := repository.References()
	if err != nil {
		return err
	}
	var refs []*plumbing.Reference
	err = iterator.ForEach(func(r *plumbing.Reference) error {
		refs = append(refs, r)
		return nil
	})
	show(refs)
	return err
}

func show(refs []*plumbing.Reference) {
	lines := make([]string, 0, len(refs))
	for _, r := range refs {
		if r.Type() == plumbing.SymbolicReference {
			lines = append(lines, fmt.Sprintf("%s %s", r.Target(), r.Name()))
			continue
		}
		lines = append(lines, fmt.Sprintf("%s %s", r.Hash(), r.Name()))
	}
	sort.Strings(lines)
	for _, line := range lines {
		fmt.Println(line)
	}
}
