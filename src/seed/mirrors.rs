//! What points container runtimes at this server, so that no reference has to change.

use std::collections::BTreeSet;

use crate::model::SafePath;

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
    // A port in a registry's name stands as `host_port_` in the folder's, since not every file
    // system takes a colon; containerd looks for both.
    let folder = |registry: &str| match registry.rsplit_once(':') {
        Some((host, port)) => format!("{host}_{port}_"),
        None => registry.to_owned(),
    };
    std::iter::once("_default".to_owned())
        .chain(registries.iter().map(|registry| folder(registry)))
        .filter_map(|name| format!("{name}/hosts.toml").parse().ok())
        .map(|path| (path, content.clone()))
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
}
