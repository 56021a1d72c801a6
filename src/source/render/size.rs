//! Objects that no API server would take are refused at the build, not at the site.

use std::io::{self, Write};

use serde_json::Value;

use super::RenderError;
use crate::model::RenderedObject;

/// What the values of a `ConfigMap` or `Secret` may have together (Kubernetes' own validation of them).
const DATA: u64 = 1 << 20;
/// What an API server reads of one request.
const OBJECT: u64 = 3 << 20;

/// Refuses an object that is larger than Kubernetes takes.
pub(in crate::source) fn check(object: &RenderedObject) -> Result<(), RenderError> {
    let refuse = |found, of, limit| {
        let (id, origin) = (Box::new(object.id.clone()), Box::new(object.origin.clone()));
        Err(RenderError::TooLarge { id, origin, found, of, limit })
    };
    let plain = |field: &str| values(&object.value[field]).map(|text| text.len() as u64).sum::<u64>();
    let decoded = |field: &str| {
        let size = |text: &str| {
            let text = text.trim_end_matches('=');
            text.bytes().filter(|b| !b.is_ascii_whitespace()).count() as u64 * 3 / 4
        };
        values(&object.value[field]).map(size).sum::<u64>()
    };
    let data = match (object.id.api_version.as_str(), object.id.kind.as_str()) {
        ("v1", "ConfigMap") => plain("data") + decoded("binaryData"),
        ("v1", "Secret") => decoded("data") + plain("stringData"),
        _ => 0,
    };
    if data > DATA {
        return refuse(data, " of data", DATA);
    }
    let mut count = Count(0);
    // Counting never fails.
    let _ = serde_json::to_writer(&mut count, &object.value);
    if count.0 > OBJECT { refuse(count.0, "", OBJECT) } else { Ok(()) }
}

fn values(entries: &Value) -> impl Iterator<Item = &str> {
    entries.as_object().into_iter().flat_map(|entries| entries.values()).filter_map(Value::as_str)
}

/// Counts what is written.
struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ObjectId, Origin};
    use serde_json::json;

    fn object(kind: &str, field: &str, text: &str) -> RenderedObject {
        let value = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, field: {"a": text}});
        let origin = Origin { file: "a.yaml".into(), line: Some(3), ..Origin::default() };
        RenderedObject::new(ObjectId::of(&value).unwrap(), origin, value)
    }

    #[test]
    fn sizes_as_kubernetes_has_them() {
        let mib = 1 << 20;
        assert!(check(&object("ConfigMap", "data", &"x".repeat(mib))).is_ok());
        let message = check(&object("ConfigMap", "data", &"x".repeat(mib + 1))).unwrap_err().to_string();
        assert_eq!(
            message,
            "a.yaml:3: ConfigMap x has 1048577 bytes of data, and Kubernetes takes at most 1048576"
        );
        // Four characters of base64 are three bytes.
        assert!(check(&object("Secret", "data", &"x".repeat(mib / 3 * 4))).is_ok());
        assert!(check(&object("Secret", "data", &"x".repeat(mib / 3 * 4 + 8))).is_err());
        assert!(check(&object("Secret", "stringData", &"x".repeat(mib + 1))).is_err());
        assert!(check(&object("Pod", "spec", &"x".repeat(2 * mib))).is_ok());
        let message = check(&object("Pod", "spec", &"x".repeat(3 * mib))).unwrap_err().to_string();
        assert!(message.contains("Pod x has 31458") && message.ends_with("at most 3145728"), "{message}");
    }
}
