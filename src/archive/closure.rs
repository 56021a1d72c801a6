//! Whether the archive holds everything that its manifests lead to, and nothing else.
//!
//! Manifests and indexes are parsed as they pass, each into a short list of what it names; once all
//! have passed, [`Closure::check`] walks from the images.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use serde::Deserialize;

use super::error::{ArchiveError, Result};
use crate::model::{BlobEntry, Digest, ImageEntry, ReferrerEntry, ReleaseDocument, media_type};

/// What the manifests of a release name, collected from any number of threads.
#[derive(Debug)]
pub struct Closure<'a> {
    document: &'a ReleaseDocument,
    places: HashMap<Digest, usize>,
    nodes: Vec<OnceLock<Node>>,
}

/// What one manifest or index names.
#[derive(Debug)]
struct Node {
    children: Vec<Child>,
    subject: Option<Digest>,
}

#[derive(Debug)]
struct Child {
    role: &'static str,
    target: Target,
}

#[derive(Debug)]
enum Target {
    /// Number of a blob in the document.
    Carried(usize),
    Missing(Digest),
}

/// A manifest or index, as far as it names other blobs. One type for both: a document that is both
/// at once is refused, since readers would disagree on it (OCI's advisory GHSA-mc8v-mgrf-8f4m).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<FoundDescriptor>,
    layers: Option<Vec<FoundDescriptor>>,
    manifests: Option<Vec<FoundDescriptor>>,
    subject: Option<FoundDescriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FoundDescriptor {
    media_type: Option<String>,
    digest: Digest,
    size: u64,
}

/// Whether the bytes of `blob` are to be given to [`Closure::add`].
#[must_use]
pub fn is_parsed(blob: &BlobEntry) -> bool {
    media_type::is_manifest(&blob.media_type) || media_type::is_index(&blob.media_type)
}

impl<'a> Closure<'a> {
    /// A closure that has seen no manifest of `document` yet.
    #[must_use]
    pub fn new(document: &'a ReleaseDocument) -> Self {
        let places = document.blobs.iter().enumerate().map(|(place, blob)| (blob.digest, place)).collect();
        let nodes = document.blobs.iter().map(|_| OnceLock::new()).collect();
        Self { document, places, nodes }
    }

    /// Takes the verified bytes of blob number `place` of the document, a manifest or index.
    ///
    /// # Errors
    ///
    /// When they are neither, or give a carried blob another size.
    pub fn add(&self, place: usize, bytes: &[u8]) -> Result<()> {
        let blob = &self.document.blobs[place];
        let refuse = |why: String| ArchiveError::Content { member: format!("manifest {}", blob.digest), why };
        let found: Found =
            serde_json::from_slice(bytes).map_err(|error| refuse(format!("does not parse: {error}")))?;
        if found.schema_version != 2 {
            return Err(refuse(format!("has `schemaVersion` {}, wanted 2", found.schema_version)));
        }
        if let Some(own) = found.media_type.filter(|own| *own != blob.media_type) {
            let own: String = own.chars().take(200).flat_map(char::escape_debug).collect();
            return Err(refuse(format!("calls itself `{own}`, and is listed as `{}`", blob.media_type)));
        }
        let is_index = media_type::is_index(&blob.media_type);
        let mut named = Vec::new();
        match (is_index, found.config, found.layers, found.manifests) {
            (true, None, None, Some(manifests)) => {
                named.extend(manifests.into_iter().map(|child| ("manifest", child)));
            }
            (false, Some(config), layers, None) => {
                named.push(("config", config));
                named.extend(layers.unwrap_or_default().into_iter().map(|layer| ("layer", layer)));
            }
            (true, ..) => {
                return Err(refuse("is no index: wanted `manifests` and neither config nor layers".into()));
            }
            (false, ..) => return Err(refuse("is no manifest: wanted `config` and no `manifests`".into())),
        }
        let mut children = Vec::with_capacity(named.len());
        for (role, child) in named {
            let target = match self.places.get(&child.digest) {
                None => Target::Missing(child.digest),
                Some(place) => {
                    let carried = &self.document.blobs[*place];
                    if carried.size != child.size {
                        let (digest, size, listed) = (child.digest, child.size, carried.size);
                        return Err(refuse(format!(
                            "gives {role} {digest} {size} bytes, and the release document {listed}"
                        )));
                    }
                    // A manifest that were listed as something else would not be parsed here.
                    if let Some(child_type) = child.media_type
                        && role == "manifest"
                        && child_type != carried.media_type
                    {
                        let child_type: String =
                            child_type.chars().take(200).flat_map(char::escape_debug).collect();
                        let (digest, listed) = (child.digest, &carried.media_type);
                        return Err(refuse(format!(
                            "gives {role} {digest} media type `{child_type}`, and the release document `{listed}`"
                        )));
                    }
                    Target::Carried(*place)
                }
            };
            children.push(Child { role, target });
        }
        let node = Node { children, subject: found.subject.map(|subject| subject.digest) };
        // A blob passes once; a second time would bring the same bytes.
        let _ = self.nodes[place].set(node);
        Ok(())
    }

