//! What points container runtimes at this site, so that no reference has to change: the files of
//! each runtime, and the questions that it asks through them. Pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::model::{Digest, ImageRef, SiteRegistry, yaml};

/// Name of the authority's certificate beside the files that name it.
const CA: &str = "fleetpack-ca.crt";

/// A runtime of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// containerd's `config_path` tree of `hosts.toml` files (containerd, "Registry Configuration").
    Containerd,
    /// k3s and RKE2: `registries.yaml` (k3s, "Private Registry Configuration"). They write containerd's files from it.
    K3s,
    /// CRI-O, podman, buildah, skopeo: a drop-in of registries.conf (containers-registries.conf.d(5)).
    Crio,
}

/// One place where the nodes find the images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `https://HOST[:PORT]`, without a path.
    pub url: String,
    /// The registry of the site's own that it is; none where it is `fleetpack serve`.
    pub registry: Option<SiteRegistry>,
}

/// What the nodes need beside the places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Certificate of the authority that signed the places' certificates: PEM.
    pub ca: Option<String>,
    /// Name and password.
    pub login: Option<(String, String)>,
}

/// One file of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFile {
    /// Path below the runtime's configuration folder, `/` between its parts.
    pub path: String,
    /// What stands in it.
    pub content: String,
    /// Whether it holds a password.
    pub secret: bool,
}

impl Place {
    /// `HOST[:PORT]`.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.split_once("://").map_or(self.url.as_str(), |(_, host)| host)
    }

    fn is_plain(&self) -> bool {
        self.url.starts_with("http://")
    }

    /// The path below `/v2/` under which the images of `registry` lie here, for runtimes that name
    /// the registry in `?ns=`; empty where that alone tells.
    fn prefix(&self, registry: &str) -> String {
        self.registry.as_ref().map_or(String::new(), |own| own.path_of(registry))
    }

    /// What a runtime asks for when it wants `image` by `digest`: path and query.
    #[must_use]
    pub fn question(&self, dialect: Dialect, image: &ImageRef, digest: Digest) -> String {
        let (registry, repository) = (image.registry(), image.repository());
        let name = match (&self.registry, dialect) {
            (Some(own), _) => format!("{}/{repository}", own.path_of(registry)),
            (None, Dialect::Crio) => self
                .crio_location(registry)
                .split_once('/')
                .map_or_else(|| repository.to_owned(), |(_, path)| format!("{path}/{repository}")),
            (None, _) => repository.to_owned(),
        };
        let query = if dialect == Dialect::Crio { String::new() } else { format!("?ns={registry}") };
        format!("/v2/{name}/manifests/{digest}{query}")
    }

    /// What takes the place of `registry` in a reference.
    fn crio_location(&self, registry: &str) -> String {
        match &self.registry {
            Some(own) => format!("{}/{}", self.host(), own.path_of(registry)),
            // A colon cannot stand within a path: the repository alone has to do, which `serve`
            // finds where only one registry has it.
            None if registry.contains([':', '[']) => self.host().to_owned(),
            None => format!("{}/{registry}", self.host()),
        }
    }
}

/// The files for a runtime. `folder` is where they will lie on the node (`/etc/rancher/k3s`), which
/// some of them name; `registries` are those of the images, and `hub` the short names of images of
/// Docker Hub with what they stand for.
#[must_use]
pub fn files(
    dialect: Dialect,
    folder: &str,
    places: &[Place],
    access: &Access,
    registries: &BTreeSet<String>,
    hub: &BTreeSet<String>,
) -> Vec<NodeFile> {
    match dialect {
        Dialect::Containerd => containerd(places, access, registries),
        Dialect::K3s => k3s(folder, places, access, registries),
        Dialect::Crio => crio(places, access, registries, hub),
    }
}

