//! What looks like an image: names of fields and flags, and texts. Pure, and no sure thing: what
//! these rules take is asked for at its registry.

use crate::model::ImageRef;

/// How strongly a name says that its value is an image; more takes more kinds of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    /// It does not.
    None,
    /// `image` stands somewhere in it: the value wants a path and a tag or digest.
    Weak,
    /// The value is about an image: it wants a path, a tag or a digest.
    Part,
    /// The value is an image, of whatever form.
    Exact,
}

/// The words of a name, in lower case: of `RELATED_IMAGE_x`, `initImageURL`, `--solver-image`.
pub(super) fn words(name: &str) -> Vec<String> {
    // The domain of an annotation's key says nothing.
    let name = name.rsplit('/').next().unwrap_or_default();
    let chars: Vec<char> = name.chars().take(256).collect();
    let mut words: Vec<String> = Vec::new();
    let mut fresh = true;
    for (at, c) in chars.iter().enumerate() {
        if !c.is_alphanumeric() {
            fresh = true;
            continue;
        }
        // `aB` and the last capital of `ABc` begin a word.
        let capital = c.is_uppercase()
            && at > 0
            && (chars[at - 1].is_lowercase()
                || (chars[at - 1].is_uppercase()
                    && chars.get(at + 1).is_some_and(|next| next.is_lowercase())));
        if fresh || capital || words.is_empty() {
            words.push(String::new());
        }
        fresh = false;
        if let Some(word) = words.last_mut() {
            word.extend(c.to_lowercase());
        }
    }
    words
}

/// Words behind which `image` is something else than a container's.
const OTHER_IMAGES: &[&str] = &[
    "os",
    "background",
    "machine",
    "disk",
    "vm",
    "node",
    "boot",
    "logo",
    "icon",
    "cover",
    "hero",
    "preview",
    "thumbnail",
    "profile",
    "kernel",
    "cloud",
    "ami",
    "instance",
    "iso",
];

/// Words that make a name with `image` in it the name of something about an image.
const ABOUT: &[&str] = &[
    "pull",
    "policy",
    "secret",
    "secrets",
    "tag",
    "tags",
    "digest",
    "registry",
    "registries",
    "repository",
    "repo",
    "version",
    "size",
    "id",
    "ids",
    "format",
    "type",
    "dir",
    "path",
    "file",
    "width",
    "height",
    "prefix",
    "suffix",
    "gc",
    "cache",
    "quality",
    "hash",
    "sha",
    "count",
    "threshold",
    "scan",
    "signature",
    "platform",
    "arch",
    "architecture",
    "timeout",
    "interval",
    "maximum",
    "minimum",
    "limit",
    "enabled",
    "policies",
    "alt",
    "credentials",
];

/// Words behind `image` that still mean the image itself.
const ITSELF: &[&str] = &[
    "name",
    "ref",
    "reference",
    "url",
    "uri",
    "override",
    "default",
    "value",
    "full",
    "spec",
    "pullspec",
    "location",
];

/// What the name of a field, flag or variable says about its value.
pub(super) fn classify(name: &str) -> Name {
    if !contains_image(name) {
        return Name::None;
    }
    let words = words(name);
    let Some((last, before)) = words.split_last() else { return Name::None };
    let odd = || before.last().is_some_and(|word| OTHER_IMAGES.contains(&word.as_str()));
    match last.as_str() {
        "image" if odd() => Name::Part,
        "image" | "images" => Name::Exact,
        word if ITSELF.contains(&word) && before.last().is_some_and(|word| word == "image") => Name::Part,
        _ if words.iter().any(|word| ABOUT.contains(&word.as_str())) => Name::None,
        _ if words.len() > 2 && words[..2] == ["related", "image"] => Name::Part,
        _ if words.iter().any(|word| word == "image" || word == "images") => Name::Weak,
        _ => Name::None,
    }
}

fn contains_image(name: &str) -> bool {
    name.as_bytes().windows(5).any(|window| window.eq_ignore_ascii_case(b"image"))
}

