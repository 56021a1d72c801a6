//! All that keeps the images of a release from being complete, told at once.

use std::fmt;

use super::images::{Need, Place, WantedImage};
use crate::model::{Digest, ErrorClass, ImageRef, lock};
use crate::source::images::UnresolvableImage;

/// Everything about the images of a release that somebody has to decide or mend.
#[derive(Debug, Default)]
pub struct ImageProblems {
    /// Fields that should name an image and do not.
    pub fields: Vec<UnresolvableImage>,
    /// What looks like an image, is not at its registry, and was not decided.
    pub undecided: Vec<UnresolvedImage>,
    /// Images that could not be resolved.
    pub images: Vec<UnresolvedImage>,
}

/// An image that could not be resolved.
#[derive(Debug)]
pub struct UnresolvedImage {
    /// The reference.
    pub image: ImageRef,
    /// Who uses it, and why it is taken for one.
    pub wanted: WantedImage,
    /// The digest that `fleetpack.lock` has for it.
    pub locked: Option<Digest>,
    /// What its sources said.
    pub error: crate::oci::OciError,
}

impl UnresolvedImage {
    /// Whether it is locked at what its registry no longer has.
    fn has_gone(&self) -> bool {
        self.locked.is_some() && self.error.is_not_found()
    }
}

impl ImageProblems {
    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.undecided.is_empty() && self.images.is_empty()
    }

    /// How the error ends the process.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        if !self.fields.is_empty() || !self.undecided.is_empty() {
            return ErrorClass::Incomplete;
        }
        // One that is missing makes the release incomplete, whatever ails the others.
        let classes = || self.images.iter().map(|image| image.error.class());
        let missing = classes().find(|class| *class == ErrorClass::Incomplete);
        missing.or_else(|| classes().next()).unwrap_or(ErrorClass::Incomplete)
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        if !self.undecided.is_empty() {
            return Some("decide each one that only looks like an image: the lines above, with a reason of your own, go into `fleetpack.yaml`; or name it under `images.include`, or push it".into());
        }
        if self.images.is_empty() {
            return Some("a release is complete only when each container names its image in the revision; what it does without is listed under `images.ignore` with a reason".into());
        }
        let gone: Vec<String> = self
            .images
            .iter()
            .filter(|image| image.has_gone())
            .map(|image| image.image.to_string())
            .collect();
        if !gone.is_empty() {
            return Some(format!(
                "push again what was locked, or lock what the tag means now: `fleetpack lock --update {}`",
                gone.join(" ")
            ));
        }
        self.images.iter().find_map(|image| image.error.hint()).or_else(|| {
            Some("push the image, correct the reference, or take it from a folder with `--images-from oci:DIR`".into())
        })
    }
}

/// Places that a message lists for one image; the rest is counted.
const PLACES: usize = 20;

fn places(f: &mut fmt::Formatter<'_>, places: &[Place], need: Need) -> fmt::Result {
    for place in places.iter().take(PLACES) {
        let usage = &place.usage;
        write!(f, "\n    used by {}  {}  {}", usage.place(), usage.object, usage.field)?;
        if need == Need::Candidate {
            write!(f, "  ({})", place.rule)?;
        }
    }
    match places.len() {
        0 => write!(f, "\n    asked for by `--image` or `images.include`"),
        count if count > PLACES => write!(f, "\n    and in {} more places", count - PLACES),
        _ => Ok(()),
    }
}

impl fmt::Display for ImageProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        let mut section = |f: &mut fmt::Formatter<'_>| {
            if std::mem::take(&mut first) { Ok(()) } else { f.write_str("\n") }
        };
        if !self.fields.is_empty() {
            section(f)?;
            match self.fields.as_slice() {
                [_] => f.write_str("a field names no image")?,
                fields => write!(f, "{} fields name no image", fields.len())?,
            }
            for field in &self.fields {
                let usage = &field.usage;
                write!(f, "\n  {}: {}: `{}`: {}", usage.place(), usage.object, usage.field, field.why)?;
            }
        }
        if !self.images.is_empty() {
            section(f)?;
            match self.images.as_slice() {
                [_] => f.write_str("an image cannot be resolved")?,
                images => write!(f, "{} images cannot be resolved", images.len())?,
            }
            for image in &self.images {
                write!(f, "\n  `{}`: {}", image.image, super::chain(&image.error))?;
                if let Some(digest) = image.locked {
                    write!(f, "\n    locked at {digest} in {}", lock::FILE_NAME)?;
                }
                places(f, &image.wanted.places, image.wanted.need)?;
            }
        }
        if !self.undecided.is_empty() {
            section(f)?;
            match self.undecided.as_slice() {
                [_] => f.write_str("what looks like an image is not decided")?,
                images => write!(f, "{} texts that look like images are not decided", images.len())?,
            }
            for image in &self.undecided {
                let what = if image.error.is_not_found() { "" } else { "it cannot be asked for: " };
                write!(f, "\n  `{}`: {what}{}", image.image, super::chain(&image.error))?;
                places(f, &image.wanted.places, image.wanted.need)?;
            }
            f.write_str("\nthese lines decide it in `fleetpack.yaml`:\n\nimages:\n  ignore:")?;
            for image in &self.undecided {
                // A reference holds nothing that JSON, and so YAML, would have to escape.
                write!(f, "\n  - {{image: \"{}\", reason: \"…\"}}", image.image)?;
            }
            f.write_str("\n")?;
        }
        Ok(())
    }
}