/// A text in TOML. Nothing that comes here needs more: URLs, hosts and base64 are checked before.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// One `hosts.toml` for each registry, and `_default` for every other.
///
/// `server` names a mirror itself: without it containerd falls back to the upstream registry,
/// which a disconnected node waits for in vain, and which law 8 forbids.
fn containerd(places: &[Place], access: &Access, registries: &BTreeSet<String>) -> Vec<NodeFile> {
    // A port in a registry's name stands as `_port_` in the folder's, since not every file
    // system takes a colon; containerd looks for both.
    let folder = |registry: &str| match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => format!("{host}_{port}_"),
        _ => registry.to_owned(),
    };
    let unlisted = std::iter::once(("_default".to_owned(), None));
    let listed = registries.iter().map(|registry| (folder(registry), Some(registry.as_str())));
    let mut files = Vec::new();
    for (name, registry) in unlisted.chain(listed) {
        let content = hosts_toml(places, access, registry);
        files.push(NodeFile { path: format!("{name}/hosts.toml"), content, secret: access.login.is_some() });
        if let Some(ca) = &access.ca {
            files.push(NodeFile { path: format!("{name}/{CA}"), content: ca.clone(), secret: false });
        }
    }
    files
}

fn hosts_toml(places: &[Place], access: &Access, registry: Option<&str>) -> String {
    // In a registry of the site's own, what no release listed lies nowhere, and is asked for there.
    let url = |place: &Place| match (&place.registry, registry) {
        (None, _) => place.url.clone(),
        (Some(_), Some(registry)) => format!("{}/v2/{}", place.url, place.prefix(registry)),
        (Some(own), None) => format!("{}/v2/{}", place.url, own.path_of("unlisted")),
    };
    let settings = |out: &mut String, place: &Place, indent: &str| {
        let _ = writeln!(out, "{indent}capabilities = [\"pull\", \"resolve\"]");
        if place.registry.is_some() {
            let _ = writeln!(out, "{indent}override_path = true");
        }
        if access.ca.is_some() && !place.is_plain() {
            let _ = writeln!(out, "{indent}ca = {}", quoted(CA));
        }
    };
    let header = |out: &mut String, table: &str| {
        if let Some((name, password)) = &access.login {
            let basic = STANDARD.encode(format!("{name}:{password}"));
            let _ = writeln!(out, "[{table}]\n  authorization = [{}]", quoted(&format!("Basic {basic}")));
        }
    };
    let mut out = String::new();
    let Some(first) = places.first() else { return out };
    let _ = writeln!(out, "server = {}", quoted(&url(first)));
    settings(&mut out, first, "");
    header(&mut out, "header");
    for place in places {
        let host = quoted(&url(place));
        let _ = writeln!(out, "\n[host.{host}]");
        settings(&mut out, place, "  ");
        header(&mut out, &format!("host.{host}.header"));
    }
    out
}

/// `registries.yaml`, and what keeps k3s from adding the upstream registry as the last place.
fn k3s(folder: &str, places: &[Place], access: &Access, registries: &BTreeSet<String>) -> Vec<NodeFile> {
    let endpoints: Vec<&str> = places.iter().map(|place| place.url.as_str()).collect();
    let own = places.iter().find_map(|place| place.registry.as_ref());
    let mut mirrors = Map::new();
    for registry in std::iter::once("*").chain(registries.iter().map(String::as_str)) {
        let mut mirror = json!({"endpoint": endpoints});
        if let Some(own) = own {
            let path = own.path_of(if registry == "*" { "unlisted" } else { registry });
            mirror["rewrite"] = json!({"^(.*)$": format!("{path}/$1")});
        }
        mirrors.insert(registry.to_owned(), mirror);
    }
    let mut configs = Map::new();
    for place in places {
        let mut config = Map::new();
        if let Some((name, password)) = &access.login {
            config.insert("auth".into(), json!({"username": name, "password": password}));
        }
        if access.ca.is_some() && !place.is_plain() {
            config.insert("tls".into(), json!({"ca_file": format!("{folder}/{CA}")}));
        }
        if !config.is_empty() {
            configs.insert(place.host().to_owned(), Value::Object(config));
        }
    }
    let mut registries = json!({"mirrors": mirrors});
    if !configs.is_empty() {
        registries["configs"] = Value::Object(configs);
    }
    let file = |path: &str, content: String, secret| NodeFile { path: path.to_owned(), content, secret };
    let mut files = vec![
        file("registries.yaml", yaml::to_string(&registries), access.login.is_some()),
        file(
            "config.yaml.d/50-fleetpack.yaml",
            yaml::to_string(&json!({"disable-default-registry-endpoint": true})),
            false,
        ),
    ];
    files.extend(access.ca.as_ref().map(|ca| file(CA, ca.clone(), false)));
    files
}

