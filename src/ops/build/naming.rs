//! What a release is called, and where its archive goes.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::Options;
use crate::model::{Progress, ReleaseName, ReleaseVersion, config};
use crate::ops::{Error, Result};
use crate::source::git::Revision;
use crate::source::git::remote::RemoteUrl;

pub(super) fn release_name(
    options: &Options,
    config: Option<&config::ReleaseConfig>,
    url: Option<&RemoteUrl>,
    progress: &dyn Progress,
) -> Result<ReleaseName> {
    if let Some(name) = options.name.clone().or_else(|| config.map(|config| config.metadata.name.clone())) {
        return Ok(name);
    }
    let folder = if let Some(url) = url {
        url.base_name().to_lowercase()
    } else {
        let folder = &options.revision.repository;
        let folder = folder.canonicalize().map_err(|error| Error::io("open", folder, error))?;
        folder.file_name().unwrap_or_default().to_string_lossy().to_lowercase()
    };
    let folder = folder.strip_suffix(".git").unwrap_or(&folder).to_owned();
    let name: ReleaseName = folder.parse().map_err(|_| Error::Usage {
        what: format!("the release has no name, and its folder `{folder}` cannot give one"),
        hint: format!("add a `{}` with `metadata: {{name: …}}`, or give `--name`", config::FILE_NAME),
    })?;
    progress.note(format!(
        "the release is called `{name}` after its folder; `metadata.name` in {} fixes the name",
        config::FILE_NAME
    ));
    Ok(name)
}

pub(super) fn release_version(
    options: &Options,
    config: Option<&config::ReleaseConfig>,
    revision: &Revision,
) -> Result<ReleaseVersion> {
    let given = options.version.clone().or_else(|| config.and_then(|config| config.version.clone()));
    if let Some(version) = given {
        return Ok(version);
    }
    let text = revision.tag_at.as_deref().unwrap_or(&revision.short);
    // A tag such as `release/1.2` is a fine tag, but no version: its last part is one.
    let text = text.rsplit('/').next().unwrap_or(text);
    text.parse().map_err(|error| Error::Usage {
        what: format!("the tag at the revision gives no version: {error}"),
        hint: "give `version` in fleetpack.yaml, or `--release-version`".into(),
    })
}

pub(super) fn release_time(options: &Options, revision: &Revision) -> Result<Timestamp> {
    let Some(seconds) = options.created else { return Ok(revision.created) };
    Timestamp::from_second(seconds).map_err(|error| Error::Usage {
        what: format!("`SOURCE_DATE_EPOCH` is {seconds}: {error}"),
        hint: "set it to seconds since 1970, or unset it".into(),
    })
}

pub(in crate::ops) fn output_path(
    output: Option<&Path>,
    name: &ReleaseName,
    version: &ReleaseVersion,
) -> PathBuf {
    let file = format!("{name}-{version}.fleetpack.tar");
    match output {
        None => PathBuf::from(file),
        Some(path) if path.is_dir() => path.join(file),
        Some(path) => path.to_owned(),
    }
}
