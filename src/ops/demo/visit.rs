//! What a node and a Git client would do: an image is pulled and the repository cloned through the
//! demo's server, and both are checked.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt;

use crate::fsio::Hasher;
use crate::model::progress::Silent;
use crate::model::{BundleHeader, Digest, ImageRef, ReleaseDocument};
use crate::oci::{self, Sources};
use crate::ops::{Error, Result};
use crate::source::git::Repository;
use crate::store::git;

/// The longest answer of the Git server that is taken: the demo's history is small.
const PACK: usize = 4 << 20;

/// Pulls an image by its tag from the server at `endpoint`; answers with its digest and its bytes.
pub(super) async fn pull(endpoint: &str, image: &str) -> Result<(Digest, u64)> {
    let host = endpoint.trim_start_matches("http://");
    let reference: ImageRef = format!("{host}/{image}")
        .parse()
        .map_err(|error| Error::io("pull", Path::new(image), std::io::Error::other(format!("{error}"))))?;
    let registry = oci::Registry::new(oci::RegistryOptions::default());
    let sources = Sources::new(vec![Arc::new(registry)]);
    let resolved = oci::resolve(&sources, &reference, oci::Extent::default(), &Silent).await?;
    let mut total = 0;
    for blob in resolved.configs.iter().chain(&resolved.layers) {
        let mut hasher = Hasher::new();
        let mut take = |bytes: &[u8]| {
            hasher.update(bytes);
            Ok(())
        };
        oci::fetch(resolved.source.as_ref(), &reference, blob, &mut take).await?;
        total += hasher.length();
        let found = hasher.finish();
        if found != blob.digest {
            let why = format!("digest `{found}`, wanted `{}`", blob.digest);
            return Err(Error::io("pull", Path::new(image), std::io::Error::other(why)));
        }
    }
    Ok((resolved.entry.digest, total))
}

/// Clones the repository of `document` from the server at `endpoint` into `folder`, which is new,
/// and answers with the commit that its branch leads to.
///
/// Version 2 of the protocol (gitprotocol-v2): one `fetch` that wants the branch and has nothing.
pub(super) async fn clone(endpoint: &str, document: &ReleaseDocument, folder: &Path) -> Result<String> {
    let failed = |why: String| Error::io("clone into", folder, std::io::Error::other(why));
    let mut body = Vec::new();
    let mut line = |text: &str| body.extend_from_slice(format!("{:04x}{text}", text.len() + 4).as_bytes());
    line("command=fetch");
    line("object-format=sha1");
    body.extend_from_slice(b"0001");
    let mut line = |text: &str| body.extend_from_slice(format!("{:04x}{text}", text.len() + 4).as_bytes());
    line("ofs-delta");
    line("no-progress");
    for reference in &document.git.refs {
        line(&format!("want {}", reference.target));
    }
    line("done");
    body.extend_from_slice(b"0000");
    let client = reqwest::Client::builder().no_proxy().build().map_err(|error| failed(error.to_string()))?;
    let answer = client
        .post(format!("{endpoint}/git/{}.git/git-upload-pack", document.name))
        .header("git-protocol", "version=2")
        .header("content-type", "application/x-git-upload-pack-request")
        .body(body)
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(|error| failed(error.to_string()))?;
    let mut stream = answer.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.map_err(|error| failed(error.to_string()))?);
        if bytes.len() > PACK {
            return Err(failed(format!("the answer is longer than {PACK} bytes")));
        }
    }
    let pack = unwrap(&bytes).map_err(failed)?;
    let header = BundleHeader {
        refs: document.git.refs.iter().map(|found| (found.name.clone(), found.target.clone())).collect(),
        head: Some(document.git.commit.clone()),
    };
    let bundle = [header.to_bytes(), pack].concat();
    fs::create_dir(folder).map_err(|error| Error::io("make", folder, error))?;
    let bundle_path = folder.join("bundle");
    fs::write(&bundle_path, &bundle).map_err(|error| Error::io("write", &bundle_path, error))?;
    let release = git::GenerationRelease {
        version: document.version.clone(),
        digest: Digest::of(&bundle),
        bundle: Digest::of(&bundle),
        bundle_path,
        refs: document.git.refs.clone(),
        commit: document.git.commit.clone(),
    };
    // Checks that every object which the references reach has come.
    let cloned = git::build_generation(folder, &document.name, &[release])?;
    let branch = document.branch().map_or("HEAD", |branch| branch.name.as_str());
    Ok(Repository::open(cloned.path())?.resolve(branch)?.commit.to_string())
}

/// The pack in an answer to `fetch`: packets, of which band 1 is the pack.
fn unwrap(bytes: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let mut pack = Vec::new();
    let mut rest = bytes;
    let mut in_pack = false;
    while !rest.is_empty() {
        let length = rest.get(..4).and_then(|digits| std::str::from_utf8(digits).ok());
        let length = length.and_then(|digits| usize::from_str_radix(digits, 16).ok()).ok_or("no packet")?;
        if length < 4 {
            rest = &rest[4..];
            continue;
        }
        let packet = rest.get(4..length).ok_or("a packet is cut")?;
        rest = &rest[length..];
        match packet {
            b"packfile\n" => in_pack = true,
            [1, data @ ..] if in_pack => pack.extend_from_slice(data),
            [3, why @ ..] if in_pack => return Err(String::from_utf8_lossy(why).into_owned()),
            _ if packet.starts_with(b"ERR ") => return Err(String::from_utf8_lossy(packet).into_owned()),
            _ => {}
        }
    }
    if pack.is_empty() { Err("no pack".to_owned()) } else { Ok(pack) }
}

#[cfg(test)]
mod tests {
    use super::unwrap;

    #[test]
    fn bands_are_taken_apart() {
        assert_eq!(unwrap(b"000dpackfile\n0006\x01P0006\x02x0006\x01K0000").unwrap(), b"PK");
        assert!(unwrap(b"000dpackfile\n0008\x03no\n0000").is_err());
        assert!(unwrap(b"000cERR nope0000").is_err());
        assert!(unwrap(b"00ff").is_err());
        assert!(unwrap(b"").is_err());
    }
}
