// Command mkimage makes small images that really run: busybox with its applets
// as the base layer, more layers on top. The same arguments give the same
// digest on every machine that has the same busybox: times are zero, owners are
// root, entries are sorted.
//
// It is a test tool. It pushes by plain HTTP to a registry on loopback and
// nowhere else.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const refName = "org.opencontainers.image.ref.name"

// list is a flag that may be given more than once.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

type options struct {
	name, registry, oci, base, format, compression, platform string
	user, workdir, login                                     string
	flat                                                     bool
	add, file, env, label, annotation, cmd, entrypoint, port list
}

func main() {
	if len(os.Args) < 2 || os.Args[1] != "make" {
		fmt.Fprintln(os.Stderr, "usage: image make --name REF (--registry HOST:PORT | --oci DIR) [...]; see image make --help")
		os.Exit(2)
	}
	var o options
	f := flag.NewFlagSet("image make", flag.ExitOnError)
	f.StringVar(&o.name, "name", "", "the image's full `REF`, such as registry.example.com/shop/web:1.0")
	f.StringVar(&o.registry, "registry", "", "push to this `HOST:PORT` on loopback, under REF's path with its domain in front")
	f.BoolVar(&o.flat, "flat", false, "push under REF's path without its domain, as a mirror is asked for it")
	f.StringVar(&o.login, "login", "", "`USER:PASSWORD` for the registry")
	f.StringVar(&o.oci, "oci", "", "write into the OCI layout in `DIR`, which other images may already be in")
	f.StringVar(&o.base, "base", "busybox", "base layer: busybox, pause (a sandbox's program) or none")
	f.StringVar(&o.format, "format", "oci", "media types: oci or docker")
	f.StringVar(&o.compression, "compression", "gzip", "of the layers: gzip, zstd or none")
	f.StringVar(&o.platform, "platform", "linux/amd64", "`OS/ARCH[/VARIANT],...`; more than one makes an index (every child holds the same files)")
	f.StringVar(&o.user, "user", "", "the config's `USER`")
	f.StringVar(&o.workdir, "workdir", "", "the config's working `DIR`")
	f.Var(&o.add, "add", "one more layer, of the tree in `DIR`, or of its content under a prefix: DIR:/prefix")
	f.Var(&o.file, "file", "one more file, `NAME=CONTENT`; all of them make the last layer")
	f.Var(&o.cmd, "cmd", "one `WORD` of the command, given once a word")
	f.Var(&o.entrypoint, "entrypoint", "one `WORD` of the entrypoint, given once a word")
	f.Var(&o.env, "env", "`KEY=VALUE`")
	f.Var(&o.label, "label", "`KEY=VALUE` in the config")
	f.Var(&o.annotation, "annotation", "`KEY=VALUE` in the manifest, and in the index if there is one")
	f.Var(&o.port, "port", "exposed `PORT/tcp`")
	_ = f.Parse(os.Args[2:])
	if f.NArg() != 0 {
		fail(fmt.Errorf("unexpected argument `%s`", f.Arg(0)))
	}
	digest, err := run(o)
	if err != nil {
		fail(err)
	}
	fmt.Println(digest)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "image: error:", err)
	os.Exit(1)
}

func run(o options) (v1.Hash, error) {
	var none v1.Hash
	if o.name == "" || (o.registry == "") == (o.oci == "") {
		return none, errors.New("want --name and one of --registry and --oci")
	}
	ref, err := name.ParseReference(o.name)
	if err != nil {
		return none, err
	}
	layers, err := o.layers()
	if err != nil {
		return none, err
	}
	var images []v1.Image
	var platforms []v1.Platform
	for _, p := range strings.Split(o.platform, ",") {
		platform, err := v1.ParsePlatform(p)
		if err != nil {
			return none, err
		}
		image, err := o.image(layers, *platform)
		if err != nil {
			return none, err
		}
		images, platforms = append(images, image), append(platforms, *platform)
	}
	if len(images) == 1 {
		if err := o.writeImage(ref, images[0]); err != nil {
			return none, err
		}
		return images[0].Digest()
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	if o.format == "docker" {
		index = mutate.IndexMediaType(empty.Index, types.DockerManifestList)
	}
	for i, image := range images {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        plain{image},
			Descriptor: v1.Descriptor{Platform: &platforms[i]},
		})
	}
	if len(o.annotation) > 0 {
		index = mutate.Annotations(index, pairs(o.annotation)).(v1.ImageIndex)
	}
	if err := o.writeIndex(ref, index); err != nil {
		return none, err
	}
	return index.Digest()
}

// plain is an image whose descriptor in an index has no artifactType, as every
// real builder writes it. go-containerregistry would put the config's media type
// there.
type plain struct{ v1.Image }

