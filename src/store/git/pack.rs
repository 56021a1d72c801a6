//! One bundle's pack, brought into a repository (gitformat-pack).
//!
//! The bytes are written once. While they pass they are parsed, inflated within a budget, and
//! hashed; only then the pack is indexed. Nothing in a pack decides how much memory is taken
//! beyond the bounds in [`limits`].

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use flate2::{Decompress, FlushDecompress, Status};
use gix::ObjectId;
use gix::objs::Kind;
use gix_pack::data::entry::Header;
use gix_pack::data::input;

use super::walk::{Objects, ReadError};
use crate::fsio::atomic::TEMPORARY_PREFIX;
use crate::fsio::{Step, limits, pass, sync_folder};
use crate::model::BundleHeader;
use crate::model::bundle::{BundleError, MAX_HEADER};

const TRAILER: usize = 20;
const CHUNK: usize = 64 << 10;
/// Bytes that decoding may spend on keeping bases of deltas.
const CACHE: usize = 16 << 20;

/// Why a bundle's pack was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The bundle's header cannot be read.
    #[error(transparent)]
    Header(#[from] BundleError),
    /// What follows the header is not a pack of version 2.
    #[error("what follows the bundle's header is not a pack of version 2")]
    NotAPack,
    /// The pack says that it holds more objects than it can, or than this program takes.
    #[error("the pack claims {found} objects in {size} bytes, wanted 1 to {limit}")]
    Objects {
        /// The number in the header.
        found: u32,
        /// Length of the pack.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// The pack ends too early.
    #[error("the pack is cut short in object {object} of {objects}")]
    Truncated {
        /// The object, counted from 1.
        object: u32,
        /// All of them.
        objects: u32,
    },
    /// An object's entry is malformed.
    #[error("object {object} of the pack is malformed: {why}")]
    Entry {
        /// The object, counted from 1.
        object: u32,
        /// What is wrong with it.
        why: String,
    },
    /// An object is too large.
    #[error("object {object} of the pack has {found} bytes, wanted at most {limit}")]
    TooLarge {
        /// The object, counted from 1.
        object: u32,
        /// The size it claims.
        found: u64,
        /// The bound.
        limit: u64,
    },
    /// All objects together are too large for a pack of this size.
    #[error("the objects of the pack inflate to more than {limit} bytes")]
    Inflation {
        /// The bound.
        limit: u64,
    },
    /// The trailer is not the hash of the pack.
    #[error("the pack's checksum is `{computed}`, its trailer says `{found}`")]
    Checksum {
        /// What the trailer says.
        found: String,
        /// What it should say.
        computed: String,
    },
    /// Bytes follow the trailer.
    #[error("{count} bytes follow the end of the pack")]
    Trailing {
        /// How many.
        count: u64,
    },
    /// An object stands in the pack twice.
    #[error("object `{oid}` stands in the pack twice")]
    Duplicate {
        /// The object.
        oid: ObjectId,
    },
    /// The deltas cannot be resolved: a base is missing, or one does not fit its base.
    #[error("the pack cannot be indexed: {why}")]
    Index {
        /// The cause.
        why: String,
    },
    /// A file could not be read or written.
    #[error("cannot read or write `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Reads a bundle's header; the file then stands where the pack begins.
///
/// # Errors
///
/// When the file cannot be read or does not begin with the header of a bundle.
pub fn read_header(path: &Path) -> Result<(BundleHeader, File), PackError> {
    let io = |source| PackError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let mut front = Vec::new();
    (&mut file).take(MAX_HEADER as u64 + 1).read_to_end(&mut front).map_err(io)?;
    let (header, length) = BundleHeader::parse(&front)?;
    file.seek(SeekFrom::Start(length as u64)).map_err(io)?;
    Ok((header, file))
}

/// Writes the pack that follows in `bundle` into `folder`, with an index, both synced.
/// Answers with its name: `pack-HASH`.
///
/// # Errors
///
/// When the pack breaks a rule of the format or a bound. What was written has a temporary name then.
pub fn import(bundle: &Path, file: File, folder: &Path) -> Result<String, PackError> {
    let reading = |source| PackError::Io { path: bundle.to_owned(), source };
    let position = (&file).stream_position().map_err(reading)?;
    let size = file.metadata().map_err(reading)?.len().saturating_sub(position);
    let temporary = folder.join(format!("{TEMPORARY_PREFIX}pack"));
    let writing = |path: &Path, source| PackError::Io { path: path.to_owned(), source };
    let out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temporary)
        .map_err(|source| writing(&temporary, source))?;

    let failure = Rc::new(RefCell::new(None));
    let mut scan = Scan::new(file, out, size, (bundle, &temporary), Rc::clone(&failure))?;
    let index_temporary = folder.join(format!("{TEMPORARY_PREFIX}idx"));
    let index = File::create_new(&index_temporary).map_err(|source| writing(&index_temporary, source))?;
    let mut index = BufWriter::new(index);
    let mapped = temporary.clone();
    // The list of entries is one allocation too.
    let allocation = limits::GIT_OBJECT.max(128 * scan.objects as usize);
    let indexed = gix_pack::index::write_data_iter_to_stream(
        gix_pack::index::Version::default(),
        move || {
            let pack = gix_pack::data::File::at(&mapped, gix::hash::Kind::Sha1).map_err(io::Error::other)?;
            Ok((entry_slice as fn(_, &gix_pack::data::File) -> Option<&[u8]>, pack))
        },
        &mut scan,
        // Deltas here come in long chains, which several threads only take from each other; and what
        // one thread keeps of a chain is what the bounds were chosen for.
        Some(1),
        &mut gix::progress::Discard,
        &mut index,
        &AtomicBool::new(false),
        gix::hash::Kind::Sha1,
        Some(allocation),
        gix_pack::data::Version::V2,
    );
    if let Some(failure) = failure.take() {
        return Err(failure);
    }
    let outcome = indexed.map_err(|error| PackError::Index { why: error.to_string() })?;
    index
        .into_inner()
        .map_err(io::IntoInnerError::into_error)
        .and_then(|file| pass(Step::SyncFile, &index_temporary).and_then(|()| file.sync_all()))
        .map_err(|source| writing(&index_temporary, source))?;

    let name = format!("pack-{}", outcome.data_hash.to_hex());
    for (from, extension) in [(&temporary, "pack"), (&index_temporary, "idx")] {
        let to = folder.join(format!("{name}.{extension}"));
        pass(Step::Rename, &to)
            .and_then(|()| fs::rename(from, &to))
            .map_err(|source| writing(&to, source))?;
        let mut rights = fs::metadata(&to).map_err(|source| writing(&to, source))?.permissions();
        rights.set_readonly(true);
        fs::set_permissions(&to, rights).map_err(|source| writing(&to, source))?;
    }
    sync_folder(folder).map_err(|source| writing(folder, source))?;
    Ok(name)
}

fn entry_slice(range: gix_pack::data::EntryRange, pack: &gix_pack::data::File) -> Option<&[u8]> {
    pack.entry_slice(range)
}

/// Passes a pack on, byte by byte into a file and entry by entry to whoever indexes it.
struct Scan<'a> {
    input: BufReader<File>,
    buffer: Vec<u8>,
    /// What of the buffer is not yet taken.
    at: usize,
    out: BufWriter<File>,
    hash: Option<gix::hash::Hasher>,
    crc: flate2::Crc,
    inflate: Decompress,
    scratch: Vec<u8>,
    offset: u64,
    object: u32,
    objects: u32,
    budget: u64,
    limit: u64,
    paths: (&'a Path, &'a Path),
    failure: Rc<RefCell<Option<PackError>>>,
}

