//! The rendered objects as an OCI artifact of one layer, which Argo CD and Flux accept as a
//! source (`docs/formats.md`, "Rendered manifests").
//!
//! The reader computes from the release document which tar headers must stand in the layer and
//! compares whole blocks, so there is one way to say a list of objects and no second parser to
//! disagree with.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;
use flate2::{Compression, GzBuilder};
use serde_json::json;

use crate::fsio::{HashingReader, limits};
use crate::model::yaml::{self, YamlError};
use crate::model::{Digest, ErrorClass, ObjectEntry, ObjectId, RenderedContent, RenderedObject, media_type};

const BLOCK: usize = 512;
/// ustar holds names of 100 bytes without a prefix.
const LONGEST_NAME: usize = 99;

/// Rendered objects, packed: three blobs and what the release document says of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// The gzip-compressed tar.
    pub layer: Vec<u8>,
    /// Its digest.
    pub layer_digest: Digest,
    /// The artifact's manifest.
    pub manifest: Vec<u8>,
    /// Its digest.
    pub manifest_digest: Digest,
    /// The artifact's config: the bytes `{}`, which are the empty blob as well.
    pub config: Vec<u8>,
    /// Its digest.
    pub config_digest: Digest,
    /// The objects, in order.
    pub entries: Vec<ObjectEntry>,
}

impl Packed {
    /// What the release document says of the objects.
    #[must_use]
    pub fn content(&self) -> RenderedContent {
        RenderedContent {
            manifest: self.manifest_digest,
            layer: self.layer_digest,
            objects: self.entries.clone(),
        }
    }
}

/// Why rendered objects were not packed or not read.
#[derive(Debug, thiserror::Error)]
pub enum RenderedError {
    /// More objects than a release may have.
    #[error("the release has {found} objects, at most {} are carried", limits::OBJECTS)]
    Objects {
        /// How many there are.
        found: usize,
    },
    /// More bytes than a release may have.
    #[error("the rendered objects have more than {} bytes", limits::RENDERED)]
    Size,
    /// What was packed does not read back as what went in.
    #[error("{object} does not survive being written as YAML and read again")]
    RoundTrip {
        /// The object.
        object: Box<ObjectId>,
    },
    /// The layer has another digest than the release document says.
    #[error("the layer of rendered objects has digest {found}, wanted {wanted}")]
    Digest {
        /// Digest of the bytes.
        found: Digest,
        /// Digest in the release document.
        wanted: Digest,
    },
    /// A block of the tar is not the one that must stand there.
    #[error("the layer of rendered objects: {what} in the place of `{member}`")]
    Member {
        /// The member that the release document leads to.
        member: String,
        /// What is wrong there.
        what: &'static str,
    },
    /// There is more than the release document lists.
    #[error("the layer of rendered objects goes on after its last listed member")]
    Trailing,
    /// A member is not YAML.
    #[error("`{member}` in the layer of rendered objects: {source}")]
    Yaml {
        /// The member.
        member: String,
        /// What is wrong with it.
        source: YamlError,
    },
    /// A member holds another object than the release document says.
    #[error("`{member}` in the layer of rendered objects holds {found}, wanted {wanted}")]
    Object {
        /// The member.
        member: String,
        /// What it holds.
        found: String,
        /// What the release document lists there.
        wanted: Box<ObjectId>,
    },
    /// Reading, writing or inflating failed.
    #[error("the layer of rendered objects: {0}")]
    Io(#[from] io::Error),
}

impl RenderedError {
    /// How the error ends the process.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Objects { .. } | Self::Size | Self::RoundTrip { .. } | Self::Io(_) => ErrorClass::Failed,
            Self::Digest { .. }
            | Self::Member { .. }
            | Self::Trailing
            | Self::Yaml { .. }
            | Self::Object { .. } => ErrorClass::Refused,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self.class() {
            ErrorClass::Refused => {
                Some("the archive was not written by fleetpack; build it again".to_owned())
            }
            _ => None,
        }
    }
}

/// Name of a member: `00012-deployment-web.yaml`. Only the number has a meaning.
fn member_name(at: usize, id: &ObjectId) -> String {
    let plain = |text: &str| -> String {
        text.chars()
            .map(|c| c.to_ascii_lowercase())
            .map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '-' })
            .collect()
    };
    let mut name = format!("{at:05}-{}-{}", plain(&id.kind), plain(&id.name));
    name.truncate(LONGEST_NAME - ".yaml".len());
    name + ".yaml"
}

