//! `mirrors --check`: whether nodes would get every image of what runs, and whether their files
//! say what they should.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::Result;
use super::mirrors::{Options, Runtime, make, read_small};
use crate::model::{ErrorClass, yaml};
use crate::seed::mirrors::NodeFile;

/// Characters of a value that are told.
const TOLD: usize = 200;

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checked {
    /// Format of this report: 1.
    pub format: u32,
    /// How many images each endpoint was asked for.
    pub images: usize,
    /// Each endpoint.
    pub endpoints: Vec<CheckedEndpoint>,
    /// Each file of a node; empty where none is here.
    pub files: Vec<CheckedFile>,
    /// Where the files were looked for.
    pub folder: PathBuf,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckedEndpoint {
    /// Its URL.
    pub url: String,
    /// Why it cannot be asked at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it lacks.
    pub lacking: Vec<LackingImage>,
}

/// An image that an endpoint lacks.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LackingImage {
    /// The image.
    pub image: String,
    /// What was asked for.
    pub asked: String,
    /// What came.
    pub why: String,
}

/// One file of a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckedFile {
    /// The file.
    pub path: PathBuf,
    /// Each way in which it does not say what it should; none where it is right.
    pub wrong: Vec<String>,
    /// What it should say, where it is wrong and holds no password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
}

impl Checked {
    /// What the command ends with: none where all is as it should be.
    #[must_use]
    pub fn verdict(&self) -> Option<ErrorClass> {
        if self.endpoints.iter().any(|endpoint| endpoint.error.is_some() || !endpoint.lacking.is_empty()) {
            return Some(ErrorClass::Incomplete);
        }
        self.files.iter().any(|file| !file.wrong.is_empty()).then_some(ErrorClass::Differs)
    }
}

/// Asks every endpoint for every image, and reads the files of the node at `root`, if it is one.
/// `must` says that it is one: then a missing file is wrong too.
///
/// # Errors
///
/// When the store or a file that is there cannot be read.
pub async fn check(options: &Options, root: &Path, must: bool) -> Result<Checked> {
    let made = make(options)?;
    let mut endpoints = Vec::new();
    for place in &made.places {
        let asked = crate::seed::ask(place, options.runtime.dialect(), &made.access, &made.images).await;
        let (error, lacking) = match asked {
            Ok(lacking) => (None, lacking),
            Err(error) => (Some(error), Vec::new()),
        };
        let lacking = lacking.into_iter().map(|lacking| LackingImage {
            image: lacking.image.to_string(),
            asked: lacking.asked,
            why: lacking.why,
        });
        endpoints.push(CheckedEndpoint { url: place.url.clone(), error, lacking: lacking.collect() });
    }
    let folder = root.join(options.runtime.folder().trim_start_matches('/'));
    let mut files = Vec::new();
    let mut found_any = false;
    for file in &made.files {
        let path = folder.join(&file.path);
        let found = read_small(&path)?;
        found_any |= found.is_some();
        let wrong = match found {
            None => vec!["is not there".to_owned()],
            Some(found) => differences(file, &found),
        };
        let wanted = (!wrong.is_empty() && !file.secret).then(|| file.content.clone());
        files.push(CheckedFile { path, wrong, wanted });
    }
    if !found_any && !must {
        files.clear();
    } else if options.runtime == Runtime::Containerd {
        files.extend(config_path(root)?);
    }
    Ok(Checked { format: 1, images: made.images.len(), endpoints, files, folder })
}

/// What a file says otherwise than it should. Files of settings are compared by what they say;
/// what others put beside it is theirs, but for `hosts.toml`, where another host would be asked.
fn differences(wanted: &NodeFile, found: &[u8]) -> Vec<String> {
    if found == wanted.content.as_bytes() {
        return Vec::new();
    }
    let read: fn(&[u8]) -> std::result::Result<Value, String> = match wanted.path.rsplit_once('.') {
        Some((_, "toml" | "conf")) => |bytes| {
            let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
            let table: toml::Table =
                text.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
            serde_json::to_value(table).map_err(|error| error.to_string())
        },
        Some((_, "yaml")) => |bytes| yaml::one_document(bytes).map_err(|error| error.to_string()),
        _ => return vec!["holds something else".to_owned()],
    };
    let wanted_value = read(wanted.content.as_bytes()).unwrap_or_default();
    let found_value = match read(found) {
        Ok(value) => value,
        Err(why) => return vec![format!("cannot be read: {why}")],
    };
    let mut wrong = Vec::new();
    let exact = wanted.path.ends_with("hosts.toml");
    compare(&mut String::new(), &wanted_value, Some(&found_value), exact, wanted.secret, &mut wrong);
    // Whether maps keep the order of the file is up to the libraries that read them.
    wrong.sort();
    wrong
}