// ArtifactType is looked for by go-containerregistry's partial.Descriptor.
func (plain) ArtifactType() (string, error) { return "", nil }

func (o options) image(layers []v1.Layer, platform v1.Platform) (v1.Image, error) {
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	if o.format == "docker" {
		image = mutate.MediaType(empty.Image, types.DockerManifestSchema2)
		image = mutate.ConfigMediaType(image, types.DockerConfigJSON)
	}
	config := &v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant,
		Config: v1.Config{
			Env:        append([]string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin"}, o.env...),
			Cmd:        o.cmd,
			Entrypoint: o.entrypoint,
			User:       o.user,
			WorkingDir: o.workdir,
			Labels:     pairs(o.label),
		},
	}
	for _, p := range o.port {
		if config.Config.ExposedPorts == nil {
			config.Config.ExposedPorts = map[string]struct{}{}
		}
		config.Config.ExposedPorts[p] = struct{}{}
	}
	image, err := mutate.ConfigFile(image, config)
	if err != nil {
		return nil, err
	}
	for _, layer := range layers {
		mediaType, err := layer.MediaType()
		if err != nil {
			return nil, err
		}
		image, err = mutate.Append(image, mutate.Addendum{
			Layer:     layer,
			MediaType: mediaType,
			History:   v1.History{CreatedBy: "fleetpack testbed"},
		})
		if err != nil {
			return nil, err
		}
	}
	if len(o.annotation) > 0 {
		image = mutate.Annotations(image, pairs(o.annotation)).(v1.Image)
	}
	return image, nil
}

// where is the reference to push to: always on loopback, always by plain HTTP.
func (o options) where(ref name.Reference) (name.Reference, error) {
	host, _, err := net.SplitHostPort(o.registry)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("`%s` is not on loopback", o.registry)
	}
	repository := ref.Context().RepositoryStr()
	if !o.flat {
		host := ref.Context().RegistryStr()
		if host == name.DefaultRegistry {
			host = "docker.io" // as the rest of the field writes it
		}
		repository = strings.ReplaceAll(host, ":", "_") + "/" + repository
	}
	return name.ParseReference(o.registry+"/"+repository+":"+ref.Identifier(), name.Insecure)
}

// auth takes nothing from the user's own login files.
func (o options) auth() remote.Option {
	user, password, ok := strings.Cut(o.login, ":")
	if !ok {
		return remote.WithAuth(authn.Anonymous)
	}
	return remote.WithAuth(&authn.Basic{Username: user, Password: password})
}

func (o options) writeImage(ref name.Reference, image v1.Image) error {
	if o.oci == "" {
		to, err := o.where(ref)
		if err != nil {
			return err
		}
		return remote.Write(to, image, o.auth())
	}
	path, err := openLayout(o.oci)
	if err != nil {
		return err
	}
	return path.ReplaceImage(image, named(o.name), layout.WithAnnotations(map[string]string{refName: o.name}))
}

func (o options) writeIndex(ref name.Reference, index v1.ImageIndex) error {
	if o.oci == "" {
		to, err := o.where(ref)
		if err != nil {
			return err
		}
		return remote.WriteIndex(to, index, o.auth())
	}
	path, err := openLayout(o.oci)
	if err != nil {
		return err
	}
	return path.ReplaceIndex(index, named(o.name), layout.WithAnnotations(map[string]string{refName: o.name}))
}

func openLayout(dir string) (layout.Path, error) {
	if path, err := layout.FromPath(dir); err == nil {
		return path, nil
	}
	return layout.Write(dir, empty.Index)
}

func named(ref string) func(v1.Descriptor) bool {
	return func(d v1.Descriptor) bool { return d.Annotations[refName] == ref }
}

func pairs(l list) map[string]string {
	if len(l) == 0 {
		return nil
	}
	m := make(map[string]string, len(l))
	for _, s := range l {
		key, value, _ := strings.Cut(s, "=")
		m[key] = value
	}
	return m
}

