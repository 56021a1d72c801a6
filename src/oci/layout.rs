//! OCI layouts as sources: a folder (`oci:DIR`) or a tar file of one (`oci-archive:FILE`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::archive::ArchiveIndex;
use super::error::{OciError, Result};
use super::files::read_bounded;
use super::manifest::{Claim, Content, Descriptor, RawManifest};
use super::names::Names;
use super::source::{BlobSource, BlobStream, BoxFuture};
use crate::fsio::limits;
use crate::model::{BlobEntry, Digest, ImageRef, media_type};

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// An OCI layout on this machine.
pub struct LayoutSource {
    path: PathBuf,
    storage: Storage,
    names: Names,
    /// What refers to what, by subject; read when first asked for.
    subjects: OnceLock<Vec<(Digest, Descriptor)>>,
}

enum Storage {
    Folder,
    Archive { file: Arc<File>, index: ArchiveIndex },
}

/// Opens a source by its name on the command line: `oci:DIR` or `oci-archive:FILE`, each with
/// `=REPOSITORY[:TAG]` behind it where the layout names its images by tags alone or not at all.
///
/// # Errors
///
/// When `text` is no such name, or what it names is no readable layout.
pub fn open_source(text: &str) -> Result<LayoutSource> {
    let wrong = |why: &str| OciError::Layout { path: PathBuf::from(text), why: why.to_owned() };
    let (archive, rest) = match (text.strip_prefix("oci-archive:"), text.strip_prefix("oci:")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return Err(wrong("not a source, wanted `oci:DIR` or `oci-archive:FILE`")),
    };
    if rest.is_empty() {
        return Err(wrong("names no path"));
    }
    let (path, bound) = match rest.rsplit_once('=') {
        Some((path, name)) if !Path::new(rest).exists() => {
            let bound: ImageRef = name
                .parse()
                .map_err(|error: crate::model::reference::ReferenceError| wrong(&error.to_string()))?;
            (path, Some(bound))
        }
        _ => (rest, None),
    };
    if archive { LayoutSource::archive(path.into(), bound) } else { LayoutSource::folder(path.into(), bound) }
}

impl LayoutSource {
    /// The layout folder `path`; `bound` says whose its nameless images are.
    ///
    /// # Errors
    ///
    /// When it is no layout.
    pub fn folder(path: PathBuf, bound: Option<ImageRef>) -> Result<Self> {
        let part = |name: &str, limit| {
            read_bounded(&path.join(name), limit)?.ok_or_else(|| OciError::Layout {
                path: path.clone(),
                why: format!("no OCI layout: it has no `{name}`"),
            })
        };
        let names = Names::parse(
            &path,
            &part("oci-layout", limits::CONFIG_FILE)?,
            &part("index.json", limits::INDEX_JSON)?,
            bound,
        )?;
        Ok(Self { path, storage: Storage::Folder, names, subjects: OnceLock::new() })
    }

    /// The layout in the tar file `path`.
    ///
    /// # Errors
    ///
    /// When it is no tar file or holds no layout.
    pub fn archive(path: PathBuf, bound: Option<ImageRef>) -> Result<Self> {
        let file = File::open(&path).map_err(|source| OciError::Io { path: path.clone(), source })?;
        let index = ArchiveIndex::read(&path, &file)?;
        let part = |name: &str, place: Option<(u64, u64)>, limit: u64| {
            let (at, size) = place.ok_or_else(|| OciError::Layout {
                path: path.clone(),
                why: format!("no OCI layout: it has no member `{name}`"),
            })?;
            read_part(&path, &file, at, size, limit, name)
        };
        let marker = part("oci-layout", index.marker, limits::CONFIG_FILE)?;
        let list = part("index.json", index.index, limits::INDEX_JSON)?;
        let names = Names::parse(&path, &marker, &list, bound)?;
        let storage = Storage::Archive { file: Arc::new(file), index };
        Ok(Self { path, storage, names, subjects: OnceLock::new() })
    }

