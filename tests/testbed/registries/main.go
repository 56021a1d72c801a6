// Registries that Debian has not: one binary, two peers.
//
//	registries distribution CONFIG.yml          distribution 3, files on disk
//	registries oci HOST:PORT [OPTION...]        ociregistry, in memory, with the referrers API
//
// Options of oci: `sparse` takes indexes whose children are missing, `no-referrers` leaves the API
// out, `no-digest` leaves Docker-Content-Digest out of answers to tags.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/distribution/distribution/v3/registry"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/auth/token"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
)

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func oci(address string, options []string) error {
	config := &ocimem.Config{}
	server := &ociserver.Options{}
	for _, option := range options {
		switch option {
		case "sparse":
			config.LaxChildReferences = true
		case "no-referrers":
			server.DisableReferrersAPI = true
		case "no-digest":
			server.OmitDigestFromTagGetResponse = true
		default:
			return fmt.Errorf("unknown option %q", option)
		}
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return http.Serve(listener, ociserver.New(ocimem.NewWithConfig(config), server))
}

func main() {
	if len(os.Args) < 3 {
		fail(fmt.Errorf("usage: registries distribution CONFIG.yml | registries oci HOST:PORT [OPTION...]"))
	}
	switch os.Args[1] {
	case "distribution":
		registry.RootCmd.SetArgs([]string{"serve", os.Args[2]})
		if err := registry.RootCmd.Execute(); err != nil {
			fail(err)
		}
	case "oci":
		if err := oci(os.Args[2], os.Args[3:]); err != nil {
			fail(err)
		}
	default:
		fail(fmt.Errorf("unknown registry %q", os.Args[1]))
	}
}