impl<'a> Scan<'a> {
    fn new(
        input: File,
        out: File,
        size: u64,
        paths: (&'a Path, &'a Path),
        failure: Rc<RefCell<Option<PackError>>>,
    ) -> Result<Self, PackError> {
        let limit = limits::GIT_INFLATE_BASE.saturating_add(size.saturating_mul(limits::GIT_INFLATE_RATIO));
        let mut scan = Self {
            input: BufReader::with_capacity(CHUNK, input),
            buffer: Vec::new(),
            at: 0,
            out: BufWriter::with_capacity(CHUNK, out),
            hash: Some(gix::hash::hasher(gix::hash::Kind::Sha1)),
            crc: flate2::Crc::new(),
            inflate: Decompress::new(true),
            scratch: vec![0; CHUNK],
            offset: 0,
            object: 0,
            objects: 0,
            budget: limit,
            limit,
            paths,
            failure,
        };
        let mut front = [0; gix_pack::data::header::SIZE];
        for byte in &mut front {
            *byte = scan.byte().map_err(|error| match error {
                PackError::Truncated { .. } => PackError::NotAPack,
                error => error,
            })?;
        }
        match gix_pack::data::header::decode(&front) {
            Ok((gix_pack::data::Version::V2, objects)) => scan.objects = objects,
            _ => return Err(PackError::NotAPack),
        }
        // One byte of header and eight of an empty zlib stream are the least that an entry takes.
        let limit = (size / 9).min(limits::GIT_OBJECTS as u64);
        if scan.objects == 0 || u64::from(scan.objects) > limit {
            return Err(PackError::Objects { found: scan.objects, size, limit });
        }
        Ok(scan)
    }

