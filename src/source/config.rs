//! Reads `fleetpack.yaml`.

use crate::model::config::{FILE_NAME, ReleaseConfig, SourceConfig};
use crate::model::{ErrorClass, yaml};

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
    let mut config: ReleaseConfig =
        serde_saphyr::from_slice_with_options(bytes, options).map_err(|error| {
            let (line, why) = located(&error);
            ConfigError { line, why }
        })?;
    take_inline_values(bytes, &mut config)?;
    Ok(config)
}

/// Reads the inline values of charts again, by the rules by which Helm reads a file of values: the
/// configuration's own parser takes `yes` for a string.
fn take_inline_values(bytes: &[u8], config: &mut ReleaseConfig) -> Result<(), ConfigError> {
    if !config
        .sources
        .iter()
        .any(|source| matches!(source, SourceConfig::Helm(helm) if !helm.values_inline.is_empty()))
    {
        return Ok(());
    }
    let whole =
        yaml::one_document(bytes).map_err(|error| ConfigError { line: Some(error.line), why: error.why })?;
    for (at, source) in config.sources.iter_mut().enumerate() {
        if let SourceConfig::Helm(helm) = source
            && let Some(values) = whole["sources"][at]["helm"]["valuesInline"].as_object()
        {
            helm.values_inline.clone_from(values);
        }
    }
    Ok(())
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
    fn a_chart_with_all_it_may_have() {
        let text = format!(
            "{HEAD}target: {{kubeVersion: 1.30, apiVersions: [example.com/v1]}}\nsources:\n- helm:\n    \
             chart: ./charts/shop/\n    release: shop\n    namespace: prod\n    values: [site.yaml]\n    \
             valuesInline: {{a: yes, b: 0644, c: \"no\"}}\n    includeCrds: false\n    kubeVersion: v1.31.2\n    \
             apiVersions: []\n- helm: {{chart: other}}\n"
        );
        let config = parse(text.as_bytes()).unwrap();
        assert_eq!(config.target.kube_version.as_ref().unwrap().as_str(), "1.30", "not the number 1.3");
        let [SourceConfig::Helm(all), SourceConfig::Helm(few)] = config.sources.as_slice() else { panic!() };
        assert_eq!(all.chart.to_string(), "charts/shop");
        // As Helm would read them from a file.
        assert_eq!(serde_json::json!(all.values_inline), serde_json::json!({"a": true, "b": 420, "c": "no"}));
        assert!(!all.include_crds && few.include_crds);
        assert_eq!(all.api_versions.as_deref(), Some(&[][..]));
        assert_eq!(few.api_versions, None);
        assert_eq!(parse(&serde_json::to_vec(&config).unwrap()).unwrap(), config);
    }

    #[test]
    fn refusals_name_the_line_and_the_field() {
        for (rest, parts) in [
            ("colour: red\n", &["fleetpack.yaml:4", "`colour`", "sources"][..]),
            ("sources:\n- jsonnet: x\n", &["fleetpack.yaml:5", "`jsonnet`", "kustomize"]),
            ("sources:\n- helm: {chart: a, set: {b: c}}\n", &["fleetpack.yaml:5", "`set`", "valuesInline"]),
            (
                "sources:\n- helm: {chart: a, release: A}\n",
                &["fleetpack.yaml:5", "`A` is not a Helm release name"],
            ),
            (
                "target: {kubeVersion: latest}\n",
                &["fleetpack.yaml:4", "`latest` is not a version of Kubernetes"],
            ),
            ("sources:\n- {}\n", &["fleetpack.yaml:5", "wanted one of `kustomize`, `path` and `helm`"]),
            ("sources:\n- {path: a, kustomize: b}\n", &["fleetpack.yaml:5", "wanted a source for each"]),
            ("sources:\n- path: ../up\n", &["fleetpack.yaml:5", "`../up`", "`..`"]),
            ("version: 1\nversion: 2\n", &["fleetpack.yaml:5", "version"]),
            ("platforms: [linux]\n", &["fleetpack.yaml:4", "`linux` is not a platform"]),
            ("images: [\n", &["fleetpack.yaml:"]),
            ("deployers: {mode: both}\n", &["fleetpack.yaml:4", "`both`", "expand"]),
            ("deployers: {ignore: [{object: Application a/b}]}\n", &["fleetpack.yaml:4", "`reason`"]),
            (
                "deployers: {ignore: [{object: Application a/b, reason: \"-\"}]}\n",
                &["fleetpack.yaml:4", "wanted a sentence"],
            ),
            (
                "deployers: {replace: [{object: shop, path: a}]}\n",
                &["fleetpack.yaml:4", "`shop` does not name a deployer"],
            ),
            ("images: {ignore: [{image: a}]}\n", &["fleetpack.yaml:4", "`reason`"]),
            (
                "images: {ignore: [{image: a, reason: \" … \"}]}\n",
                &["fleetpack.yaml:4", "`reason` is `…`, wanted a sentence"],
            ),
            ("images: {ignore: [{image: \"*\", reason: all}]}\n", &["fleetpack.yaml:4", "`image` is `*`"]),
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
