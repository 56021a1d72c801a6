//! A chart as far as its dependencies go: what it wants, what its lock file says, what is there.
//!
//! Helm itself leaves out a dependency that is there in a version that does not fit, and one of
//! a chart within a chart that is not there at all, without a word. So this is looked at first.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use super::HelmError;
use super::lock::{self, Lock};
use crate::fsio::limits;
use crate::model::yaml;
use crate::source::render::{RenderError, tree::Tree};

/// Charts within charts: deeper than any honest one.
const MAX_DEPTH: u64 = 8;
/// Charts of one chart, itself and all below it.
const MAX_CHARTS: u64 = 500;
/// Members of a packaged chart.
const MAX_MEMBERS: u64 = 100_000;

/// A chart, and the charts within it.
pub(super) struct Chart {
    /// Its name, by which Helm's comments call it.
    pub name: String,
    version: String,
    /// Its folder or file, as people know it.
    pub place: String,
    /// Its folder below the tree; none for a packaged chart.
    pub folder: Option<PathBuf>,
    dependencies: Vec<Dependency>,
    lock: Option<Lock>,
    /// The charts in its `charts/`.
    pub parts: Vec<Chart>,
}

struct Dependency {
    name: String,
    version: String,
    repository: String,
    alias: Option<String>,
}

/// Where the files of a chart are.
#[derive(Clone)]
enum Files<'a> {
    Folder {
        tree: &'a Tree,
        at: PathBuf,
    },
    /// The members of a package that matter here, and what precedes this chart's own.
    Package {
        members: Rc<BTreeMap<String, Vec<u8>>>,
        prefix: String,
        place: String,
    },
}

/// What is left of the bounds.
struct Budget {
    charts: u64,
    bytes: u64,
}

impl Chart {
    /// Looks through the chart at `at`, a path below the tree: a folder or a packaged chart.
    pub fn load(tree: &Tree, at: &Path) -> Result<Self, RenderError> {
        let mut budget = Budget { charts: MAX_CHARTS, bytes: limits::RENDERED };
        let files = if at.is_dir() {
            Files::Folder { tree, at: at.to_owned() }
        } else {
            package(&tree.read(at)?, &tree.label(at), &mut budget)?
        };
        Self::read(&files, MAX_DEPTH, &mut budget)
    }

    fn read(files: &Files<'_>, depth: u64, budget: &mut Budget) -> Result<Self, RenderError> {
        let place = files.place();
        let too_much = |what, limit| HelmError::TooMuch { place: place.clone(), what, limit };
        if depth == 0 {
            return Err(too_much("charts within charts", MAX_DEPTH).into());
        }
        budget.charts =
            budget.charts.checked_sub(1).ok_or_else(|| too_much("charts within it", MAX_CHARTS))?;
        let not_chart = |why: &str| HelmError::NotChart { place: place.clone(), why: why.to_owned() };
        let chart = files.yaml("Chart.yaml")?.ok_or_else(|| not_chart("there is no `Chart.yaml` in it"))?;
        let text = |field: &str| chart[field].as_str().map(str::to_owned);
        let name = text("name").ok_or_else(|| not_chart("its `Chart.yaml` has no `name`"))?;
        // A version that looks like a number is refused by Helm as well.
        let version = text("version").ok_or_else(|| not_chart("its `Chart.yaml` has no `version`"))?;
        // Helm 2's files go over those of today where both are there, as they do for Helm.
        let (listed, says) = match files.yaml("requirements.yaml")? {
            Some(requirements) => (requirements["dependencies"].clone(), "requirements.yaml"),
            None => (chart["dependencies"].clone(), "Chart.yaml"),
        };
        let mut dependencies = Vec::new();
        for entry in listed.as_array().into_iter().flatten() {
            let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
            if text("name").is_empty() {
                return Err(not_chart(&format!("a dependency in its `{says}` has no `name`")).into());
            }
            dependencies.push(Dependency {
                name: text("name"),
                version: text("version"),
                repository: text("repository"),
                alias: entry["alias"].as_str().map(str::to_owned),
            });
        }
        let mut lock = None;
        for file in ["requirements.lock", "Chart.lock"] {
            if let Some(value) = files.yaml(file)? {
                lock = Some(Lock::read(&value, &listed, files.join(file)));
                break;
            }
        }
        let mut parts = Vec::new();
        for part in files.parts(budget)? {
            parts.push(Self::read(&part, depth - 1, budget)?);
        }
        let folder = match files {
            Files::Folder { at, .. } => Some(at.clone()),
            Files::Package { .. } => None,
        };
        Ok(Self { name, version, place, folder, dependencies, lock, parts })
    }

