//! Plain YAML and JSON files, named as a source or found by convention.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tree::Tree;
use super::{RenderError, kustomize, objects_of};
use crate::model::config::FILE_NAME;
use crate::model::{Origin, Progress, RenderedObject, yaml};

/// API groups of files that tools keep beside manifests and no cluster takes.
const TOOL_GROUPS: &[&str] = &[
    "skaffold",
    "kind.x-k8s.io",
    "k3d.io",
    "ctlptl.dev",
    "kuttl.dev",
    "kubeadm.k8s.io",
    "kubelet.config.k8s.io",
    "kubeproxy.config.k8s.io",
    "kubescheduler.config.k8s.io",
    "apiserver.config.k8s.io",
    "audit.k8s.io",
    "client.authentication.k8s.io",
    "helm.toolkit.mozilla.org",
    "ct.kubernetes.io",
    "backstage.io",
    "fleetpack.dev",
];

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

fn is_kustomization(path: &Path) -> bool {
    path.file_name().is_some_and(|name| kustomize::FILES.iter().any(|known| name == *known))
}

/// Files that are fleetpack's own, at the root.
fn is_ours(tree: &Tree, path: &Path) -> bool {
    path.parent() == Some(&tree.root) && path.file_name().is_some_and(|name| name == FILE_NAME)
}

/// The files below `folder`, sorted by path. Links to folders are not followed. `enter` says
/// whether a folder is looked into.
fn files(
    tree: &Tree,
    folder: &Path,
    enter: &mut dyn FnMut(&Path) -> bool,
) -> Result<Vec<PathBuf>, RenderError> {
    let mut out = Vec::new();
    let mut queue = vec![folder.to_owned()];
    while let Some(folder) = queue.pop() {
        let io = |source| RenderError::Io { path: tree.label(&folder), source };
        for entry in fs::read_dir(&folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let kind = entry.file_type().map_err(io)?;
            let path = entry.path();
            if kind.is_dir() {
                if enter(&path) {
                    queue.push(path);
                }
            } else if kind.is_file() || (kind.is_symlink() && !path.is_dir()) {
                out.push(path);
            }
        }
    }
    out.sort();
    Ok(out)
}

fn parse(tree: &Tree, path: &Path) -> Result<Vec<(Origin, Value)>, RenderError> {
    let file = tree.label(path);
    let documents = yaml::documents(&tree.read(path)?)
        .map_err(|error| RenderError::Yaml { file: file.clone(), error })?;
    let origin = |line| Origin { file: file.clone(), line: Some(line), ..Origin::default() };
    Ok(documents.into_iter().map(|document| (origin(document.line), document.value)).collect())
}

/// A file, or every manifest below a folder: each document must be an object.
pub(super) fn explicit(tree: &Tree, at: &Path) -> Result<Vec<RenderedObject>, RenderError> {
    let mut objects = Vec::new();
    let files = if at.is_dir() {
        let mut files = files(tree, at, &mut |_| true)?;
        files.retain(|path| (is_manifest(path) || is_kustomization(path)) && !is_ours(tree, path));
        files
    } else {
        vec![at.to_owned()]
    };
    for path in files {
        if is_kustomization(&path) {
            return Err(RenderError::KustomizationInPath { file: tree.label(&path) });
        }
        for (origin, value) in parse(tree, &path)? {
            objects_of(value, &origin, &mut objects)?;
        }
    }
    Ok(objects)
}

/// Every document of the tree that is a Kubernetes object.
pub(super) fn by_convention(
    tree: &Tree,
    progress: &dyn Progress,
) -> Result<Vec<RenderedObject>, RenderError> {
    let mut charts = Vec::new();
    let files = files(tree, &tree.root, &mut |folder| {
        let hidden = folder.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let chart = !hidden && folder.join("Chart.yaml").exists();
        if chart {
            charts.push(tree.label(folder));
        }
        !hidden && !chart
    })?;
    charts.sort();
    for chart in charts {
        progress.warn(format!(
            "the Helm chart in `{chart}` is not rendered: if it belongs to the release, name it as a `helm` source \
             in `{FILE_NAME}`"
        ));
    }
    let mut objects = Vec::new();
    for path in files {
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || is_ours(tree, &path) {
            continue;
        }
        if is_kustomization(&path) {
            return Err(RenderError::WhichKustomization { file: tree.label(&path) });
        }
        if !is_manifest(&path) {
            continue;
        }
        let documents = match parse(tree, &path) {
            Ok(documents) => documents,
            Err(error @ RenderError::Yaml { .. }) => {
                if means_kubernetes(&tree.read(&path)?) {
                    return Err(error);
                }
                progress.note(format!("left out, for it is not YAML as Kubernetes reads it: {error}"));
                continue;
            }
            // Nothing of a file that leads elsewhere belongs to the revision.
            Err(error @ RenderError::Outside { .. }) => {
                progress.warn(format!("left out: {error}"));
                continue;
            }
            Err(error) => return Err(error),
        };
        for (origin, value) in documents {
            match (value["apiVersion"].as_str(), value["kind"].as_str()) {
                (Some(version), Some(kind)) if is_tool_file(version, kind) => {
                    progress.note(format!("left out: {origin} ({version}, {kind}) is not for a cluster"));
                }
                (Some(_), Some(_)) => objects_of(value, &origin, &mut objects)?,
                _ => {}
            }
        }
    }
    Ok(objects)
}

fn is_tool_file(api_version: &str, kind: &str) -> bool {
    let group = api_version.split('/').next().unwrap_or_default();
    TOOL_GROUPS.contains(&group) || (api_version == "v1" && kind == "Config")
}

/// Whether a file that cannot be read was meant for a cluster: a line begins with `apiVersion`.
fn means_kubernetes(bytes: &[u8]) -> bool {
    bytes.split(|b| *b == b'\n').any(|line| {
        let line = line.trim_ascii_start();
        let line = line.strip_prefix(b"{").unwrap_or(line).trim_ascii_start();
        let line = line.strip_prefix(b"- ").unwrap_or(line);
        line.starts_with(b"apiVersion") || line.starts_with(b"\"apiVersion\"")
    })
}