/// One drop-in: each registry's location is a place here, so the registry itself is never asked.
fn crio(
    places: &[Place],
    access: &Access,
    registries: &BTreeSet<String>,
    hub: &BTreeSet<String>,
) -> Vec<NodeFile> {
    let mut out = String::from("# Images of the releases of this site.\n");
    if access.login.is_some() {
        out.push_str(
            "# The login does not stand in this file: put it into the file that `global_auth_file` of crio.conf\n\
             # names (podman login --authfile FILE HOST).\n",
        );
    }
    let Some((last, mirrors)) = places.split_last() else { return Vec::new() };
    let insecure = |place: &Place| if place.is_plain() { "insecure = true\n" } else { "" };
    for registry in registries {
        let _ = write!(
            out,
            "\n[[registry]]\nprefix = {}\nlocation = {}\n{}",
            quoted(registry),
            quoted(&last.crio_location(registry)),
            insecure(last)
        );
        for place in mirrors {
            let location = quoted(&place.crio_location(registry));
            let _ = write!(out, "[[registry.mirror]]\nlocation = {location}\n{}", insecure(place));
        }
    }
    if !hub.is_empty() {
        out.push_str("\n[aliases]\n");
        for repository in hub {
            let short = repository.strip_prefix("library/").unwrap_or(repository);
            let _ = writeln!(out, "{} = {}", quoted(short), quoted(&format!("docker.io/{repository}")));
        }
    }
    let mut files = vec![NodeFile {
        path: "registries.conf.d/50-fleetpack.conf".to_owned(),
        content: out,
        secret: false,
    }];
    if let Some(ca) = &access.ca {
        files.extend(places.iter().filter(|place| !place.is_plain()).map(|place| NodeFile {
            path: format!("certs.d/{}/{CA}", place.host()),
            content: ca.clone(),
            secret: false,
        }));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(url: &str) -> Place {
        Place { url: url.to_owned(), registry: None }
    }

    fn own(url: &str, registry: &str) -> Place {
        Place { url: url.to_owned(), registry: Some(registry.parse().unwrap()) }
    }

    fn set(items: &[&str]) -> BTreeSet<String> {
        items.iter().map(|&item| item.to_owned()).collect()
    }

    fn access() -> Access {
        Access { ca: Some("PEM\n".into()), login: Some(("node".into(), "se\"cret".into())) }
    }

    fn made(dialect: Dialect, places: &[Place], access: &Access) -> Vec<NodeFile> {
        let registries = set(&["docker.io", "registry.example.com:5000"]);
        files(dialect, "/etc/x", places, access, &registries, &set(&["library/redis", "grafana/grafana"]))
    }

    #[test]
    fn containerd_has_no_fallback_and_a_default() {
        let files = made(Dialect::Containerd, &[serve("http://127.0.0.1:5050")], &Access::default());
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(
            paths,
            ["_default/hosts.toml", "docker.io/hosts.toml", "registry.example.com_5000_/hosts.toml"]
        );
        let table: toml::Table = files[0].content.parse().unwrap();
        assert_eq!(table["server"].as_str(), Some("http://127.0.0.1:5050"));
        assert!(table["host"]["http://127.0.0.1:5050"]["capabilities"].as_array().is_some());
    }

    #[test]
    fn containerd_is_led_below_a_prefix_with_certificate_and_login() {
        let files = made(Dialect::Containerd, &[own("https://r.site", "r.site/fleet")], &access());
        let docker = files.iter().find(|file| file.path == "docker.io/hosts.toml").unwrap();
        assert!(docker.secret);
        let table: toml::Table = docker.content.parse().unwrap();
        let host = &table["host"]["https://r.site/v2/fleet/docker.io"];
        assert_eq!(table["server"].as_str(), Some("https://r.site/v2/fleet/docker.io"));
        for at in [&toml::Value::Table(table.clone()), host] {
            assert_eq!(at["override_path"].as_bool(), Some(true));
            assert_eq!(at["ca"].as_str(), Some("fleetpack-ca.crt"));
            assert_eq!(at["header"]["authorization"][0].as_str(), Some("Basic bm9kZTpzZSJjcmV0"));
        }
        assert!(files.iter().any(|file| file.path == "registry.example.com_5000_/fleetpack-ca.crt"));
    }

    #[test]
    fn k3s_has_endpoints_rewrites_and_no_default() {
        let files = made(Dialect::K3s, &[own("https://r.site", "r.site/fleet")], &access());
        let read = |at: usize| yaml::one_document(files[at].content.as_bytes()).unwrap();
        assert_eq!(files[0].path, "registries.yaml");
        assert_eq!(
            read(0),
            json!({
                "mirrors": {
                    "*": {"endpoint": ["https://r.site"], "rewrite": {"^(.*)$": "fleet/unlisted/$1"}},
                    "docker.io": {"endpoint": ["https://r.site"], "rewrite": {"^(.*)$": "fleet/docker.io/$1"}},
                    "registry.example.com:5000":
                        {"endpoint": ["https://r.site"], "rewrite": {"^(.*)$": "fleet/registry.example.com_5000/$1"}},
                },
                "configs": {"r.site": {
                    "auth": {"username": "node", "password": "se\"cret"},
                    "tls": {"ca_file": "/etc/x/fleetpack-ca.crt"},
                }},
            })
        );
        assert_eq!(read(1), json!({"disable-default-registry-endpoint": true}));
    }

    #[test]
    fn crio_has_locations_mirrors_and_short_names() {
        let places = [serve("http://a:5050"), serve("https://b")];
        let files = made(Dialect::Crio, &places, &access());
        let table: toml::Table = files[0].content.parse().unwrap();
        let registry = &table["registry"][0];
        assert_eq!(registry["prefix"].as_str(), Some("docker.io"));
        assert_eq!(registry["location"].as_str(), Some("b/docker.io"));
        assert_eq!(registry["mirror"][0]["location"].as_str(), Some("a:5050/docker.io"));
        assert_eq!(registry["mirror"][0]["insecure"].as_bool(), Some(true));
        assert_eq!(table["registry"][1]["location"].as_str(), Some("b"), "no colon within a path");
        assert_eq!(table["aliases"]["redis"].as_str(), Some("docker.io/library/redis"));
        assert_eq!(table["aliases"]["grafana/grafana"].as_str(), Some("docker.io/grafana/grafana"));
        assert!(!files[0].content.contains("cret\""), "no password");
        assert_eq!(files[1].path, "certs.d/b/fleetpack-ca.crt");
        assert_eq!(files.len(), 2);
    }

    #[test]
    fn questions_are_those_of_the_runtimes() {
        let image: ImageRef = "registry.example.com:5000/shop/web:1".parse().unwrap();
        let digest = Digest::of(b"");
        let ask = |place: &Place, dialect| place.question(dialect, &image, digest);
        let (serve, own) = (serve("http://a:1"), own("http://a:1", "a:1/fleet"));
        assert_eq!(
            ask(&serve, Dialect::Containerd),
            format!("/v2/shop/web/manifests/{digest}?ns=registry.example.com:5000")
        );
        assert_eq!(ask(&serve, Dialect::Crio), format!("/v2/shop/web/manifests/{digest}"));
        assert_eq!(
            ask(&own, Dialect::Crio),
            format!("/v2/fleet/registry.example.com_5000/shop/web/manifests/{digest}")
        );
        let hub: ImageRef = "redis".parse().unwrap();
        assert_eq!(
            serve.question(Dialect::Crio, &hub, digest),
            format!("/v2/docker.io/library/redis/manifests/{digest}")
        );
    }
}