    /// Checks that everything that the chart depends on is there, and is what its lock file says.
    pub fn check(&self) -> Result<(), RenderError> {
        if !self.dependencies.is_empty()
            && let Some(lock) = &self.lock
            && !lock.agrees
        {
            return Err(HelmError::StaleLock { lock: lock.file.clone(), chart: self.place.clone() }.into());
        }
        for dependency in &self.dependencies {
            self.check_dependency(dependency)?;
        }
        self.parts.iter().try_for_each(Self::check_part)
    }

    fn check_dependency(&self, dependency: &Dependency) -> Result<(), RenderError> {
        let locked =
            self.lock.as_ref().and_then(|lock| lock.version(&dependency.name, &dependency.repository));
        let wanted = locked.unwrap_or(&dependency.version);
        let mut there = self.parts.iter().filter(|part| part.name == dependency.name).peekable();
        let Some(first) = there.peek().copied() else {
            return Err(HelmError::Missing {
                chart: self.place.clone(),
                dependency: dependency.name.clone(),
                version: wanted.to_owned(),
            }
            .into());
        };
        // A chart of this very repository (or one that nothing else says about) is as the revision has it.
        let own = dependency.repository.is_empty() || dependency.repository.starts_with("file://");
        if locked.is_none() && !lock::is_exact(wanted) {
            if own {
                return Ok(());
            }
            return Err(HelmError::Unlocked {
                chart: self.place.clone(),
                dependency: dependency.name.clone(),
                version: dependency.version.clone(),
            }
            .into());
        }
        if there.any(|part| lock::same_version(&part.version, wanted)) {
            return Ok(());
        }
        let says = match (&self.lock, locked) {
            (Some(lock), Some(_)) => lock.file.clone(),
            _ => format!("{}/Chart.yaml", self.place),
        };
        Err(HelmError::OtherVersion {
            chart: self.place.clone(),
            dependency: dependency.name.clone(),
            wanted: wanted.to_owned(),
            says,
            there: format!("`{}` is {}", first.place, first.version),
        }
        .into())
    }

    /// A chart within a chart is as its authors released it: what it depends on must only be there.
    fn check_part(&self) -> Result<(), RenderError> {
        for dependency in &self.dependencies {
            if !self.parts.iter().any(|part| part.name == dependency.name) {
                return Err(HelmError::Missing {
                    chart: self.place.clone(),
                    dependency: dependency.name.clone(),
                    version: dependency.version.clone(),
                }
                .into());
            }
        }
        self.parts.iter().try_for_each(Self::check_part)
    }

    /// The chart within this one that Helm's comments call `name`: its own name, or an alias.
    pub fn part(&self, name: &str) -> Option<&Self> {
        let alias = |dependency: &&Dependency| dependency.alias.as_deref() == Some(name);
        let name = self.dependencies.iter().find(alias).map_or(name, |dependency| &dependency.name);
        self.parts.iter().find(|part| part.name == name)
    }
}

impl<'a> Files<'a> {
    fn place(&self) -> String {
        match self {
            Files::Folder { tree, at } => tree.label(at),
            Files::Package { place, .. } => place.clone(),
        }
    }

    fn join(&self, file: &str) -> String {
        match self.place().as_str() {
            "." => file.to_owned(),
            place => format!("{place}/{file}"),
        }
    }

