//! What points container runtimes at this server, so that no reference has to change.

use std::collections::BTreeSet;

use crate::model::SafePath;
use crate::store::RecordedRegistry;

/// containerd's `config_path` tree: one `hosts.toml` for each registry, and `_default` for every
/// other (containerd, "Registry Configuration").
///
/// `server` names the mirror itself: without it containerd falls back to the upstream registry,
/// which a disconnected node waits for in vain, and which law 8 forbids.
#[must_use]
pub fn containerd(endpoint: &str, registries: &BTreeSet<String>) -> Vec<(SafePath, String)> {
    let endpoint = endpoint.trim_end_matches('/');
    let content = format!(
        "server = \"{endpoint}\"\n\n[host.\"{endpoint}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
    );
    std::iter::once("_default".to_owned())
        .chain(registries.iter().map(|registry| folder(registry)))
        .filter_map(|name| format!("{name}/hosts.toml").parse().ok())
        .map(|path| (path, content.clone()))
        .collect()
}

/// The folder of a registry in containerd's `config_path`. A port stands as `host_port_`, since not
/// every file system takes a colon; containerd looks for both.
fn folder(registry: &str) -> String {
    match registry.rsplit_once(':') {
        Some((host, port)) => format!("{host}_{port}_"),
        None => registry.to_owned(),
    }
}

/// The same for a registry of the site's own. There the images of each registry lie below a path of
/// their own, which stands in the address; those of a registry that no release names are nowhere.
#[must_use]
pub fn containerd_own(own: &RecordedRegistry, registries: &BTreeSet<String>) -> Vec<(SafePath, String)> {
    let content = |path: &str| {
        let url = format!("{}/v2/{path}", own.url);
        format!(
            "server = \"{url}\"\ncapabilities = [\"pull\", \"resolve\"]\noverride_path = true\n\n\
             [host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n  override_path = true\n"
        )
    };
    let nowhere = ("_default".to_owned(), content(&own.registry.path_of("unlisted")));
    let listed =
        registries.iter().map(|registry| (folder(registry), content(&own.registry.path_of(registry))));
    std::iter::once(nowhere)
        .chain(listed)
        .filter_map(|(name, content)| Some((format!("{name}/hosts.toml").parse().ok()?, content)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_fallback_and_a_default() {
        let registries = ["docker.io", "registry.example.com:5000"].map(str::to_owned).into();
        let files = containerd("http://127.0.0.1:5050/", &registries);
        let paths: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(
            paths,
            ["_default/hosts.toml", "docker.io/hosts.toml", "registry.example.com_5000_/hosts.toml"]
        );
        let table: toml::Table = files[0].1.parse().unwrap();
        assert_eq!(table["server"].as_str(), Some("http://127.0.0.1:5050"));
        assert!(table["host"]["http://127.0.0.1:5050"]["capabilities"].as_array().is_some());
    }

    #[test]
    fn a_registry_of_the_sites_own_has_a_path_for_each() {
        let registries = ["docker.io", "r.example.com:5000"].map(str::to_owned).into();
        let own = RecordedRegistry {
            registry: "registry.site:5000/fleet".parse().unwrap(),
            url: "https://registry.site:5000".into(),
        };
        let files = containerd_own(&own, &registries);
        for (at, folder, path) in [
            (0, "_default", "unlisted"),
            (1, "docker.io", "docker.io"),
            (2, "r.example.com_5000_", "r.example.com_5000"),
        ] {
            assert_eq!(files[at].0.as_str(), format!("{folder}/hosts.toml"));
            let table: toml::Table = files[at].1.parse().unwrap();
            let url = format!("https://registry.site:5000/v2/fleet/{path}");
            assert_eq!(table["server"].as_str(), Some(url.as_str()));
            assert_eq!(table["override_path"].as_bool(), Some(true));
            assert_eq!(table["host"][&url]["override_path"].as_bool(), Some(true));
        }
    }
}