    /// The file that holds a blob, where it begins and how long it is.
    fn open(&self, digest: Digest) -> Result<Option<(Arc<File>, u64, u64)>> {
        match &self.storage {
            Storage::Archive { file, index } => {
                Ok(index.blobs.get(&digest).map(|(at, size)| (Arc::clone(file), *at, *size)))
            }
            Storage::Folder => {
                let path = self.path.join("blobs/sha256").join(digest.hex());
                let io = |source| OciError::Io { path: path.clone(), source };
                match File::open(&path) {
                    Ok(file) => {
                        let metadata = file.metadata().map_err(io)?;
                        if !metadata.is_file() {
                            return Err(OciError::Layout { path, why: "not a plain file".to_owned() });
                        }
                        Ok(Some((Arc::new(file), 0, metadata.len())))
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(io(error)),
                }
            }
        }
    }

    fn absent(&self, what: String) -> OciError {
        OciError::NotFound { what, places: vec![format!("`{}` does not hold it", self.path.display())] }
    }

    fn manifest_by_digest(&self, digest: Digest, what: &str) -> Result<RawManifest> {
        let (file, at, size) = self.open(digest)?.ok_or_else(|| self.absent(what.to_owned()))?;
        let bytes = read_part(&self.path, &file, at, size, limits::MANIFEST, what)?;
        let listed = self.names.manifests.iter().find(|descriptor| descriptor.digest == digest);
        let claim = Claim {
            what,
            from: &format!("`{}`", self.path.display()),
            media_type: listed.map(|descriptor| descriptor.media_type.as_str()),
            pinned: Some(digest),
            promised: None,
        };
        RawManifest::check(bytes.into(), &claim)
    }

    fn named(&self, image: &ImageRef) -> Result<RawManifest> {
        let what = format!("image `{image}`");
        match self.names.find(image)? {
            Some(digest) => self.manifest_by_digest(digest, &what),
            None => Err(OciError::NotFound { what, places: vec![self.names.absence(image)] }),
        }
    }

    /// The manifests that `index.json` lists and that refer to another one.
    fn subjects(&self) -> Result<&[(Digest, Descriptor)]> {
        if let Some(found) = self.subjects.get() {
            return Ok(found);
        }
        let mut found = Vec::new();
        for descriptor in &self.names.manifests {
            let kind = &descriptor.media_type;
            if media_type::is_manifest(kind) || media_type::is_index(kind) {
                let what = format!("manifest `{}`", descriptor.digest);
                match self.manifest_by_digest(descriptor.digest, &what).and_then(|manifest| manifest.read()) {
                    Ok(manifest) => {
                        found.extend(manifest.subject.map(|subject| (subject, descriptor.clone())));
                    }
                    // Sparse layouts list what they do not hold.
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(self.subjects.get_or_init(|| found))
    }
}

fn read_part(path: &Path, file: &File, at: u64, size: u64, limit: u64, what: &str) -> Result<Vec<u8>> {
    if size > limit {
        return Err(OciError::TooLarge {
            what: what.to_owned(),
            from: format!("`{}`", path.display()),
            limit,
        });
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    file.read_exact_at(&mut bytes, at).map_err(|source| OciError::Io { path: path.to_owned(), source })?;
    Ok(bytes)
}

/// A blob read from a file.
struct FileStream<'a> {
    path: &'a Path,
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl FileStream<'_> {
    async fn advance(&mut self) -> Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        // Reads are always ready: others get their turn between them.
        tokio::task::yield_now().await;
        let count = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
        let mut bytes = vec![0; count];
        self.file
            .read_exact_at(&mut bytes, self.at)
            .map_err(|source| OciError::Io { path: self.path.to_owned(), source })?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(Some(bytes.into()))
    }
}

impl BlobStream for FileStream<'_> {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>>> {
        Box::pin(self.advance())
    }

    fn from(&self) -> String {
        self.path.display().to_string()
    }
}

impl BlobSource for LayoutSource {
    fn manifest<'a>(&'a self, image: &'a ImageRef) -> BoxFuture<'a, Result<RawManifest>> {
        Box::pin(async move { self.named(image) })
    }

    fn exists<'a>(&'a self, image: &'a ImageRef) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            match self.names.find(image)? {
                Some(digest) => Ok(self.open(digest)?.is_some()),
                None => Ok(false),
            }
        })
    }

    fn blob<'a>(
        &'a self,
        image: &'a ImageRef,
        blob: &'a BlobEntry,
        offset: u64,
    ) -> BoxFuture<'a, Result<Box<dyn BlobStream + 'a>>> {
        Box::pin(async move {
            let what = || format!("blob `{}` of `{image}`", blob.digest);
            let (file, at, size) = self.open(blob.digest)?.ok_or_else(|| self.absent(what()))?;
            if size != blob.size {
                return Err(OciError::WrongLength {
                    what: what(),
                    from: format!("`{}`", self.path.display()),
                    got: format!("has {size} bytes"),
                    wanted: blob.size,
                });
            }
            let offset = offset.min(size);
            let stream = FileStream { path: &self.path, file, at: at + offset, left: size - offset };
            Ok(Box::new(stream) as Box<dyn BlobStream + 'a>)
        })
    }

    fn has_blob<'a>(&'a self, _: &'a ImageRef, blob: &'a BlobEntry) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move { Ok(self.open(blob.digest)?.is_some()) })
    }

    fn referrers<'a>(&'a self, image: &'a ImageRef) -> BoxFuture<'a, Result<Vec<Descriptor>>> {
        Box::pin(async move {
            let Some(subject) = image.digest() else { return Ok(Vec::new()) };
            let mut found: Vec<Descriptor> =
                self.subjects()?.iter().filter(|(of, _)| *of == subject).map(|(_, by)| by.clone()).collect();
            if let Ok(tag) = image.at_tag(&format!("sha256-{}", subject.hex()))
                && let Some(digest) = self.names.find(&tag)?
                && let Content::Index(children) =
                    self.manifest_by_digest(digest, &format!("image `{tag}`"))?.read()?.content
            {
                found.extend(children);
            }
            Ok(found)
        })
    }

    fn label(&self) -> String {
        match self.storage {
            Storage::Folder => format!("oci:{}", self.path.display()),
            Storage::Archive { .. } => format!("oci-archive:{}", self.path.display()),
        }
    }
}