    /// A small YAML file of the chart; none when it is not there or empty.
    fn yaml(&self, name: &str) -> Result<Option<Value>, RenderError> {
        let bytes = match self {
            Files::Folder { tree, at } => {
                let path = at.join(name);
                if fs::symlink_metadata(&path).is_err() {
                    return Ok(None);
                }
                tree.read(&path)?
            }
            Files::Package { members, prefix, .. } => match members.get(&format!("{prefix}{name}")) {
                Some(bytes) => bytes.clone(),
                None => return Ok(None),
            },
        };
        let documents =
            yaml::documents(&bytes).map_err(|error| HelmError::Yaml { file: self.join(name), error })?;
        Ok(documents.into_iter().next().map(|document| document.value))
    }

    /// The charts in `charts/`, sorted by their file names.
    fn parts(&self, budget: &mut Budget) -> Result<Vec<Files<'a>>, RenderError> {
        let taken = |name: &str| !name.starts_with(['.', '_']);
        match self {
            Files::Folder { tree, at } => {
                let folder = at.join("charts");
                if !folder.is_dir() {
                    return Ok(Vec::new());
                }
                let folder = tree.resolve(&folder)?;
                let io = |source| RenderError::Io { path: tree.label(&folder), source };
                let mut names: Vec<PathBuf> = Vec::new();
                for entry in fs::read_dir(&folder).map_err(io)? {
                    names.push(entry.map_err(io)?.path());
                }
                names.sort();
                let mut parts = Vec::new();
                for path in names {
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    if !taken(&name) {
                        continue;
                    }
                    let path = tree.resolve(&path)?;
                    if path.is_dir() {
                        parts.push(Files::Folder { tree, at: path });
                    } else if is_package(&name) {
                        parts.push(package(&tree.read(&path)?, &tree.label(&path), budget)?);
                    }
                }
                Ok(parts)
            }
            Files::Package { members, prefix, place } => {
                let below = format!("{prefix}charts/");
                let mut parts = BTreeMap::new();
                for (name, bytes) in members.range(below.clone()..) {
                    let Some(rest) = name.strip_prefix(&below) else { break };
                    match rest.split_once('/') {
                        Some((folder, _)) if taken(folder) => {
                            let part = Files::Package {
                                members: Rc::clone(members),
                                prefix: format!("{below}{folder}/"),
                                place: format!("{place}/charts/{folder}"),
                            };
                            parts.insert(folder.to_owned(), part);
                        }
                        None if taken(rest) => {
                            let part = package(bytes, &format!("{place}/charts/{rest}"), budget)?;
                            parts.insert(rest.to_owned(), part);
                        }
                        _ => {}
                    }
                }
                Ok(parts.into_values().collect())
            }
        }
    }
}

/// Whether Helm takes a file in `charts/` for a packaged chart: it minds the case.
fn is_package(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "tgz")
}

/// Whether a member of a package says something about charts: `(charts/NAME/)*` and one of the files,
/// or a package within. Answers with the member's bound.
fn bound_of(path: &str) -> Option<u64> {
    let mut rest = path;
    while let Some(below) = rest.strip_prefix("charts/") {
        match below.split_once('/') {
            Some((_, inner)) => rest = inner,
            None => return is_package(below).then_some(limits::YAML_FILE),
        }
    }
    ["Chart.yaml", "Chart.lock", "requirements.yaml", "requirements.lock"]
        .contains(&rest)
        .then_some(limits::CONFIG_FILE)
}

/// Reads what matters here of a packaged chart.
fn package<'a>(bytes: &[u8], place: &str, budget: &mut Budget) -> Result<Files<'a>, RenderError> {
    let mut inflated = MultiGzDecoder::new(bytes).take(budget.bytes + 1);
    let members = members(&mut inflated, place);
    let left = inflated.limit();
    if left == 0 {
        let limit = limits::RENDERED;
        return Err(HelmError::TooMuch { place: place.to_owned(), what: "bytes, unpacked", limit }.into());
    }
    budget.bytes = left - 1;
    Ok(Files::Package { members: Rc::new(members?), prefix: String::new(), place: place.to_owned() })
}