fn compare(
    path: &mut String,
    wanted: &Value,
    found: Option<&Value>,
    exact: bool,
    secret: bool,
    wrong: &mut Vec<String>,
) {
    if found == Some(wanted) {
        return;
    }
    let within = |path: &mut String, key: &str| {
        let length = path.len();
        let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-*".contains(&b));
        if plain {
            path.push_str(if length > 0 { "." } else { "" });
            path.push_str(key);
        } else {
            // Writing to a string does not fail.
            let _ = write!(path, "[{key:?}]");
        }
        length
    };
    match (wanted, found) {
        (Value::Object(wanted), Some(Value::Object(found))) => {
            for (key, value) in wanted {
                let length = within(path, key);
                compare(path, value, found.get(key), exact, secret, wrong);
                path.truncate(length);
            }
            for key in found.keys().filter(|key| exact && !wanted.contains_key(*key)) {
                let length = within(path, key);
                wrong.push(format!("{path}: is there, and should not be"));
                path.truncate(length);
            }
        }
        // Lists of tables, such as those of registries.conf: each wanted one must be there.
        (Value::Array(wanted), Some(Value::Array(found))) if wanted.iter().all(Value::is_object) => {
            for item in wanted.iter().filter(|item| !found.contains(item)) {
                let like = found.iter().find(|other| other["prefix"] == item["prefix"]);
                let length = path.len();
                let _ = write!(path, "[prefix={}]", item["prefix"].as_str().unwrap_or_default());
                compare(path, item, like, exact, secret, wrong);
                path.truncate(length);
            }
        }
        _ => {
            let tell = |value: Option<&Value>| match value.map(Value::to_string) {
                None => "nothing".to_owned(),
                Some(text) if secret && [path.as_str(), &text].iter().any(|text| names_a_secret(text)) => {
                    "(secret)".to_owned()
                }
                Some(text) => text.chars().take(TOLD).collect(),
            };
            wrong.push(format!("{path}: found {}, wanted {}", tell(found), tell(Some(wanted))));
        }
    }
}

/// Whether a path or a value is, or holds, a login.
fn names_a_secret(text: &str) -> bool {
    ["authorization", "auth", "header", "username", "password"].iter().any(|name| text.contains(name))
}

