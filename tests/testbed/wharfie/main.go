// wharfie FILE IMAGE...: pulls images through a registries.yaml with the package that k3s and RKE2
// read that file with, and prints the digest of each.
package main

import (
	"fmt"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/rancher/wharfie/pkg/registries"
)

func run(file string, images []string) error {
	config, err := registries.GetPrivateRegistries(file)
	if err != nil {
		return err
	}
	for _, image := range images {
		ref, err := name.ParseReference(image)
		if err != nil {
			return err
		}
		got, err := config.Image(ref)
		if err != nil {
			return err
		}
		layers, err := got.Layers()
		if err != nil {
			return err
		}
		for _, layer := range layers {
			content, err := layer.Uncompressed()
			if err != nil {
				return err
			}
			if err := content.Close(); err != nil {
				return err
			}
		}
		digest, err := got.Digest()
		if err != nil {
			return err
		}
		fmt.Println(digest)
	}
	return nil
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: wharfie FILE IMAGE...")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
