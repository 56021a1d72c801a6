# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_fleetpack_global_optspecs
    string join \n q/quiet h/help V/version
end

function __fish_fleetpack_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_fleetpack_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_fleetpack_using_subcommand
    set -l cmd (__fish_fleetpack_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c fleetpack -n "__fish_fleetpack_needs_command" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -s V -l version -d 'Print version'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "build" -d 'Resolve a Git revision and every image it runs into one archive'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "lock" -d 'Write what each image reference of a revision means to `fleetpack.lock`'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "render" -d 'Print the objects that a revision renders to, and the file that each comes from'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "verify" -d 'Prove offline that an archive is whole and who vouches for it'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "inspect" -d 'Show what an archive says it holds'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "images" -d 'List every image that a revision needs, and everything that says so'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "sign" -d 'Add a signature to an archive'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "keygen" -d 'Make a key pair as cosign writes it: an encrypted private key and its public key'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "apply" -d 'Check an archive, take it into the store, and install it in the cluster'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "rollback" -d 'Go back to the release before, or to another one that the store keeps'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "status" -d 'Show which releases the site keeps, which one is active, whether it is healthy, and what differs from it'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "history" -d 'Show what was done at this site, from the ledger'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "gc" -d 'Free the space of releases that need not stay, and of what cut commands left behind'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "export" -d 'Write the archive of a release out again, bit for bit as it came in, with its signatures'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "scrub" -d 'Hash everything in the store again, and mend what is damaged'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "watch" -d 'Keep the cluster at the active release: bring back, from the store alone, what differs from it'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "serve" -d 'Serve images and Git from the store, or straight from an archive, read-only'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "mirrors" -d 'Print the configuration that points a container runtime at this site, or check it'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "demo" -d 'Show the whole way on this machine: build, verify, serve, apply, a second release, rollback'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "completions" -d 'Print the completions of a shell'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "man" -d 'Print the man page, or write every page to a folder'
complete -c fleetpack -n "__fish_fleetpack_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand build" -s r -l revision -d 'Branch, tag or hash to work on' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand build" -s o -l output -d 'The archive to write, or a folder for it [default: NAME-VERSION.fleetpack.tar here]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand build" -l platform -d 'Take these platforms of each image index alone; may be given several times [default: fleetpack.yaml\'s, else all]' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand build" -l image -d 'Carry this image too, although no manifest names it; may be given several times' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand build" -l images-from -d 'Take images from an OCI layout before asking their registries: `oci:DIR` or `oci-archive:FILE`, with `=REPOSITORY[:TAG]` behind it where the layout does not name them; may be given several times' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand build" -l jobs -d 'Downloads at a time' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand build" -l referrers -d 'What of that which refers to an image travels with it [default: fleetpack.yaml\'s, else all]' -r -f -a "all\t'Signatures, attestations, SBOMs, and what refers to them'
signatures\t'Signatures alone'
none\t'Nothing'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand build" -l reuse -d 'Take blobs from this earlier archive, or from the folder of a store on this machine, instead of downloading them: each is hashed, and fetched after all where it is damaged; may be given several times' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand build" -l compare -d 'Write nothing: say whether the revision gives this archive (`-` reads standard input), byte for byte but for its signatures, or what differs; exits with 3 when it does. What was given when it was built (`--revision`, `--platform`, `--image`, `--name` ...) must be given again' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand build" -l name -d 'Name of the release [default: fleetpack.yaml\'s, else the repository folder\'s]' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand build" -l release-version -d 'Version of the release [default: fleetpack.yaml\'s, else the tag at the revision, else its short hash]' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand build" -l sequence -d 'Number that sites use to tell newer from older [default: count of commits that the revision reaches]' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand build" -s k -l key -d 'Sign with this private key (cosign\'s format); its password is `COSIGN_PASSWORD`, else asked for' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand build" -l format -d 'How to print the result' -r -f -a "text\t'For people'
json\t'For programs: one JSON document with a `format` number'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand build" -l locked -d 'Fail unless the revision\'s `fleetpack.lock` names every image that is used, and no other'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand build" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand build" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand lock" -s r -l revision -d 'Branch, tag or hash to work on' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand lock" -s o -l output -d 'The file to write; `-` prints it [default: fleetpack.lock at the root of the work tree]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand lock" -l update -d 'Ask for these references again, or for all where none is named; may mean another digest then' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand lock" -l platform -d 'Take these platforms of each image index alone; may be given several times [default: fleetpack.yaml\'s, else all]' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand lock" -l image -d 'Carry this image too, although no manifest names it; may be given several times' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand lock" -l images-from -d 'Take images from an OCI layout before asking their registries: `oci:DIR` or `oci-archive:FILE`, with `=REPOSITORY[:TAG]` behind it where the layout does not name them; may be given several times' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand lock" -l jobs -d 'Downloads at a time' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand lock" -l format -d 'How to print what changed' -r -f -a "text\t'For people'
json\t'For programs: one JSON document with a `format` number'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand lock" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand lock" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand render" -s r -l revision -d 'Branch, tag or hash to work on' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand render" -l format -d 'How to print them' -r -f -a "text\t'A line an object: API version, kind and name, role, file'
json\t'One JSON document with a `format` number; `object` holds the whole object'
yaml\t'The objects as YAML documents, each below a comment that says where it comes from'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand render" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand render" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand verify" -s k -l key -d 'Public key that must have signed; may be given several times, and one of them must match' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand verify" -l format -d 'How to print the result' -r -f -a "text\t'For people'
json\t'For programs: one JSON document with a `format` number'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand verify" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand inspect" -s k -l key -d 'Public key that must have signed; may be given several times' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand inspect" -l format -d 'How to print it: `json` holds the release document, or the part of it, under `release`' -r -f -a "text\t'For people'
json\t'For programs: one JSON document with a `format` number'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand inspect" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand inspect" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand images" -s r -l revision -d 'Branch, tag or hash to work on' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand images" -l platform -d 'Take these platforms of each image index alone; may be given several times [default: fleetpack.yaml\'s, else all]' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand images" -l image -d 'Carry this image too, although no manifest names it; may be given several times' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand images" -l images-from -d 'Take images from an OCI layout before asking their registries: `oci:DIR` or `oci-archive:FILE`, with `=REPOSITORY[:TAG]` behind it where the layout does not name them; may be given several times' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand images" -l jobs -d 'Downloads at a time' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand images" -l format -d 'How to print the list' -r -f -a "text\t'For people'
json\t'For programs: one JSON document with a `format` number'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand images" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand images" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand sign" -s k -l key -d 'Private key (cosign\'s format); its password is `COSIGN_PASSWORD`, else asked for' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand sign" -s o -l output -d 'Write the signed archive here and leave the given one as it is' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand sign" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand sign" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand keygen" -l output-key-prefix -d 'Write `PREFIX.key` and `PREFIX.pub`; existing files are never replaced' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand keygen" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand keygen" -s h -l help -d 'Print help'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand apply" -s k -l key -d 'Public key that must have signed; may be given several times, and one of them must match' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand apply" -l store -d 'The site\'s store [default: /var/lib/fleetpack for root, else `$XDG_DATA_HOME`/fleetpack]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand apply" -l kubeconfig -d 'kubeconfig file [default: $KUBECONFIG, else ~/.kube/config, else the service account]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand apply" -l context -d 'Context of the kubeconfig [default: its current one]' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand apply" -l endpoint -d 'Where the nodes reach `fleetpack serve` [default: where `serve` runs, as it wrote into the store]' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand apply" -l registry -d 'Push to this registry of the site\'s own, below the prefix, instead of having nodes pull from `fleetpack serve` [default: the one that the store remembers]. Credentials, certificates and `insecure` come from where skopeo and podman look for them' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand apply" -l timeout -d 'How long the release may take to become healthy' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand apply" -l keep -d 'Releases to keep complete in the store, the active one included' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand apply" -l allow-downgrade -d 'Install a release that is older than the active one, for the reason given; the ledger keeps it' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand apply" -l format -d 'How to print the result; `json` tells the course too, one object a line, the report last' -r -f -a "text\t'For people'
json\t'For programs: one JSON document with a `format` number'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand apply" -l dry-run -d 'Print what would change in the cluster, and change nothing, neither there nor in the store'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand apply" -l seed-only -d 'Stop when every image and the commit can be had from the endpoint; leave the cluster alone'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand apply" -l no-rollback -d 'Leave the cluster as it is when the release does not become healthy'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand apply" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand apply" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand rollback" -l to -d 'Release to go to: digest (or the beginning of one) or version [default: the one that ran before]' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand rollback" -l name -d 'Name of the release, where the store holds several' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand rollback" -l store -d 'The site\'s store [default: /var/lib/fleetpack for root, else `$XDG_DATA_HOME`/fleetpack]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand rollback" -l kubeconfig -d 'kubeconfig file [default: $KUBECONFIG, else ~/.kube/config, else the service account]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand rollback" -l context -d 'Context of the kubeconfig [default: its current one]' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand rollback" -l endpoint -d 'Where the nodes reach `fleetpack serve` [default: where `serve` runs, as it wrote into the store]' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand rollback" -l registry -d 'Push to this registry of the site\'s own, below the prefix, instead of having nodes pull from `fleetpack serve` [default: the one that the store remembers]. Credentials, certificates and `insecure` come from where skopeo and podman look for them' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand rollback" -l timeout -d 'How long the release may take to become healthy' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand rollback" -l format -d 'How to print the result; `json` tells the course too, one object a line, the report last' -r -f -a "text\t'For people'
json\t'For programs: one JSON document with a `format` number'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand rollback" -l dry-run -d 'Print what would change in the cluster, and change nothing'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand rollback" -l seed-only -d 'Leave the cluster alone: Git and tags lead to the release again (for sites whose cluster takes releases from the store by itself)'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand rollback" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand rollback" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand status" -l store -d 'The site\'s store [default: /var/lib/fleetpack for root, else `$XDG_DATA_HOME`/fleetpack]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand status" -l kubeconfig -d 'kubeconfig file [default: $KUBECONFIG, else ~/.kube/config, else the service account]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand status" -l context -d 'Context of the kubeconfig [default: its current one]' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand status" -l format -d 'How to print it' -r -f -a "text\t'For people'
json\t'For programs: one JSON document with a `format` number'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand status" -l offline -d 'Read the store alone, and do not ask the cluster'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand status" -l exit-code -d 'End with 8 where the cluster differs or is not healthy, 4 where the active release is not complete in the store, 1 where the cluster cannot be asked [default: 0 in all of these cases]'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand status" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand history" -l store -d 'The site\'s store [default: /var/lib/fleetpack for root, else `$XDG_DATA_HOME`/fleetpack]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand history" -l format -d 'How to print it' -r -f -a "text\t'For people'
json\t'For programs: one JSON document with a `format` number'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand history" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand history" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand gc" -l store -d 'The site\'s store [default: /var/lib/fleetpack for root, else `$XDG_DATA_HOME`/fleetpack]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand gc" -l keep -d 'Releases of each name to keep, of those that ran' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand gc" -l format -d 'How to print the result' -r -f -a "text\t'For people'
json\t'For programs: one JSON document with a `format` number'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand gc" -l dry-run -d 'Say what would go, and change nothing'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand gc" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand gc" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand export" -s o -l output -d 'The archive to write, or a folder for it; `-` writes to standard output [default: NAME-VERSION.fleetpack.tar here]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand export" -l name -d 'Name of the release, where the store holds several' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand export" -l store -d 'The site\'s store [default: /var/lib/fleetpack for root, else `$XDG_DATA_HOME`/fleetpack]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand export" -l format -d 'How to print the result, which is not printed beside an archive on standard output' -r -f -a "text\t'For people'
json\t'For programs: one JSON document with a `format` number'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand export" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand export" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand scrub" -l store -d 'The site\'s store [default: /var/lib/fleetpack for root, else `$XDG_DATA_HOME`/fleetpack]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand scrub" -l repair -d 'Take damaged and missing blobs again from this archive; `-` reads standard input; may be given several times. Needs no key: only bytes are taken whose digest a release in the store needs' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand scrub" -l format -d 'How to print the result' -r -f -a "text\t'For people'
json\t'For programs: one JSON document with a `format` number'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand scrub" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand scrub" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand watch" -l store -d 'The site\'s store [default: /var/lib/fleetpack for root, else `$XDG_DATA_HOME`/fleetpack]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand watch" -l kubeconfig -d 'kubeconfig file [default: $KUBECONFIG, else ~/.kube/config, else the service account]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand watch" -l context -d 'Context of the kubeconfig [default: its current one]' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand watch" -l name -d 'Watch this line of releases alone [default: all that the store holds]' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand watch" -l interval -d 'How long to wait between two looks' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand watch" -l format -d 'How to print the lines: text, or JSON, one object a line' -r -f -a "text\t'For people'
json\t'For programs: one JSON document with a `format` number'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand watch" -l once -d 'Look and heal once, and end: with 0 when all is as it should be, 8 when something is left, 1 when the cluster cannot be asked, 7 when another fleetpack holds the store'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand watch" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand watch" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -l listen -d 'Address to listen on; port 0 takes a free one' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -l store -d 'The site\'s store [default: /var/lib/fleetpack for root, else `$XDG_DATA_HOME`/fleetpack]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -l archive -d 'Serve this archive instead of the store; each blob is verified when it is first read' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -s k -l key -d 'Public key that must have signed the archive; may be given several times' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -l server-name -d 'Name or address by which nodes reach this server; may be given several times. The first one is recorded as the site\'s endpoint, all of them stand in a self-signed site\'s certificate' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -l tls-cert -d 'Speak TLS with this certificate: PEM, the server\'s own first, then those between it and the authority. Read again when it changes, and on SIGHUP' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -l tls-key -d 'Private key of the certificate: PEM' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -l htpasswd -d 'Ask for a name and a password, those of this htpasswd file (bcrypt: `htpasswd -B`). For everything but `/healthz`. Read again when it changes, and on SIGHUP' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -l max-connections -d 'Connections at a time; more wait' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -l max-connections-per-address -d 'Connections of one address at a time; more are turned away. Loopback is not counted' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -l idle-timeout -d 'How long a request\'s head may take, and a connection lie idle' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -l stall-timeout -d 'How long a client may take nothing, or next to nothing, of an answer' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -l grace -d 'How long requests that are under way may go on after a stop is asked for' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -l log-format -d 'Write a line for each request to stderr, and warnings in the same format [default: warnings alone, as text]' -r -f -a "text\t'For people'
json\t'One JSON object a line'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -l tls-self-signed -d 'Speak TLS with a certificate of the site\'s own authority, which is made in the store on first use. Nodes are to trust `STORE/serve/ca.crt`'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -l plaintext-passwords -d 'Let passwords cross a network in the clear: something in front of this server speaks TLS'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -l print-systemd-unit -d 'Print a systemd unit that serves with these very options, and end'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand serve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand mirrors" -l runtime -d 'The runtime' -r -f -a "containerd\t'containerd\'s `config_path` tree of `hosts.toml` files, /etc/containerd/certs.d'
k3s\t'`registries.yaml` of k3s, /etc/rancher/k3s'
rke2\t'The same of RKE2, /etc/rancher/rke2'
crio\t'A drop-in of registries.conf for CRI-O and podman, /etc/containers'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand mirrors" -l endpoint -d 'Where the nodes find the images: URL of `fleetpack serve`, or of a registry with its prefix as the path; may be given several times, and nodes try them in this order [default: the registry of the last `apply --registry`, else where `serve` runs]' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand mirrors" -l ca -d 'Certificate (PEM) of the authority that nodes are to trust for these endpoints [default: that of `serve` where it made one]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand mirrors" -l username -d 'Name that nodes log in with' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand mirrors" -l password-file -d 'File whose first line is their password' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand mirrors" -l store -d 'The site\'s store [default: /var/lib/fleetpack for root, else `$XDG_DATA_HOME`/fleetpack]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand mirrors" -l write -d 'Write the files below this folder (the runtime\'s own: /etc/containerd/certs.d, /etc/rancher/k3s, /etc/rancher/rke2, /etc/containers) instead of printing them' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand mirrors" -l root -d 'The node\'s file system [default: this machine\'s; files that are not there are wrong only where this is given]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand mirrors" -l format -d 'How to print it' -r -f -a "text\t'For people'
json\t'For programs: one JSON document with a `format` number'"
complete -c fleetpack -n "__fish_fleetpack_using_subcommand mirrors" -l check -d 'Ask each endpoint for every image of the active releases as the runtime would, and compare the files of this node, where it has them, with what they should say. Ends with 4 where an image is lacking, 8 where a file is wrong'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand mirrors" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand mirrors" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand demo" -l kubeconfig -d 'kubeconfig file [default: $KUBECONFIG, else ~/.kube/config, else the service account]' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand demo" -l context -d 'Context of the kubeconfig [default: its current one]' -r
complete -c fleetpack -n "__fish_fleetpack_using_subcommand demo" -l cluster -d 'Apply to a cluster as well: its objects (none of them runs a pod) stay in the namespace `fleetpack-demo`'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand demo" -l keep-folder -d 'Keep the folder with archives, keys and store, and say where it is'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand demo" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand demo" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand completions" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand completions" -s h -l help -d 'Print help'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand man" -l write -d 'Folder to write every page to, one file a subcommand; without it the main page is printed' -r -F
complete -c fleetpack -n "__fish_fleetpack_using_subcommand man" -s q -l quiet -d 'Print results, warnings and errors only: no status, no progress'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand man" -s h -l help -d 'Print help'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "build" -d 'Resolve a Git revision and every image it runs into one archive'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "lock" -d 'Write what each image reference of a revision means to `fleetpack.lock`'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "render" -d 'Print the objects that a revision renders to, and the file that each comes from'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "verify" -d 'Prove offline that an archive is whole and who vouches for it'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "inspect" -d 'Show what an archive says it holds'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "images" -d 'List every image that a revision needs, and everything that says so'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "sign" -d 'Add a signature to an archive'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "keygen" -d 'Make a key pair as cosign writes it: an encrypted private key and its public key'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "apply" -d 'Check an archive, take it into the store, and install it in the cluster'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "rollback" -d 'Go back to the release before, or to another one that the store keeps'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "status" -d 'Show which releases the site keeps, which one is active, whether it is healthy, and what differs from it'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "history" -d 'Show what was done at this site, from the ledger'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "gc" -d 'Free the space of releases that need not stay, and of what cut commands left behind'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "export" -d 'Write the archive of a release out again, bit for bit as it came in, with its signatures'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "scrub" -d 'Hash everything in the store again, and mend what is damaged'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "watch" -d 'Keep the cluster at the active release: bring back, from the store alone, what differs from it'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "serve" -d 'Serve images and Git from the store, or straight from an archive, read-only'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "mirrors" -d 'Print the configuration that points a container runtime at this site, or check it'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "demo" -d 'Show the whole way on this machine: build, verify, serve, apply, a second release, rollback'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "completions" -d 'Print the completions of a shell'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "man" -d 'Print the man page, or write every page to a folder'
complete -c fleetpack -n "__fish_fleetpack_using_subcommand help; and not __fish_seen_subcommand_from build lock render verify inspect images sign keygen apply rollback status history gc export scrub watch serve mirrors demo completions man help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