/// containerd reads the tree only where its own configuration names it.
fn config_path(root: &Path) -> Result<Option<CheckedFile>> {
    fn find<'a>(value: &'a toml::Value, found: &mut Vec<&'a str>) {
        let Some(table) = value.as_table() else { return };
        for (key, value) in table {
            match value.as_str() {
                Some(text) if key == "config_path" => found.push(text),
                _ => find(value, found),
            }
        }
    }
    let path = root.join("etc/containerd/config.toml");
    let Some(bytes) = read_small(&path)? else { return Ok(None) };
    let folder = Runtime::Containerd.folder();
    let table = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse::<toml::Table>().ok());
    let Some(table) = table.map(toml::Value::Table) else {
        let wrong = vec!["cannot be read as TOML".to_owned()];
        return Ok(Some(CheckedFile { path, wrong, wanted: None }));
    };
    let mut found = Vec::new();
    find(&table, &mut found);
    if found.iter().any(|text| text.split(':').any(|part| Path::new(part) == Path::new(folder))) {
        return Ok(Some(CheckedFile { path, wrong: Vec::new(), wanted: None }));
    }
    // The table is called otherwise since version 3 of the file.
    let newer = table.get("version").and_then(toml::Value::as_integer).is_some_and(|version| version >= 3);
    let plugin = if newer { "io.containerd.cri.v1.images" } else { "io.containerd.grpc.v1.cri" };
    let wanted = format!("[plugins.\"{plugin}\".registry]\n  config_path = \"{folder}\"\n");
    let wrong =
        vec![format!("config_path: found {found:?}, wanted \"{folder}\"; containerd then wants a restart")];
    Ok(Some(CheckedFile { path, wrong, wanted: Some(wanted) }))
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for endpoint in &self.endpoints {
            match &endpoint.error {
                Some(error) => writeln!(f, "{}: cannot be asked: {error}", endpoint.url)?,
                None => writeln!(
                    f,
                    "{}: has {} of {} images",
                    endpoint.url,
                    self.images - endpoint.lacking.len(),
                    self.images
                )?,
            }
            for lacking in &endpoint.lacking {
                writeln!(f, "  {}: {} ({})", lacking.image, lacking.why, lacking.asked)?;
            }
        }
        if self.files.is_empty() {
            write!(
                f,
                "{}: no file of this runtime is here; on a node they are compared",
                self.folder.display()
            )?;
            return Ok(());
        }
        let wrong: Vec<_> = self.files.iter().filter(|file| !file.wrong.is_empty()).collect();
        write!(
            f,
            "{}: {} of {} files are right",
            self.folder.display(),
            self.files.len() - wrong.len(),
            self.files.len()
        )?;
        for file in wrong {
            write!(f, "\n{} is wrong:", file.path.display())?;
            for line in &file.wrong {
                write!(f, "\n  {line}")?;
            }
            if let Some(wanted) = &file.wanted {
                write!(f, "\n  it should say:")?;
                for line in wanted.lines() {
                    write!(f, "\n    {line}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: &str) -> NodeFile {
        NodeFile { path: path.into(), content: content.into(), secret: false }
    }

    #[test]
    fn files_are_compared_by_what_they_say() {
        let hosts =
            file("a/hosts.toml", "server = \"http://a\"\n[host.\"http://a\"]\ncapabilities = [\"pull\"]\n");
        let same = b"# mine\nserver = 'http://a'\n[host]\n[host.\"http://a\"]\n  capabilities = ['pull']\n";
        assert_eq!(differences(&hosts, same), Vec::<String>::new());
        let other = b"server = \"https://docker.io\"\n[host.\"http://b\"]\ncapabilities = [\"pull\"]\n";
        assert_eq!(
            differences(&hosts, other),
            [
                "host[\"http://a\"]: found nothing, wanted {\"capabilities\":[\"pull\"]}",
                "host[\"http://b\"]: is there, and should not be",
                "server: found \"https://docker.io\", wanted \"http://a\"",
            ]
        );
        assert!(differences(&hosts, b"server = ")[0].starts_with("cannot be read"));

        let k3s = file("registries.yaml", "mirrors:\n  docker.io:\n    endpoint: [\"http://a\"]\n");
        let more =
            b"mirrors:\n  docker.io: {endpoint: [\"http://a\"]}\n  quay.io: {endpoint: [\"http://q\"]}\n";
        assert_eq!(differences(&k3s, more), Vec::<String>::new());
        let wrong = b"mirrors:\n  docker.io: {endpoint: [\"http://a\", \"https://registry-1.docker.io\"]}\n";
        assert_eq!(
            differences(&k3s, wrong),
            [
                "mirrors[\"docker.io\"].endpoint: found [\"http://a\",\"https://registry-1.docker.io\"], wanted [\"http://a\"]"
            ]
        );

        let crio = file("x.conf", "[[registry]]\nprefix = \"docker.io\"\nlocation = \"a/docker.io\"\n");
        let wrong = b"[[registry]]\nprefix = \"quay.io\"\nlocation = \"q\"\n[[registry]]\nprefix = \"docker.io\"\nlocation = \"b\"\n";
        assert_eq!(
            differences(&crio, wrong),
            ["registry[prefix=docker.io].location: found \"b\", wanted \"a/docker.io\""]
        );
    }

    #[test]
    fn passwords_are_not_told() {
        let content = "[header]\nauthorization = [\"Basic YTpi\"]\n";
        let wanted = NodeFile { secret: true, ..file("a/hosts.toml", content) };
        let wrong = differences(&wanted, b"[header]\nauthorization = [\"Basic eDp5\"]\n");
        assert_eq!(wrong, ["header.authorization: found (secret), wanted (secret)"]);
        assert_eq!(differences(&wanted, b""), ["header: found nothing, wanted (secret)"]);
    }
}
