//! Reads `fleetpack.yaml`.

use crate::model::ErrorClass;
use crate::model::config::{FILE_NAME, ReleaseConfig};

/// Why `fleetpack.yaml` was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{FILE_NAME}{}: {why}", line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct ConfigError {
    /// Line of the file, counted from 1, where it is known.
    pub line: Option<u64>,
    /// What is wrong.
    pub why: String,
}

impl ConfigError {
    /// How the error ends the process.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        ErrorClass::Failed
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(format!("the fields of `{FILE_NAME}` are described in schemas/fleetpack.yaml.json"))
    }
}

/// Parses the bytes of `fleetpack.yaml`. Unknown fields and doubled keys are errors.
///
/// # Errors
///
/// When the bytes are not YAML, or not such a configuration.
pub fn parse(bytes: &[u8]) -> Result<ReleaseConfig, ConfigError> {
    // The parser's own budget of nodes, depth and aliases is meant for configuration files.
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_slice_with_options(bytes, options).map_err(|error| {
        let (line, why) = located(&error);
        ConfigError { line, why }
    })
}

/// The line of an error, where it is known, and its message without its place.
pub(super) fn located(error: &serde_saphyr::Error) -> (Option<u64>, String) {
    let line = error.location().map(|location| location.line()).filter(|line| *line > 0);
    let text = error.to_string();
    // The message repeats its place, which stands before it here.
    let why = match text.split_once(": ") {
        Some((place, rest)) if place.starts_with("line ") => rest.to_owned(),
        _ => text.split(" at line ").next().unwrap_or_default().to_owned(),
    };
    (line, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::SourceConfig;

    const HEAD: &str = "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: shop}\n";

    fn refused(rest: &str) -> String {
        parse(format!("{HEAD}{rest}").as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_whole_configuration() {
        let text = format!(
            "{HEAD}version: 1.10\nsources:\n- kustomize: deploy/site\n- path: extra\n\
             platforms: [linux/amd64]\nimages:\n  include: [registry.example.com/tools/debug:1.0]\n"
        );
        let config = parse(text.as_bytes()).unwrap();
        assert_eq!(config.metadata.name.as_str(), "shop");
        assert_eq!(config.version.as_ref().map(ToString::to_string).as_deref(), Some("1.10"));
        assert_eq!(
            config.sources,
            [
                SourceConfig::Kustomize("deploy/site".parse().unwrap()),
                SourceConfig::Path("extra".parse().unwrap())
            ]
        );
        assert_eq!(config.images.include.len(), 1);
        let written = serde_json::to_vec(&config).unwrap();
        assert_eq!(parse(&written).unwrap(), config, "JSON is YAML, and a source is written as it is read");
    }

    #[test]
    fn refusals_name_the_line_and_the_field() {
        for (rest, parts) in [
            ("colour: red\n", &["fleetpack.yaml:4", "`colour`", "sources"][..]),
            ("sources:\n- helm: x\n", &["fleetpack.yaml:5", "`helm`", "kustomize"]),
            ("sources:\n- {}\n", &["fleetpack.yaml:5", "wanted one of `kustomize` and `path`"]),
            ("sources:\n- {path: a, kustomize: b}\n", &["fleetpack.yaml:5", "wanted a source for each"]),
            ("sources:\n- path: ../up\n", &["fleetpack.yaml:5", "`../up`", "`..`"]),
            ("version: 1\nversion: 2\n", &["fleetpack.yaml:5", "version"]),
            ("platforms: [linux]\n", &["fleetpack.yaml:4", "`linux` is not a platform"]),
            ("images: [\n", &["fleetpack.yaml:"]),
        ] {
            let message = refused(rest);
            for part in parts {
                assert!(message.contains(part), "{message:?} lacks {part:?}");
            }
        }
        assert!(parse(b"").is_err());
        assert!(parse(b"\xff\xfe").is_err());
        assert!(parse("[".repeat(1 << 20).as_bytes()).is_err());
    }
}
