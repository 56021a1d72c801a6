//! `fleetpack.lock`: what each image reference of a revision meant when it was locked.
//!
//! One short block an image, sorted by reference, so that a pull request shows which images move.
//! Format: `docs/formats.md`, "Lock file". Read by `source::lock`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use jiff::Timestamp;
use serde::Serialize;

use super::{Digest, ImageRef, Platform};

/// Name of the lock file at the root of a revision.
pub const FILE_NAME: &str = "fleetpack.lock";

const HEAD: &str = "\
# What each image reference meant when it was locked: `fleetpack build` takes these digests.
# Written by `fleetpack lock`; `fleetpack lock --update REF` moves a reference.
apiVersion: fleetpack.dev/v1
kind: Lock
";

/// The lock: what each reference means. References that hold a digest themselves have no entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    images: BTreeMap<ImageRef, Locked>,
}

/// What one reference means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked {
    /// Digest of the manifest or index.
    pub digest: Digest,
    /// Every platform that the image has at that digest, sorted; empty where it says none.
    pub platforms: Vec<Platform>,
    /// When the reference was found to mean this, to the second.
    pub resolved: Timestamp,
}

/// How a lock and what a revision wants differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The revision uses an image that the lock has not.
    Missing {
        /// The image.
        image: ImageRef,
    },
    /// The lock has an image that the revision does not use.
    Unused {
        /// The image.
        image: ImageRef,
    },
    /// The image has not, where it is locked, a platform that is asked for.
    Platform {
        /// The image.
        image: ImageRef,
        /// Where it is locked.
        digest: Digest,
        /// The platform.
        wanted: Platform,
        /// What it has there.
        has: Vec<Platform>,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { image } => write!(f, "`{image}` is used and not locked"),
            Self::Unused { image } => write!(f, "`{image}` is locked and not used"),
            Self::Platform { image, digest, wanted, has } => {
                write!(f, "`{image}` is locked at `{digest}`, which has no platform `{wanted}`, only ")?;
                for (n, has) in has.iter().enumerate() {
                    write!(f, "{}`{has}`", if n > 0 { ", " } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

/// What one `fleetpack lock` changed, each list sorted by reference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Changes {
    /// References that were not locked.
    pub added: Vec<Added>,
    /// References that mean another digest now.
    pub moved: Vec<Moved>,
    /// References that are no longer used.
    pub removed: Vec<Added>,
}

/// A reference that came or went, and what it meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Added {
    /// The reference.
    pub reference: ImageRef,
    /// What it means.
    pub digest: Digest,
}

/// A reference that means something else now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Moved {
    /// The reference.
    pub reference: ImageRef,
    /// What it meant.
    pub from: Digest,
    /// What it means.
    pub to: Digest,
}

impl Lock {
    /// Whether a reference belongs into a lock: one that holds a digest is its own lock.
    #[must_use]
    pub const fn covers(image: &ImageRef) -> bool {
        image.digest().is_none()
    }

    /// Sets what `image` means. The platforms are sorted here, and the time cut to the second.
    pub fn set(&mut self, image: ImageRef, mut locked: Locked) {
        locked.platforms.sort();
        locked.platforms.dedup();
        locked.resolved = Timestamp::from_second(locked.resolved.as_second()).unwrap_or(locked.resolved);
        self.images.insert(image, locked);
    }

    /// What `image` means, if it is locked.
    #[must_use]
    pub fn get(&self, image: &ImageRef) -> Option<&Locked> {
        self.images.get(image)
    }

    /// All entries, sorted by reference.
    pub fn iter(&self) -> impl Iterator<Item = (&ImageRef, &Locked)> {
        self.images.iter()
    }

    /// Count of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// How the lock differs from what is wanted: the images, and of each the `platforms` (none
    /// means whatever it has). What is missing first, then what lacks a platform, then what is unused.
    #[must_use]
    pub fn differences<'a>(
        &self,
        wanted: impl Iterator<Item = &'a ImageRef>,
        platforms: &[Platform],
    ) -> Vec<Difference> {
        let used: BTreeSet<&ImageRef> = wanted.filter(|image| Self::covers(image)).collect();
        let missing = used.iter().filter(|image| !self.images.contains_key(**image));
        let mut found: Vec<_> =
            missing.map(|image| Difference::Missing { image: (*image).clone() }).collect();
        for (image, locked) in self.images.iter().filter(|(image, _)| used.contains(image)) {
            let lacking = platforms.iter().find(|wanted| {
                !locked.platforms.is_empty() && !locked.platforms.iter().any(|has| wanted.takes(has))
            });
            if let Some(wanted) = lacking {
                found.push(Difference::Platform {
                    image: image.clone(),
                    digest: locked.digest,
                    wanted: wanted.clone(),
                    has: locked.platforms.clone(),
                });
            }
        }
        let unused = self.images.keys().filter(|image| !used.contains(image));
        found.extend(unused.map(|image| Difference::Unused { image: image.clone() }));
        found
    }

    /// What changed between `before` and this.
    #[must_use]
    pub fn changes(&self, before: &Self) -> Changes {
        let mut changes = Changes::default();
        for (reference, locked) in &self.images {
            match before.images.get(reference) {
                None => changes.added.push(Added { reference: reference.clone(), digest: locked.digest }),
                Some(old) if old.digest != locked.digest => changes.moved.push(Moved {
                    reference: reference.clone(),
                    from: old.digest,
                    to: locked.digest,
                }),
                Some(_) => {}
            }
        }
        let gone = before.images.iter().filter(|(reference, _)| !self.images.contains_key(*reference));
        changes.removed =
            gone.map(|(reference, old)| Added { reference: reference.clone(), digest: old.digest }).collect();
        changes
    }

    /// The bytes of the file: the same lock gives the same bytes.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = HEAD.to_owned();
        text.push_str(if self.images.is_empty() { "images: []\n" } else { "images:\n" });
        for (reference, locked) in &self.images {
            let platforms: Vec<String> = locked.platforms.iter().map(ToString::to_string).collect();
            let mut name = reference.to_string();
            if name.starts_with('[') {
                // An address of the sixth version would begin a list.
                name = format!("'{name}'");
            }
            // Writing into a string never fails.
            let _ = writeln!(
                text,
                "- reference: {name}\n  digest: {}\n  platforms: [{}]\n  resolved: {}",
                locked.digest,
                platforms.join(", "),
                locked.resolved,
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> ImageRef {
        text.parse().unwrap()
    }

    fn locked(n: u8, platforms: &[&str]) -> Locked {
        Locked {
            digest: Digest::of(&[n]),
            platforms: platforms.iter().map(|text| text.parse().unwrap()).collect(),
            resolved: "2026-11-21T08:00:00.75Z".parse().unwrap(),
        }
    }

    #[test]
    fn one_block_an_image_in_a_stable_order() {
        let mut lock = Lock::default();
        assert!(lock.to_text().ends_with("kind: Lock\nimages: []\n"));
        lock.set(image("r.example.com/b:1"), locked(1, &["linux/arm64", "linux/amd64", "linux/arm64"]));
        lock.set(image("[::1]:5000/a:1"), locked(2, &[]));
        let text = lock.to_text();
        let blocks = text.split_once("images:\n").unwrap().1;
        let (one, two) = (Digest::of(&[1]), Digest::of(&[2]));
        assert_eq!(
            blocks,
            format!(
                "- reference: '[::1]:5000/a:1'\n  digest: {two}\n  platforms: []\n  resolved: 2026-11-21T08:00:00Z\n\
                 - reference: r.example.com/b:1\n  digest: {one}\n  platforms: [linux/amd64, linux/arm64]\n  resolved: 2026-11-21T08:00:00Z\n"
            )
        );
    }

    #[test]
    fn differences_and_changes() {
        let (a, b, c, d) = (image("x/a:1"), image("x/b:1"), image("x/c:1"), image("x/d:1"));
        let pinned = image("x/p:1").pinned(Digest::of(b"p"));
        let mut lock = Lock::default();
        lock.set(a.clone(), locked(1, &["linux/amd64"]));
        lock.set(b.clone(), locked(2, &[]));
        lock.set(d.clone(), locked(4, &[]));
        let platforms = ["linux/arm64".parse().unwrap()];
        let told: Vec<String> = lock
            .differences([&a, &b, &c, &pinned].into_iter(), &platforms)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            told,
            [
                "`docker.io/x/c:1` is used and not locked".to_owned(),
                format!(
                    "`docker.io/x/a:1` is locked at `{}`, which has no platform `linux/arm64`, only `linux/amd64`",
                    Digest::of(&[1])
                ),
                "`docker.io/x/d:1` is locked and not used".to_owned(),
            ]
        );
        assert_eq!(lock.differences([&a, &b, &d].into_iter(), &[]), []);

        let mut now = Lock::default();
        now.set(a.clone(), locked(9, &[]));
        now.set(b.clone(), locked(2, &["linux/amd64"]));
        now.set(c.clone(), locked(3, &[]));
        let changes = now.changes(&lock);
        assert_eq!(changes.added, [Added { reference: c, digest: Digest::of(&[3]) }]);
        assert_eq!(changes.moved, [Moved { reference: a, from: Digest::of(&[1]), to: Digest::of(&[9]) }]);
        assert_eq!(changes.removed, [Added { reference: d, digest: Digest::of(&[4]) }]);
    }
}