fn header(name: &str, size: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

/// Packs objects, and reads the result back to prove that nothing was lost.
///
/// # Errors
///
/// When they are too many or too large, or an object is not the same after the way through YAML.
pub fn pack(objects: &[RenderedObject]) -> Result<Packed, RenderedError> {
    if objects.len() > limits::OBJECTS {
        return Err(RenderedError::Objects { found: objects.len() });
    }
    let gzip = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    let mut builder = tar::Builder::new(gzip);
    let mut total = 0u64;
    for (at, object) in objects.iter().enumerate() {
        let text = yaml::to_string(&object.value);
        let size = text.len() as u64;
        total = total.saturating_add(size);
        if total > limits::RENDERED {
            return Err(RenderedError::Size);
        }
        builder.append(&header(&member_name(at, &object.id), size)?, text.as_bytes())?;
    }
    let layer = builder.into_inner()?.finish()?;
    let layer_digest = Digest::of(&layer);
    let config = media_type::EMPTY_BYTES.to_vec();
    let config_digest = Digest::of(&config);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": {"mediaType": media_type::FLUX_CONFIG, "digest": config_digest, "size": config.len()},
        "layers": [{"mediaType": media_type::OCI_LAYER_GZIP, "digest": layer_digest, "size": layer.len()}],
    })
    .to_string()
    .into_bytes();
    let manifest_digest = Digest::of(&manifest);
    let entries = objects.iter().map(ObjectEntry::from).collect();
    let packed = Packed { layer, layer_digest, manifest, manifest_digest, config, config_digest, entries };

    let back = unpack(packed.layer.as_slice(), &packed.content())?;
    match objects.iter().zip(&back).find(|(object, back)| object != back) {
        Some((object, _)) => Err(RenderedError::RoundTrip { object: Box::new(object.id.clone()) }),
        None => Ok(packed),
    }
}

/// Reads a layer: exactly the objects of `content`, in that order.
///
/// # Errors
///
/// When the layer differs from what the release document says in any byte, or is too large.
pub fn unpack(reader: impl Read, content: &RenderedContent) -> Result<Vec<RenderedObject>, RenderedError> {
    if content.objects.len() > limits::OBJECTS {
        return Err(RenderedError::Objects { found: content.objects.len() });
    }
    let mut compressed = HashingReader::new(reader.take(limits::RENDERED));
    let objects = {
        let mut buffered = BufReader::with_capacity(64 << 10, &mut compressed);
        let mut gzip = GzDecoder::new(&mut buffered);
        let objects = read_members(&mut gzip, &content.objects)?;
        if gzip.read(&mut [0])? != 0 || !buffered.fill_buf()?.is_empty() {
            return Err(RenderedError::Trailing);
        }
        objects
    };
    let (found, _) = compressed.finish();
    if found != content.layer {
        return Err(RenderedError::Digest { found, wanted: content.layer });
    }
    Ok(objects)
}

fn read_members(tar: &mut impl Read, entries: &[ObjectEntry]) -> Result<Vec<RenderedObject>, RenderedError> {
    let mut objects = Vec::with_capacity(entries.len().min(4096));
    let mut left = limits::RENDERED;
    for (at, entry) in entries.iter().enumerate() {
        let member = member_name(at, &entry.id);
        let wrong = |what| RenderedError::Member { member: member.clone(), what };
        let mut block = [0; BLOCK];
        read_exact(tar, &mut block).map_err(|error| error.unwrap_or(wrong("the layer ends")))?;
        let found = tar::Header::from_byte_slice(&block);
        let size = found.size().map_err(|_| wrong("a block that is no header"))?;
        if block.as_slice() != header(&member, size)?.as_bytes() {
            return Err(wrong("another member"));
        }
        left = left.checked_sub(size).ok_or(RenderedError::Size)?;
        let size = usize::try_from(size).map_err(|_| RenderedError::Size)?;
        let mut text = Vec::new();
        tar.by_ref().take(size as u64).read_to_end(&mut text)?;
        if text.len() != size {
            return Err(wrong("the layer ends"));
        }
        let mut padding = [0; BLOCK];
        let padding = &mut padding[..size.next_multiple_of(BLOCK) - size];
        read_exact(tar, padding).map_err(|error| error.unwrap_or(wrong("the layer ends")))?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(wrong("padding that is not zero"));
        }
        let value = yaml::one_document(&text)
            .map_err(|source| RenderedError::Yaml { member: member.clone(), source })?;
        match ObjectId::of(&value) {
            Ok(id) if id == entry.id => {}
            Ok(id) => {
                return Err(RenderedError::Object {
                    member,
                    found: id.to_string(),
                    wanted: Box::new(entry.id.clone()),
                });
            }
            Err(why) => {
                return Err(RenderedError::Object {
                    member,
                    found: format!("a document where {why}"),
                    wanted: Box::new(entry.id.clone()),
                });
            }
        }
        let ObjectEntry { id, origin, role, default_namespace, turn } = entry.clone();
        objects.push(RenderedObject { id, origin, role, default_namespace, turn, value });
    }
    let mut end = [1; 2 * BLOCK];
    read_exact(tar, &mut end).map_err(|error| error.unwrap_or(RenderedError::Trailing))?;
    if end.iter().any(|byte| *byte != 0) {
        return Err(RenderedError::Trailing);
    }
    Ok(objects)
}