// layers makes the base, one layer of each --add, and one of all --file.
func (o options) layers() ([]v1.Layer, error) {
	var layers []v1.Layer
	add := func(t *tree) error {
		layer, err := o.layer(t)
		layers = append(layers, layer)
		return err
	}
	switch o.base {
	case "busybox":
		base, err := busybox()
		if err != nil {
			return nil, err
		}
		if err := add(base); err != nil {
			return nil, err
		}
	case "pause":
		base := newTree()
		content, err := os.ReadFile(filepath.Join(os.Getenv("FLEETPACK_TESTBED"), "go", "pause"))
		if err != nil {
			return nil, err
		}
		base.file("pause", 0o755, content)
		if err := add(base); err != nil {
			return nil, err
		}
	case "none":
	default:
		return nil, fmt.Errorf("--base `%s`: want busybox, pause or none", o.base)
	}
	for _, dir := range o.add {
		dir, prefix, _ := strings.Cut(dir, ":")
		t := newTree()
		if err := t.walk(dir, prefix); err != nil {
			return nil, err
		}
		if err := add(t); err != nil {
			return nil, err
		}
	}
	if len(o.file) > 0 {
		t := newTree()
		for _, f := range o.file {
			file, content, ok := strings.Cut(f, "=")
			if !ok {
				return nil, fmt.Errorf("--file `%s`: want NAME=CONTENT", f)
			}
			t.file(file, 0o644, []byte(content))
		}
		if err := add(t); err != nil {
			return nil, err
		}
	}
	return layers, nil
}

func (o options) layer(t *tree) (v1.Layer, error) {
	content, err := t.tar()
	if err != nil {
		return nil, err
	}
	docker := o.format == "docker"
	if !docker && o.format != "oci" {
		return nil, fmt.Errorf("--format `%s`: want oci or docker", o.format)
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	switch o.compression {
	case "none":
		if docker {
			return static.NewLayer(content, types.DockerUncompressedLayer), nil
		}
		return static.NewLayer(content, types.OCIUncompressedLayer), nil
	case "gzip":
		mediaType := types.OCILayer
		if docker {
			mediaType = types.DockerLayer
		}
		return tarball.LayerFromOpener(open, tarball.WithMediaType(mediaType), tarball.WithCompressedCaching)
	case "zstd":
		if docker {
			return nil, errors.New("docker's format has no media type for zstd")
		}
		return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayerZStd),
			tarball.WithCompression(compression.ZStd), tarball.WithCompressedCaching)
	}
	return nil, fmt.Errorf("--compression `%s`: want gzip, zstd or none", o.compression)
}

// busybox is the static binary of $FLEETPACK_TESTBED with a link for each of its
// applets, and the few files without which programs behave strangely.
func busybox() (*tree, error) {
	file := filepath.Join(os.Getenv("FLEETPACK_TESTBED"), "bin", "busybox")
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(file, "--list").Output()
	if err != nil {
		return nil, err
	}
	t := newTree()
	t.file("bin/busybox", 0o755, content)
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			t.symlink("bin/"+applet, "busybox")
		}
	}
	t.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	t.file("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	t.dir("root", 0o700)
	t.dir("tmp", 0o1777)
	return t, nil
}

// tree collects the entries of one layer.
type tree struct {
	entries map[string]entry
}

type entry struct {
	header  tar.Header
	content []byte
}

func newTree() *tree { return &tree{entries: map[string]entry{}} }

func (t *tree) put(name string, e entry) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return
	}
	// Parents first: some unpackers insist.
	if _, ok := t.entries[path.Dir(name)]; !ok && path.Dir(name) != "." {
		t.dir(path.Dir(name), 0o755)
	}
	e.header.Name = name
	if e.header.Typeflag == tar.TypeDir {
		e.header.Name += "/"
	}
	t.entries[name] = e
}

func (t *tree) file(name string, mode int64, content []byte) {
	t.put(name, entry{tar.Header{Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(content))}, content})
}

func (t *tree) dir(name string, mode int64) {
	t.put(name, entry{header: tar.Header{Typeflag: tar.TypeDir, Mode: mode}})
}

func (t *tree) symlink(name, target string) {
	t.put(name, entry{header: tar.Header{Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: target}})
}

// walk adds the tree in dir under the prefix. Owners and times are dropped.
func (t *tree) walk(dir, prefix string) error {
	return filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, file)
		if err != nil || relative == "." || relative == ".package" {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, mode := path.Join(prefix, filepath.ToSlash(relative)), int64(info.Mode().Perm())
		switch {
		case info.Mode()&fs.ModeSetuid != 0:
			mode |= 0o4000
		case info.Mode()&fs.ModeSticky != 0:
			mode |= 0o1000
		}
		switch {
		case d.IsDir():
			t.dir(name, mode)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(file)
			if err != nil {
				return err
			}
			t.symlink(name, target)
		case info.Mode().IsRegular():
			content, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			t.file(name, mode, content)
		}
		return nil
	})
}

func (t *tree) tar() ([]byte, error) {
	names := make([]string, 0, len(t.entries))
	for name := range t.entries {
		names = append(names, name)
	}
	sort.Strings(names)
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, name := range names {
		e := t.entries[name]
		if err := w.WriteHeader(&e.header); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.content); err != nil {
			return nil, err
		}
	}
	return buffer.Bytes(), w.Close()
}
