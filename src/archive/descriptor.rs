//! The JSON that this crate writes: descriptors and manifests with their keys in a fixed order.

use serde::Serialize;

use crate::model::{Digest, media_type};

/// A descriptor (OCI Image Specification, "OCI Content Descriptors"); keys stand in this order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor<'a> {
    /// Media type of what it describes.
    pub media_type: &'a str,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What kind of artifact it is, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<&'a str>,
    /// Its name in a layout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<RefName>,
}

/// The one annotation that descriptors here carry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct RefName {
    /// The name.
    #[serde(rename = "org.opencontainers.image.ref.name")]
    pub name: String,
}

impl<'a> Descriptor<'a> {
    /// A descriptor without annotations.
    #[must_use]
    pub const fn new(media_type: &'a str, digest: Digest, size: u64) -> Self {
        Self { media_type, digest, size, artifact_type: None, annotations: None }
    }

    /// The same with a name in the layout.
    #[must_use]
    pub fn named(self, name: String) -> Self {
        Self { annotations: Some(RefName { name }), ..self }
    }

    /// The descriptor of the empty blob.
    #[must_use]
    pub fn empty() -> Self {
        let bytes = media_type::EMPTY_BYTES;
        Self::new(media_type::EMPTY, Digest::of(bytes), bytes.len() as u64)
    }
}

/// The bytes of `value` as JSON without white space.
///
/// # Panics
///
/// Never for what is here: structs of strings, numbers and lists.
#[must_use]
pub fn to_json(value: &impl Serialize) -> Vec<u8> {
    // Structs of strings, numbers and lists always serialise into memory.
    serde_json::to_vec(value).expect("plain structs serialise")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_order_of_keys() {
        let text = String::from_utf8(to_json(&Descriptor::empty().named("a/b:1".into()))).unwrap();
        assert_eq!(
            text,
            "{\"mediaType\":\"application/vnd.oci.empty.v1+json\",\
             \"digest\":\"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\",\"size\":2,\
             \"annotations\":{\"org.opencontainers.image.ref.name\":\"a/b:1\"}}"
        );
    }
}
