//! Writing a pack of given objects (gitformat-pack), one object in memory at a time.
//!
//! Entries are copied from the packs of the repository as they lie there, deltas included where
//! their base is sent too. No delta ever stands on an object that is not sent ("thin"): nobody
//! would check that the client has it.

use std::io::{self, Write};

use gix::{ObjectId, odb};
use gix_pack::Find as _;
use gix_pack::data::entry::Header;
use gix_pack::data::output::count::PackLocation;
use gix_pack::data::output::entry::Kind;
use gix_pack::data::output::{Count, Entry};
use gix_pack::data::{Version, header};

use super::GitError;

/// Names the base of a delta by its pack and place: nobody is asked, since no delta is thin.
type BaseName = fn(u32, u64) -> gix::Result<Option<ObjectId>>;

/// Where objects lie, in the order in which they are written: those that no pack holds, then
/// pack by pack from front to back, so that a base always comes before what stands on it.
pub(super) struct Located {
    counts: Vec<Count>,
    /// The stretch of `counts` that each pack has.
    packs: Vec<(u32, std::ops::Range<usize>)>,
}

impl Located {
    /// Finds all of `objects`; none of them stands twice.
    pub(super) fn find(odb: &odb::Handle, objects: Vec<ObjectId>) -> Result<Self, GitError> {
        let mut buffer = Vec::new();
        let mut counts = Vec::with_capacity(objects.len());
        for id in objects {
            let location = odb.location_by_oid(&id, &mut buffer).map_err(GitError::repository)?;
            counts.push(Count::from_data(id, location));
        }
        let place = |count: &Count| match &count.entry_pack_location {
            PackLocation::LookedUp(Some(location)) => Some((location.pack_id, location.pack_offset)),
            _ => None,
        };
        counts.sort_by_key(place);
        let mut packs: Vec<(u32, std::ops::Range<usize>)> = Vec::new();
        for (at, count) in counts.iter().enumerate() {
            match (place(count), packs.last_mut()) {
                (Some((pack, _)), Some((last, range))) if *last == pack => range.end = at + 1,
                (Some((pack, _)), _) => packs.push((pack, at..at + 1)),
                (None, _) => {}
            }
        }
        Ok(Self { counts, packs })
    }

    pub(super) fn len(&self) -> usize {
        self.counts.len()
    }

    /// Writes the pack. `ofs_delta`: whether the client takes deltas that name their base by distance.
    pub(super) fn write(
        &self,
        odb: &odb::Handle,
        ofs_delta: bool,
        out: &mut dyn Write,
        written: &mut dyn FnMut(usize),
    ) -> Result<(), GitError> {
        let count = u32::try_from(self.counts.len())
            .map_err(|_| GitError::Broken("more objects than a pack holds".into()))?;
        let mut out = Counting { inner: gix::hash::io::Write::new(out, gix::hash::Kind::Sha1), at: 0 };
        out.write_all(&header::encode(Version::V2, count))?;
        let mut offsets = Vec::with_capacity(self.counts.len());
        for (at, count) in self.counts.iter().enumerate() {
            let entry = self.entry(odb, count)?;
            let offset = out.at;
            offsets.push(offset);
            let header = match entry.kind {
                Kind::DeltaRef { object_index } if object_index < at && ofs_delta => {
                    Header::OfsDelta { base_distance: offset - offsets[object_index] }
                }
                Kind::DeltaRef { object_index } if object_index < at => {
                    Header::RefDelta { base_id: self.counts[object_index].id }
                }
                Kind::Base(_) => entry.to_entry_header(Version::V2, |_| 0),
                Kind::DeltaRef { .. } | Kind::DeltaOid { .. } => {
                    return Err(GitError::Broken(format!("`{}` stands on an object behind it", count.id)));
                }
            };
            header.write_to(entry.decompressed_size as u64, &mut out)?;
            out.write_all(&entry.compressed_data)?;
            written(at + 1);
        }
        let digest = out.inner.hash.clone().try_finalize().map_err(GitError::repository)?;
        out.inner.inner.write_all(digest.as_slice())?;
        Ok(())
    }

    fn entry(&self, odb: &odb::Handle, count: &Count) -> Result<Entry, GitError> {
        if let PackLocation::LookedUp(Some(location)) = &count.entry_pack_location
            && let Some(packed) = odb.entry_by_location(location)
            && let Ok(pack) = self.packs.binary_search_by_key(&location.pack_id, |(id, _)| *id)
        {
            let range = self.packs[pack].1.clone();
            let start = range.start;
            let never: Option<BaseName> = None;
            let bases = &self.counts[range];
            if let Some(entry) = Entry::from_pack_entry(packed, count, bases, start, never, Version::V2) {
                return entry.map_err(GitError::repository);
            }
        }
        let mut buffer = Vec::new();
        let data = super::repository::find_object(odb, count.id, &mut buffer)?;
        Entry::from_data(count, &data, gix::zlib::Compression::DEFAULT).map_err(GitError::repository)
    }
}

/// Counts what passes.
struct Counting<W> {
    inner: W,
    at: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