    /// The bytes that come next, at least one.
    fn peek(&mut self) -> Result<&[u8], PackError> {
        if self.at == self.buffer.len() {
            self.buffer.resize(CHUNK, 0);
            let read = |source| PackError::Io { path: self.paths.0.to_owned(), source };
            let count = self.input.read(&mut self.buffer).map_err(read)?;
            self.buffer.truncate(count);
            self.at = 0;
            if count == 0 {
                return Err(PackError::Truncated { object: self.object, objects: self.objects });
            }
        }
        Ok(&self.buffer[self.at..])
    }

    /// Takes the next `count` bytes, which [`Self::peek`] has shown: hashes and writes them.
    fn take(&mut self, count: usize) -> Result<(), PackError> {
        let bytes = &self.buffer[self.at..self.at + count];
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.crc.update(bytes);
        self.out
            .write_all(bytes)
            .map_err(|source| PackError::Io { path: self.paths.1.to_owned(), source })?;
        self.at += count;
        self.offset += count as u64;
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, PackError> {
        let byte = self.peek()?[0];
        self.take(1)?;
        Ok(byte)
    }

    fn malformed(&self, why: &str) -> PackError {
        PackError::Entry { object: self.object, why: why.to_owned() }
    }

    /// Takes `size` bytes more from the budget for an object of that size.
    fn allow(&mut self, size: u64, limit: u64) -> Result<(), PackError> {
        if size > limit {
            return Err(PackError::TooLarge { object: self.object, found: size, limit });
        }
        self.budget = self.budget.checked_sub(size).ok_or(PackError::Inflation { limit: self.limit })?;
        Ok(())
    }

    /// Reads one entry: the header of its size and kind, the base of a delta, the deflated data.
    fn entry(&mut self) -> Result<input::Entry, PackError> {
        self.object += 1;
        self.crc = flate2::Crc::new();
        let pack_offset = self.offset;
        let mut byte = self.byte()?;
        let kind = (byte >> 4) & 7;
        let mut size = u64::from(byte & 15);
        let mut shift = 4_u32;
        while byte & 0x80 != 0 {
            byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            // Sizes above 2^53 are refused anyway; what would not fit is refused here.
            if shift > 53 {
                return Err(self.malformed("its size does not end"));
            }
            size |= part << shift;
            shift += 7;
        }
        let header = match kind {
            1 => Header::Commit,
            2 => Header::Tree,
            3 => Header::Blob,
            4 => Header::Tag,
            6 => {
                let mut byte = self.byte()?;
                let mut distance = u64::from(byte & 0x7f);
                while byte & 0x80 != 0 {
                    byte = self.byte()?;
                    distance = distance
                        .checked_add(1)
                        .filter(|value| *value < 1 << 50)
                        .ok_or_else(|| self.malformed("the distance to its base does not end"))?
                        << 7
                        | u64::from(byte & 0x7f);
                }
                Header::OfsDelta { base_distance: distance }
            }
            7 => {
                let mut oid = [0; 20];
                for byte in &mut oid {
                    *byte = self.byte()?;
                }
                Header::RefDelta { base_id: ObjectId::Sha1(oid) }
            }
            kind => return Err(self.malformed(&format!("kind {kind} is not known"))),
        };
        let header_size = u16::try_from(self.offset - pack_offset).unwrap_or(u16::MAX);
        self.allow(size, limits::GIT_OBJECT as u64)?;
        let data_offset = self.offset;
        let front = self.inflate(size)?;
        if header.is_delta() {
            let result = delta_result(&front).ok_or_else(|| self.malformed("its delta has no sizes"))?;
            self.allow(result, limits::GIT_DELTA_RESULT)?;
        }
        let mut crc = flate2::Crc::new();
        std::mem::swap(&mut crc, &mut self.crc);
        Ok(input::Entry {
            header,
            header_size,
            pack_offset,
            compressed: None,
            compressed_size: self.offset - data_offset,
            crc32: Some(crc.sum()),
            decompressed_size: size,
            trailer: None,
        })
    }

    /// Inflates one stream of exactly `size` bytes and forgets them; answers with the first few.
    fn inflate(&mut self, size: u64) -> Result<Vec<u8>, PackError> {
        self.inflate.reset(true);
        let mut front = Vec::new();
        loop {
            self.peek()?;
            let (input, output) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(&self.buffer[self.at..], &mut self.scratch, FlushDecompress::None)
                .map_err(|error| self.malformed(&error.to_string()))?;
            let taken = usize::try_from(self.inflate.total_in() - input).unwrap_or(0);
            let made = usize::try_from(self.inflate.total_out() - output).unwrap_or(0);
            if front.len() < 32 {
                front.extend_from_slice(&self.scratch[..made.min(32 - front.len())]);
            }
            self.take(taken)?;
            if self.inflate.total_out() > size {
                return Err(self.malformed(&format!("it inflates to more than the {size} bytes it claims")));
            }
            match status {
                Status::StreamEnd if self.inflate.total_out() == size => return Ok(front),
                Status::StreamEnd => {
                    let found = self.inflate.total_out();
                    return Err(
                        self.malformed(&format!("it inflates to {found} bytes, its header claims {size}"))
                    );
                }
                Status::Ok | Status::BufError if taken == 0 && made == 0 => {
                    return Err(self.malformed("its data makes no progress"));
                }
                Status::Ok | Status::BufError => {}
            }
        }
    }

    /// Reads the trailer and what must not follow it; makes the file durable.
    fn trailer(&mut self) -> Result<ObjectId, PackError> {
        let hash = self.hash.take().map(gix::hash::Hasher::try_finalize);
        let computed = match hash {
            Some(Ok(oid)) => oid,
            Some(Err(error)) => return Err(PackError::Index { why: error.to_string() }),
            None => return Err(PackError::Index { why: "the pack was read twice".to_owned() }),
        };
        let mut found = [0; TRAILER];
        for byte in &mut found {
            *byte = self.byte()?;
        }
        let found = ObjectId::Sha1(found);
        if found != computed {
            return Err(PackError::Checksum {
                found: found.to_hex().to_string(),
                computed: computed.to_hex().to_string(),
            });
        }
        let mut count = (self.buffer.len() - self.at) as u64;
        let read = |source| PackError::Io { path: self.paths.0.to_owned(), source };
        count += io::copy(&mut (&mut self.input).take(1 << 40), &mut io::sink()).map_err(read)?;
        if count > 0 {
            return Err(PackError::Trailing { count });
        }
        self.out
            .flush()
            .and_then(|()| pass(Step::SyncFile, self.paths.1))
            .and_then(|()| self.out.get_ref().sync_all())
            .map_err(|source| PackError::Io { path: self.paths.1.to_owned(), source })?;
        Ok(computed)
    }
}

impl Iterator for Scan<'_> {
    type Item = gix::Result<input::Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.object >= self.objects || self.failure.borrow().is_some() {
            return None;
        }
        let entry = self.entry().and_then(|mut entry| {
            if self.object == self.objects {
                entry.trailer = Some(self.trailer()?);
            }
            Ok(entry)
        });
        Some(entry.map_err(|error| {
            let told = gix::Error::from_error(io::Error::other(error.to_string()));
            *self.failure.borrow_mut() = Some(error);
            told
        }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.objects - self.object) as usize;
        (left, Some(left))
    }
}