/// Fills `buffer`; `Err(None)` when the input ends before that.
fn read_exact(reader: &mut impl Read, buffer: &mut [u8]) -> Result<(), Option<RenderedError>> {
    reader
        .read_exact(buffer)
        .map_err(|error| (error.kind() != io::ErrorKind::UnexpectedEof).then_some(RenderedError::Io(error)))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::model::Origin;
    use serde_json::Value;

    fn object(kind: &str, name: &str, data: &Value) -> RenderedObject {
        let value = json!({
            "apiVersion": "v1", "kind": kind,
            "metadata": {"name": name, "namespace": "shop", "annotations": {}, "labels": null},
            "data": data,
        });
        let id = ObjectId::of(&value).unwrap();
        RenderedObject::new(id, Origin { file: "a.yaml".into(), line: Some(3), ..Origin::default() }, value)
    }

    fn objects() -> Vec<RenderedObject> {
        vec![
            object(
                "ConfigMap",
                "a",
                &json!({"yes": "no", "n": 18_446_744_073_709_551_615u64, "f": 0.25, "e": {}, "l": []}),
            ),
            object(
                "Role",
                "system:odd/NAME",
                &json!({"x": "a\r\n\u{0}\u{2028}b", "big": "y".repeat(100_000)}),
            ),
            object("ConfigMap", &"long-".repeat(50), &json!(null)),
        ]
    }

    /// A layer of given headers and contents, so that each way to lie can be written.
    fn layer(members: &[(tar::Header, Vec<u8>)], tail: &[u8]) -> Vec<u8> {
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::fast());
        for (header, content) in members {
            gzip.write_all(header.as_bytes()).unwrap();
            gzip.write_all(content).unwrap();
            gzip.write_all(&vec![0; content.len().next_multiple_of(BLOCK) - content.len()]).unwrap();
        }
        gzip.write_all(tail).unwrap();
        gzip.finish().unwrap()
    }

    type Members = Vec<(tar::Header, Vec<u8>)>;

    fn members(objects: &[RenderedObject]) -> Members {
        let member = |(at, object): (usize, &RenderedObject)| {
            let text = yaml::to_string(&object.value).into_bytes();
            (header(&member_name(at, &object.id), text.len() as u64).unwrap(), text)
        };
        objects.iter().enumerate().map(member).collect()
    }

    fn content(layer: &[u8], objects: &[RenderedObject]) -> RenderedContent {
        let entries = |o: &RenderedObject| ObjectEntry::from(o);
        RenderedContent {
            manifest: Digest::of(b""),
            layer: Digest::of(layer),
            objects: objects.iter().map(entries).collect(),
        }
    }

    #[test]
    fn round_trip_and_the_same_bytes_again() {
        let packed = pack(&objects()).unwrap();
        assert_eq!(unpack(packed.layer.as_slice(), &packed.content()).unwrap(), objects());
        assert_eq!(pack(&objects()).unwrap(), packed);
        assert_eq!(packed.config, b"{}");
        let manifest: Value = serde_json::from_slice(&packed.manifest).unwrap();
        assert_eq!(manifest["layers"][0]["digest"], json!(packed.layer_digest));
        assert_eq!(pack(&[]).unwrap().entries, []);
    }

    #[test]
    fn names_are_plain_short_and_numbered() {
        let names: Vec<_> = objects().iter().enumerate().map(|(at, o)| member_name(at, &o.id)).collect();
        assert_eq!(names[0], "00000-configmap-a.yaml");
        assert_eq!(names[1], "00001-role-system-odd-name.yaml");
        assert_eq!(names[2].len(), LONGEST_NAME);
        assert_eq!(&layer(&members(&objects()), &[0; 1024])[..2], &[0x1f, 0x8b]);
    }

    #[test]
    fn the_writer_of_the_tests_is_accepted_so_that_refusals_mean_something() {
        let layer = layer(&members(&objects()), &[0; 1024]);
        assert_eq!(unpack(layer.as_slice(), &content(&layer, &objects())).unwrap(), objects());
    }

    #[test]
    fn every_other_layer_is_refused() {
        let objects = objects();
        let good = members(&objects);
        let zeros = [0u8; 1024];
        let with = |change: &dyn Fn(&mut Members)| {
            let mut members = good.clone();
            change(&mut members);
            layer(&members, &zeros)
        };
        let link = |kind| {
            let mut header = header(&member_name(0, &objects[0].id), 0).unwrap();
            header.set_entry_type(kind);
            header.set_link_name("/etc/passwd").unwrap();
            header.set_cksum();
            (header, Vec::new())
        };
        let mut plus = layer(&good, &zeros);
        plus.push(0);
        let mut twice = layer(&good, &zeros);
        twice.extend(layer(&good, &zeros));
        let whole = layer(&good, &zeros);
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("missing", with(&|m| drop(m.remove(1)))),
            ("extra", with(&|m| m.push(m[0].clone()))),
            ("swapped", with(&|m| m.swap(0, 1))),
            ("symlink", with(&|m| m[0] = link(tar::EntryType::Symlink))),
            ("hard link", with(&|m| m[0] = link(tar::EntryType::Link))),
            ("long name", with(&|m| m.insert(0, (tar::Header::new_gnu(), vec![])))),
            (
                "climbing name",
                with(&|m| {
                    let bytes = m[0].0.as_mut_bytes();
                    bytes[..3].copy_from_slice(b"../");
                    m[0].0.set_cksum();
                }),
            ),
            (
                "executable",
                with(&|m| {
                    m[0].0.set_mode(0o755);
                    m[0].0.set_cksum();
                }),
            ),
            ("huge size", with(&|m| m[0].0 = header(&member_name(0, &objects[0].id), u64::MAX / 2).unwrap())),
            (
                "other object",
                with(&|m| {
                    let mut other = objects[0].clone();
                    other.value["metadata"]["name"] = json!("b");
                    m[0] = members(&[other]).remove(0);
                    m[0].0 = header(&member_name(0, &objects[0].id), m[0].1.len() as u64).unwrap();
                }),
            ),
            (
                "no object",
                with(&|m| {
                    m[0].1 = b"- 1\n".to_vec();
                    m[0].0 = header(&member_name(0, &objects[0].id), 4).unwrap();
                }),
            ),
            (
                "broken yaml",
                with(&|m| {
                    m[0].1 = b"a: [\n".to_vec();
                    m[0].0 = header(&member_name(0, &objects[0].id), 5).unwrap();
                }),
            ),
            ("no end", layer(&good, &[])),
            ("short end", layer(&good, &[0; 512])),
            ("long end", layer(&good, &[0; 1536])),
            ("data behind the end", layer(&good, &[[0; 1024], [1; 1024]].concat())),
            ("byte behind the stream", plus),
            ("second stream", twice),
            ("cut", whole[..whole.len() / 2].to_vec()),
            ("empty", Vec::new()),
            ("not gzip", b"hello".to_vec()),
            ("zeros without end", layer(&[], &vec![0; 64 << 20])),
        ];
        for (name, bytes) in cases {
            let error = unpack(bytes.as_slice(), &content(&bytes, &objects)).expect_err(name);
            assert!(!error.to_string().is_empty());
        }
        let mut wrong = content(&whole, &objects);
        wrong.layer = Digest::of(b"x");
        assert!(matches!(unpack(whole.as_slice(), &wrong), Err(RenderedError::Digest { .. })));
    }

    #[test]
    fn what_yaml_would_change_is_not_packed() {
        let bad = object("ConfigMap", "a", &json!({"x": 1.0}));
        assert!(matches!(pack(&[bad]), Err(RenderedError::RoundTrip { .. })));
    }
}