fn members(inflated: &mut impl Read, place: &str) -> Result<BTreeMap<String, Vec<u8>>, RenderError> {
    let broken = |source| HelmError::Package { place: place.to_owned(), source };
    let too_much =
        |what, limit| RenderError::from(HelmError::TooMuch { place: place.to_owned(), what, limit });
    let mut members = BTreeMap::new();
    let mut archive = tar::Archive::new(inflated);
    for (count, entry) in (1..).zip(archive.entries().map_err(broken)?) {
        if count > MAX_MEMBERS {
            return Err(too_much("members", MAX_MEMBERS));
        }
        let mut entry = entry.map_err(broken)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        // Everything lies in one folder, whose name means nothing.
        let Some((_, path)) = path.trim_start_matches("./").split_once('/') else { continue };
        let Some(bound) = bound_of(path).filter(|_| entry.header().entry_type().is_file()) else {
            continue;
        };
        if entry.size() > bound {
            return Err(too_much("bytes in a file that describes it", bound));
        }
        let mut content = Vec::new();
        entry.by_ref().take(bound).read_to_end(&mut content).map_err(broken)?;
        members.insert(path.to_owned(), content);
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write as _};

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (path, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, path, *content).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap()
    }

    fn load(bytes: &[u8]) -> Result<Chart, RenderError> {
        let mut budget = Budget { charts: MAX_CHARTS, bytes: limits::RENDERED };
        Chart::read(&package(bytes, "a.tgz", &mut budget)?, MAX_DEPTH, &mut budget)
    }

    fn refused(bytes: &[u8], part: &str) {
        let message = load(bytes).map(|chart| chart.name).unwrap_err().to_string();
        assert!(message.contains(part), "wanted `{part}` in: {message}");
    }

    #[test]
    fn packages_that_are_too_much() {
        let inner = packed(&[("x/Chart.yaml", b"name: x\nversion: 1.0.0\n")]);
        let chart = load(&packed(&[
            ("a/charts/x-1.0.0.tgz", &inner),
            ("a/charts/y/Chart.yaml", b"name: b\nversion: 2.0.0\n"),
            ("a/charts/_z/Chart.yaml", b"["),
            ("a/Chart.yaml", b"name: a\nversion: 0.1.0\n"),
            ("a/templates/Chart.yaml", b"["),
        ]))
        .unwrap();
        assert_eq!(chart.parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), ["x", "b"]);
        assert_eq!(chart.parts[0].place, "a.tgz/charts/x-1.0.0.tgz");

        refused(b"no gzip", "cannot read the packaged chart `a.tgz`");
        refused(&packed(&[]), "there is no `Chart.yaml`");
        let large = vec![b'#'; usize::try_from(limits::CONFIG_FILE).unwrap() + 1];
        refused(&packed(&[("a/Chart.yaml", &large)]), "bytes in a file that describes it");

        // A bomb: a quarter of a gigabyte of nothing.
        let mut bomb = GzEncoder::new(Vec::new(), Compression::fast());
        let mut header = tar::Header::new_ustar();
        header.set_path("a/README.md").unwrap();
        header.set_size(272 << 20);
        header.set_cksum();
        bomb.write_all(header.as_bytes()).unwrap();
        io::copy(&mut io::repeat(0).take(272 << 20), &mut bomb).unwrap();
        refused(&bomb.finish().unwrap(), "`a.tgz` has more than 268435456 bytes, unpacked");

        // A chart in a chart in a chart.
        let mut nested = packed(&[("x/Chart.yaml", b"name: x\nversion: 1.0.0\n")]);
        for _ in 0..MAX_DEPTH {
            nested = packed(&[
                ("x/Chart.yaml", b"name: x\nversion: 1.0.0\n".as_slice()),
                ("x/charts/x.tgz", &nested),
            ]);
        }
        refused(&nested, "has more than 8 charts within charts");
    }
}