/// The size of what a delta makes: the second of the two sizes at its front.
fn delta_result(front: &[u8]) -> Option<u64> {
    let mut bytes = front.iter();
    let mut size = || {
        let mut value = 0_u64;
        for shift in (0..=56).step_by(7) {
            let byte = *bytes.next()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    };
    size()?;
    size()
}

/// The objects of one indexed pack, and of nothing else.
pub struct PackObjects {
    bundle: gix_pack::Bundle,
    inflate: gix::zlib::Inflate,
    cache: gix_pack::cache::lru::MemoryCappedHashmap,
    scratch: Vec<u8>,
}

impl PackObjects {
    /// Opens the pack `name` (`pack-HASH`) in `folder`.
    ///
    /// # Errors
    ///
    /// When pack or index cannot be read, or an object stands in it twice.
    pub fn open(folder: &Path, name: &str) -> Result<Self, PackError> {
        let path = folder.join(format!("{name}.idx"));
        let index = |error: gix::Error| PackError::Index { why: error.to_string() };
        let gix_pack::Bundle { pack, index: entries } =
            gix_pack::Bundle::at(&path, gix::hash::Kind::Sha1).map_err(index)?;
        if format!("pack-{}", entries.pack_checksum().to_hex()) != name {
            return Err(PackError::Index { why: format!("the index of `{name}` is of another pack") });
        }
        let bundle =
            gix_pack::Bundle { pack: pack.with_alloc_limit_bytes(Some(limits::GIT_OBJECT)), index: entries };
        Ok(Self {
            bundle,
            inflate: gix::zlib::Inflate::default(),
            cache: gix_pack::cache::lru::MemoryCappedHashmap::new(CACHE),
            scratch: Vec::new(),
        })
    }

    /// Refuses a pack that holds an object twice.
    ///
    /// # Errors
    ///
    /// Names the first such object.
    pub fn refuse_duplicates(&self) -> Result<(), PackError> {
        let entries = &self.bundle.index;
        for at in 1..entries.num_objects() {
            let oid = entries.oid_at_index(at);
            if entries.oid_at_index(at - 1) == oid {
                return Err(PackError::Duplicate { oid: oid.to_owned() });
            }
        }
        Ok(())
    }

    /// The kind of an object, without reading all of it; none when it is not there.
    ///
    /// # Errors
    ///
    /// When its entry cannot be read.
    pub fn kind(&mut self, oid: &ObjectId) -> Result<Option<Kind>, ReadError> {
        let gix_pack::Bundle { pack, index } = &self.bundle;
        let entry = |oid: &gix::oid| {
            index.lookup(oid).map(|at| pack.entry(index.pack_offset_at_index(at))).transpose()
        };
        let Some(found) = entry(oid)? else { return Ok(None) };
        let header = pack.decode_header(found, &mut self.inflate, &|base| {
            Ok(entry(base)?.map(gix_pack::data::decode::header::ResolvedBase::InPack))
        })?;
        Ok(Some(header.kind))
    }
}

impl Objects for PackObjects {
    fn read(&mut self, oid: &ObjectId, out: &mut Vec<u8>) -> Result<Option<Kind>, ReadError> {
        out.clear();
        let found = self.bundle.find(oid, &mut self.scratch, &mut self.inflate, &mut self.cache)?;
        Ok(found.map(|(data, _)| {
            out.extend_from_slice(data.data);
            data.kind
        }))
    }

    fn contains(&mut self, oid: &ObjectId) -> Result<bool, ReadError> {
        Ok(self.bundle.index.lookup(oid).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_at_the_front_of_a_delta() {
        assert_eq!(delta_result(&[5, 0x80, 1]), Some(128));
        assert_eq!(delta_result(&[5]), None);
        assert_eq!(delta_result(&[0xff; 32]), None);
    }
}