/// Values of fields named `image` that mean no image.
const NO_IMAGES: &[&str] = &[
    "true", "false", "none", "null", "default", "auto", "latest", "yes", "no", "on", "off", "always",
    "never", "enabled", "disabled", "unset", "unknown", "any",
];

/// Endings of files that are no container images.
const FILES: &[&str] = &[
    "png", "jpg", "jpeg", "gif", "svg", "ico", "webp", "bmp", "tiff", "iso", "img", "qcow2", "vmdk", "vhd",
    "vhdx", "raw", "ova", "tar", "gz", "tgz", "xz", "zip", "json", "yaml", "yml", "txt", "md", "html", "htm",
    "css", "js", "pdf", "sh", "conf", "toml",
];

/// Drops what some fields put before a reference.
pub(super) fn without_scheme(text: &str) -> &str {
    let text = text.trim();
    ["docker://", "oci://", "docker-pullable://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme))
        .unwrap_or(text)
}

/// The image that the value of a field with such a name is.
pub(super) fn named(text: &str, name: Name) -> Option<ImageRef> {
    let text = without_scheme(text);
    let image: ImageRef = text.parse().ok()?;
    let path = text.contains('/');
    let last = text.rsplit('/').next().unwrap_or_default();
    let pinned = last.contains(':') || last.contains('@');
    let file = !pinned && last.rsplit_once('.').is_some_and(|(_, end)| FILES.contains(&end));
    let fits = match name {
        Name::None => false,
        Name::Weak => path && pinned,
        Name::Part => (path || pinned) && !file,
        Name::Exact => {
            let version = text.starts_with(|c: char| c.is_ascii_digit())
                && text.chars().all(|c| c.is_ascii_digit() || c == '.' || c == ':');
            !file && !version && !NO_IMAGES.contains(&text)
        }
    };
    (fits && !is_label(&image)).then_some(image)
}

/// Domains below which labels, taints and modules are named, and no images.
const LABEL_DOMAINS: &[&str] =
    &["kubernetes.io", "github.com", "gitlab.com", "bitbucket.org", "golang.org", "gopkg.in", "w3.org"];

/// Whether a reference is the key of a label, taint or module with a value behind it.
fn is_label(image: &ImageRef) -> bool {
    let host = image.registry();
    let below = |domain: &str| host == domain || host.ends_with(&format!(".{domain}"));
    let k8s = below("k8s.io") && !below("registry.k8s.io");
    let effect = matches!(image.tag(), Some("NoSchedule" | "PreferNoSchedule" | "NoExecute"));
    let network =
        host.parse::<std::net::Ipv4Addr>().is_ok() && image.repository().bytes().all(|b| b.is_ascii_digit());
    effect
        || k8s
        || network
        || LABEL_DOMAINS.iter().any(|domain| host == *domain || (*domain == "kubernetes.io" && below(domain)))
}

/// The image that a text is whatever its name: registry, path, and tag or digest; or anything that
/// is pinned by a digest.
pub(super) fn whole(text: &str) -> Option<ImageRef> {
    // The shortest is `a.b/c:d`.
    if text.len() < 7 || !text.contains([':', '@']) || text.contains("://") {
        return None;
    }
    let image: ImageRef = text.parse().ok()?;
    if image.digest().is_some() {
        return Some(image);
    }
    let (host, path) = text.split_once('/')?;
    if !path.contains(':') || is_label(&image) {
        return None;
    }
    let name = host.split(':').next().unwrap_or_default();
    let address = host.contains(':') || name == "localhost" || name.parse::<std::net::Ipv4Addr>().is_ok();
    let domain = name.contains('.')
        && name
            .rsplit('.')
            .next()
            .is_some_and(|top| top.len() > 1 && top.bytes().all(|b| b.is_ascii_alphabetic()));
    (address || domain).then_some(image)
}

/// The words of a text that may be references, flags or assignments.
pub(super) fn tokens(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| {
        c.is_whitespace()
            || matches!(
                c,
                ',' | ';'
                    | '"'
                    | '\''
                    | '`'
                    | '('
                    | ')'
                    | '['
                    | ']'
                    | '{'
                    | '}'
                    | '<'
                    | '>'
                    | '|'
                    | '&'
                    | '='
            )
    })
    .map(|token| without_scheme(token).trim_end_matches(['.', ':', '!', '?']))
    .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, want) in [
            ("image", Name::Exact),
            ("images", Name::Exact),
            ("--acme-http01-solver-image", Name::Exact),
            ("initImage", Name::Exact),
            ("SIDECAR_IMAGE", Name::Exact),
            ("sidecar.example.com/proxyImage", Name::Exact),
            ("STRIMZI_KAFKA_IMAGES", Name::Exact),
            ("osImage", Name::Part),
            ("imageName", Name::Part),
            ("dockerImageURL", Name::Part),
            ("RELATED_IMAGE_POSTGRES", Name::Part),
            ("RELATED_IMAGE_VERSIONED_TOOL", Name::Part),
            ("IMAGE_FOR_BACKUP", Name::Weak),
            ("imagePullPolicy", Name::None),
            ("imagePullSecrets", Name::None),
            ("imageTag", Name::None),
            ("image-gc-high-threshold", Name::None),
            ("imagination", Name::None),
            ("name", Name::None),
            ("image.example.com/name", Name::None),
        ] {
            assert_eq!(classify(name), want, "{name}: {:?}", words(name));
        }
        assert_eq!(words("fooBARBaz_q-1"), ["foo", "bar", "baz", "q", "1"]);
    }

    #[test]
    fn values_of_named_fields() {
        for (text, exact, part, weak) in [
            ("nginx", true, false, false),
            ("nginx:1.27", true, true, false),
            ("shop/web", true, true, false),
            ("shop/web:1", true, true, true),
            ("docker://quay.io/a/b:1", true, true, true),
            ("true", false, false, false),
            ("1.2.3", false, false, false),
            ("16:9", false, true, false),
            ("logo.png", false, false, false),
            ("assets/logo.svg", false, false, false),
            ("https://example.com/a.png", false, false, false),
            ("/var/lib/image", false, false, false),
            ("Always", false, false, false),
            ("${IMAGE}", false, false, false),
            ("{{ .Values.image }}", false, false, false),
            ("", false, false, false),
        ] {
            let got = [Name::Exact, Name::Part, Name::Weak].map(|name| named(text, name).is_some());
            assert_eq!(got, [exact, part, weak], "{text}");
            assert!(named(text, Name::None).is_none());
        }
    }

    #[test]
    fn whole_references_and_what_only_resembles_them() {
        let digest = format!("busybox@sha256:{}", "a".repeat(64));
        for text in [
            "quay.io/prometheus/alertmanager:v0.27.0",
            "registry.example.com:5000/a:1",
            "localhost/a:1",
            "10.0.0.1:5000/a/b:1",
            "gcr.io/a:1",
            "registry.k8s.io/pause:3.9",
            digest.as_str(),
        ] {
            assert!(whole(text).is_some(), "{text}");
        }
        for text in [
            "default/example-go:8080",
            "kube-system/coredns:9153",
            "https://example.com/a:1",
            "node-role.kubernetes.io/control-plane:NoSchedule",
            "example.com/special:NoExecute",
            "app.kubernetes.io/name:web",
            "policy.networking.k8s.io/a:b",
            "github.com/a/b:c",
            "10.0.0.0/8:80",
            "host:8080",
            "example.com:443",
            "key: value",
            "12:30",
            "2026-01-01T12:30:00",
            "/etc/ssl/a.pem:ro",
            "a/b:c",
            "example.com/path",
            "org.example:artifact:1.0",
            "arn:aws:iam::1:role/a",
            "jdbc:postgresql://db.example.com/a:1",
            "1.2.3/4:5",
            "v1.2/3:4",
            "redis://cache.example.com:6379/0",
            "system:serviceaccount:a:b",
            "sha256:aa",
        ] {
            assert!(whole(text).is_none(), "{text}");
        }
        let text = "pull --all=quay.io/a/b:1, \"docker://quay.io/c/d:2\"; see example.com/x.";
        let found: Vec<_> = tokens(text).filter_map(whole).map(|image| image.to_string()).collect();
        assert_eq!(found, ["quay.io/a/b:1", "quay.io/c/d:2"]);
    }
}
