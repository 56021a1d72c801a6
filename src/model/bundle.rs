//! The header of a git bundle, version 2 (gitformat-bundle): a signature line, the references it
//! carries, an empty line; the pack follows.

use super::{GitOid, RefName};

/// First line of a version 2 bundle.
pub const SIGNATURE: &[u8] = b"# v2 git bundle\n";
/// A header longer than this is refused: 64 KiB hold hundreds of references.
pub const MAX_HEADER: usize = 64 << 10;

/// What a bundle says before its pack. Prerequisites are refused: every bundle here is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleHeader {
    /// References and the objects they name, sorted by name. Tags may name tag objects.
    pub refs: Vec<(RefName, GitOid)>,
    /// What `HEAD` names, so that `git clone BUNDLE` checks something out.
    pub head: Option<GitOid>,
}

/// Why bytes are not a bundle header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Not a version 2 bundle.
    #[error("not a git bundle of version 2: begins with `{found}`, wanted `# v2 git bundle`")]
    Signature {
        /// The first line as found.
        found: String,
    },
    /// The header does not end within [`MAX_HEADER`].
    #[error("the git bundle's header does not end within {MAX_HEADER} bytes")]
    Unended,
    /// A line has not the shape `<oid> SP <refname>`.
    #[error("git bundle header line `{line}`: {why}")]
    Line {
        /// The line as found.
        line: String,
        /// What is wrong with it.
        why: String,
    },
}

impl BundleHeader {
    /// The header as bytes, the empty line included.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        for (name, oid) in &self.refs {
            out.extend_from_slice(format!("{oid} {name}\n").as_bytes());
        }
        if let Some(oid) = &self.head {
            out.extend_from_slice(format!("{oid} HEAD\n").as_bytes());
        }
        out.push(b'\n');
        out
    }

    /// Parses the header at the front of `bytes`; also says how long it is: the pack begins there.
    ///
    /// # Errors
    ///
    /// When the bytes are not a whole version 2 header without prerequisites, or a name is unsafe.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), BundleError> {
        let Some(rest) = bytes.strip_prefix(SIGNATURE) else {
            let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
            let found = String::from_utf8_lossy(&line[..line.len().min(40)]).into_owned();
            return Err(BundleError::Signature { found });
        };
        let mut header = Self { refs: Vec::new(), head: None };
        let mut at = SIGNATURE.len();
        for line in rest.split_inclusive(|b| *b == b'\n') {
            at += line.len();
            if at > MAX_HEADER || line.last() != Some(&b'\n') {
                return Err(BundleError::Unended);
            }
            let line = &line[..line.len() - 1];
            if line.is_empty() {
                return Ok((header, at));
            }
            let text = String::from_utf8_lossy(&line[..line.len().min(300)]).into_owned();
            let error = |why: &str| BundleError::Line { line: text.clone(), why: why.to_owned() };
            if line[0] == b'-' {
                return Err(error("a prerequisite, but only whole bundles are read"));
            }
            let (oid, name) = text
                .split_once(' ')
                .ok_or_else(|| error("wanted an object name, a space and a reference"))?;
            let oid: GitOid = oid.parse().map_err(|e: super::name::NameError| error(&e.to_string()))?;
            if name == "HEAD" {
                if header.head.replace(oid).is_some() {
                    return Err(error("`HEAD` stands twice"));
                }
            } else {
                let name: RefName =
                    name.parse().map_err(|e: super::name::NameError| error(&e.to_string()))?;
                if header.refs.iter().any(|(seen, _)| *seen == name) {
                    return Err(error("the reference stands twice"));
                }
                header.refs.push((name, oid));
            }
        }
        Err(BundleError::Unended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BundleHeader {
        let oid: GitOid = "1".repeat(40).parse().unwrap();
        BundleHeader { refs: vec![("refs/heads/main".parse().unwrap(), oid.clone())], head: Some(oid) }
    }

    #[test]
    fn round_trip_with_a_pack_behind() {
        let mut bytes = header().to_bytes();
        let length = bytes.len();
        bytes.extend_from_slice(b"PACK...");
        assert_eq!(BundleHeader::parse(&bytes), Ok((header(), length)));
    }

    #[test]
    fn refusals() {
        let oid = "1".repeat(40);
        for bad in [
            "# v3 git bundle\n\n".to_owned(),
            "# v2 git bundle\n".to_owned(),
            format!("# v2 git bundle\n-{oid} base\n\n"),
            format!("# v2 git bundle\n{oid} refs/heads/../x\n\n"),
            format!("# v2 git bundle\n{oid} refs/heads/a\n{oid} refs/heads/a\n\n"),
            format!("# v2 git bundle\n{oid} HEAD\n{oid} HEAD\n\n"),
            format!("# v2 git bundle\n{oid}\n\n"),
            format!("# v2 git bundle\n{}", format!("{oid} refs/heads/a\n").repeat(2000)),
        ] {
            assert!(BundleHeader::parse(bad.as_bytes()).is_err(), "{bad:.80}");
        }
    }
}