    /// Walks from the images, their referrers and the rendered manifests, once every manifest was added.
    ///
    /// # Errors
    ///
    /// When something that is named is not carried (and not listed as absent), or a blob is carried
    /// that nothing leads to.
    pub fn check(&self) -> Result<()> {
        let document = self.document;
        let mut reached = vec![false; document.blobs.len()];
        let mut roots = document.bundles();
        roots.extend([document.rendered.layer, Digest::of(media_type::EMPTY_BYTES)]);
        for place in roots.iter().filter_map(|root| self.places.get(root)) {
            reached[*place] = true;
        }
        for object in &document.git.lfs {
            // What stands in `blobs` as something else has to be led to as that.
            if let Some(place) = self.places.get(&object.digest)
                && document.blobs[*place].media_type == media_type::GIT_LFS_OBJECT
            {
                reached[*place] = true;
            }
        }
        self.check_rendered(&mut reached)?;
        for image in &document.images {
            self.check_image(image, &mut reached)?;
        }
        match reached.iter().position(|reached| !reached) {
            None => Ok(()),
            Some(place) => Err(ArchiveError::Document {
                why: format!("lists blob {}, and nothing leads to it", document.blobs[place].digest),
            }),
        }
    }

    fn check_rendered(&self, reached: &mut [bool]) -> Result<()> {
        let rendered = &self.document.rendered;
        let layer = self.places.get(&rendered.layer);
        let mut walk = Walk::new(self, reached, "the rendered manifests".into());
        let place = walk.run(rendered.manifest, &HashSet::new())?;
        let layers = self.node(place)?.children.iter().filter(|child| child.role == "layer");
        let layers: Vec<_> = layers.map(|layer| &layer.target).collect();
        if !matches!(layers.as_slice(), [Target::Carried(only)] if Some(only) == layer) {
            let why = format!("wants {} as its one layer", rendered.layer);
            return Err(ArchiveError::Content { member: format!("manifest {}", rendered.manifest), why });
        }
        Ok(())
    }

    fn check_image(&self, image: &ImageEntry, reached: &mut [bool]) -> Result<()> {
        let absent: HashSet<Digest> = image.absent.iter().map(|absent| absent.digest).collect();
        let mut walk = Walk::new(self, reached, format!("image `{}`", image.reference));
        walk.run(image.digest, &absent)?;
        if let Some(stray) = image.absent.iter().find(|absent| !walk.named.contains(&absent.digest)) {
            let why = format!(
                "lists child {} of image `{}` as absent, and its index does not name it",
                stray.digest, image.reference
            );
            return Err(ArchiveError::Document { why });
        }
        for referrer in &image.referrers {
            if !walk.named.contains(&referrer.subject) {
                let why = format!(
                    "says that {} refers to {}, which is no part of image `{}`",
                    referrer.digest, referrer.subject, image.reference
                );
                return Err(ArchiveError::Document { why });
            }
            let place = walk.run(referrer.digest, &HashSet::new())?;
            self.check_subject(place, referrer)?;
        }
        Ok(())
    }

    fn check_subject(&self, place: usize, referrer: &ReferrerEntry) -> Result<()> {
        let found = self.node(place)?.subject;
        // Cosign's older form has no subject; there the tag ties the two together.
        let why = match found {
            Some(found) if found != referrer.subject => format!("{found}"),
            None if referrer.tag.is_none() => "nothing".to_owned(),
            _ => return Ok(()),
        };
        Err(ArchiveError::Content {
            member: format!("manifest {}", referrer.digest),
            why: format!("refers to {why}, and the release document says to {}", referrer.subject),
        })
    }

    fn node(&self, place: usize) -> Result<&Node> {
        let node = self.nodes.get(place).and_then(OnceLock::get);
        node.ok_or_else(|| ArchiveError::Content {
            member: format!("manifest {}", self.document.blobs[place].digest),
            why: "was not read".into(),
        })
    }
}

/// A walk over what one image leads to.
struct Walk<'w, 'a> {
    closure: &'w Closure<'a>,
    reached: &'w mut [bool],
    what: String,
    /// Manifests that were met, carried or absent.
    named: HashSet<Digest>,
}

impl<'w, 'a> Walk<'w, 'a> {
    fn new(closure: &'w Closure<'a>, reached: &'w mut [bool], what: String) -> Self {
        Self { closure, reached, what, named: HashSet::new() }
    }

    /// Marks all that `root` leads to; gives the number of its blob.
    fn run(&mut self, root: Digest, absent: &HashSet<Digest>) -> Result<usize> {
        let blobs = &self.closure.document.blobs;
        let Some(start) = self.closure.places.get(&root) else {
            let why = format!("{} is {root}, which the archive does not hold", self.what);
            return Err(ArchiveError::Incomplete { why });
        };
        // Digests cannot form a circle, and `named` takes each manifest once: the walk ends.
        let mut stack = vec![*start];
        while let Some(place) = stack.pop() {
            self.reached[place] = true;
            if !is_parsed(&blobs[place]) || !self.named.insert(blobs[place].digest) {
                continue;
            }
            for child in &self.closure.node(place)?.children {
                match child.target {
                    Target::Carried(child) => stack.push(child),
                    Target::Missing(digest) if child.role == "manifest" && absent.contains(&digest) => {
                        self.named.insert(digest);
                    }
                    Target::Missing(digest) => {
                        let why = format!(
                            "{} needs {} {digest} (named by {}), which the archive does not hold",
                            self.what, child.role, blobs[place].digest
                        );
                        return Err(ArchiveError::Incomplete { why });
                    }
                }
            }
        }
        Ok(*start)
    }
}
