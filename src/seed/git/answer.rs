//! Answers of upload-pack: the advertisement, the negotiation, and the pack.

use std::io::{self, Write};

use gix::ObjectId;
use gix::hashtable::HashSet;

use super::GitError;
use super::pack::Located;
use super::pktline::{delimiter, flush, line};
use super::repository::{Head, Reference, Repository};
use super::request::{Band, Command, Fetch, MultiAck, Step, Upload};
use super::walk::{Boundary, Question, Walk};

/// How the server calls itself.
const AGENT: &str = concat!("agent=fleetpack/", env!("CARGO_PKG_VERSION"));
/// Wants and boundaries of one request.
const WANTS: usize = 50_000;

/// The protocol that a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V0,
    V1,
    V2,
}

impl Version {
    /// Reads the header `Git-Protocol`: the highest version that both know, of a list with colons.
    pub(super) fn of(header: Option<&str>) -> Self {
        let keys = || header.unwrap_or_default().split(':');
        if keys().any(|key| key == "version=2") {
            Self::V2
        } else if keys().any(|key| key == "version=1") {
            Self::V1
        } else {
            Self::V0
        }
    }
}

/// The answer to `info/refs`.
pub(super) fn advertise(repository: &Repository, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    if version == Version::V2 {
        for text in
            ["version 2", AGENT, "ls-refs=unborn", "fetch=shallow wait-for-done", "object-format=sha1"]
        {
            line(&mut out, format!("{text}\n"));
        }
        flush(&mut out);
        return out;
    }
    line(&mut out, "# service=git-upload-pack\n");
    flush(&mut out);
    if version == Version::V1 {
        line(&mut out, "version 1\n");
    }
    let mut capabilities = "multi_ack side-band side-band-64k ofs-delta shallow deepen-since deepen-not \
                            deepen-relative no-progress include-tag multi_ack_detailed no-done \
                            allow-tip-sha1-in-want allow-reachable-sha1-in-want object-format=sha1"
        .to_owned();
    if let Head::Branch(name, _) = &repository.head {
        capabilities = format!("{capabilities} symref=HEAD:{name}");
    }
    capabilities.push(' ');
    capabilities.push_str(AGENT);
    let mut first = Some(capabilities);
    let mut advertised = |id: ObjectId, name: &str| match first.take() {
        Some(capabilities) => line(&mut out, format!("{id} {name}\0{capabilities}\n")),
        None => line(&mut out, format!("{id} {name}\n")),
    };
    if let Some(id) = repository.head_target() {
        advertised(id, "HEAD");
    }
    for Reference { name, target, peeled } in &repository.refs {
        advertised(*target, name.as_str());
        if let Some(peeled) = peeled {
            advertised(*peeled, &format!("{name}^{{}}"));
        }
    }
    if first.is_some() {
        advertise_nothing(&mut out, first);
    }
    flush(&mut out);
    out
}

/// A repository without references still has to say what it can do.
fn advertise_nothing(out: &mut Vec<u8>, capabilities: Option<String>) {
    let null = ObjectId::null(gix::hash::Kind::Sha1);
    line(out, format!("{null} capabilities^{{}}\0{}\n", capabilities.unwrap_or_default()));
}

/// The answer to `git-upload-pack`, written as it is made. Errors of the client's making are part
/// of the answer; others are returned.
pub(super) fn upload(
    repository: &Repository,
    version: Version,
    request: &[u8],
    out: &mut dyn Write,
    given_up: &dyn Fn() -> bool,
) -> Result<(), GitError> {
    let mut walk = Walk::new(repository, given_up);
    let answered = match version {
        Version::V2 => command(repository, &mut walk, request, out),
        Version::V0 | Version::V1 => negotiate(repository, &mut walk, request, out),
    };
    match answered {
        Err(error @ (GitError::Client(_) | GitError::Packet(_))) => {
            let mut packet = Vec::new();
            line(&mut packet, format!("ERR upload-pack: {}\n", error.to_client()));
            Ok(out.write_all(&packet)?)
        }
        answered => answered,
    }
}

/// Refuses wants that are not there, and more of them than anybody needs.
fn check(walk: &Walk<'_>, fetch: &Fetch) -> Result<(), GitError> {
    if fetch.wants.len() > WANTS || fetch.shallow.len() > WANTS || fetch.deepen.not.len() > WANTS {
        return Err(GitError::Client(format!("more than {WANTS} wants or shallow commits")));
    }
    match fetch.wants.iter().find(|want| !walk.holds(**want)) {
        Some(want) => Err(GitError::Client(format!("not our ref {want}"))),
        None => Ok(()),
    }
}

/// What both sides have, and whether that is enough.
struct Common<'f> {
    fetch: &'f Fetch,
    shallow: HashSet<ObjectId>,
    set: HashSet<ObjectId>,
    list: Vec<ObjectId>,
    /// The outcome for so many common commits.
    known: Option<(usize, bool)>,
}

impl<'f> Common<'f> {
    fn new(walk: &mut Walk<'_>, fetch: &'f Fetch) -> Result<Self, GitError> {
        let shallow = walk.known_commits(&fetch.shallow)?;
        Ok(Self { fetch, shallow, set: HashSet::default(), list: Vec::new(), known: None })
    }

    /// Takes note of what the client has; says whether we have it too.
    fn has(&mut self, walk: &Walk<'_>, id: ObjectId) -> bool {
        let ours = walk.holds(id);
        if ours && self.set.insert(id) {
            self.list.push(id);
        }
        ours
    }

    /// Whether asking for more is of no use.
    fn suffices(&mut self, walk: &mut Walk<'_>) -> Result<bool, GitError> {
        if let Some((count, outcome)) = self.known
            && count == self.list.len()
        {
            return Ok(outcome);
        }
        let outcome = walk.all_reach(&self.fetch.wants, &self.set, &self.shallow)?;
        self.known = Some((self.list.len(), outcome));
        Ok(outcome)
    }
}

/// Versions 0 and 1, as a server without a memory between requests answers them.
fn negotiate(
    repository: &Repository,
    walk: &mut Walk<'_>,
    request: &[u8],
    out: &mut dyn Write,
) -> Result<(), GitError> {
    let Upload { fetch, band, multi_ack, no_done, steps } = Upload::parse(request)?;
    if fetch.wants.is_empty() {
        return Ok(());
    }
    check(walk, &fetch)?;
    let mut common = Common::new(walk, &fetch)?;
    let boundary = walk.boundary(&fetch.wants, &common.shallow, &fetch.deepen)?;
    let mut told = Vec::new();
    if fetch.deepen.asked() {
        tell_boundary(&mut told, &boundary);
        flush(&mut told);
    }
    let (mut got_common, mut got_other, mut ready, mut last) = (false, false, false, None::<ObjectId>);
    let mut send = false;
    for step in steps {
        match step {
            Step::Have(id) if common.has(walk, id) => {
                got_common = true;
                last = Some(id);
                match multi_ack {
                    MultiAck::Detailed => line(&mut told, format!("ACK {id} common\n")),
                    MultiAck::Plain => line(&mut told, format!("ACK {id} continue\n")),
                    MultiAck::None if common.list.len() == 1 => line(&mut told, format!("ACK {id}\n")),
                    MultiAck::None => {}
                }
            }
            Step::Have(id) => {
                got_other = true;
                if multi_ack != MultiAck::None && common.suffices(walk)? {
                    let word = if multi_ack == MultiAck::Detailed { "ready" } else { "continue" };
                    ready |= multi_ack == MultiAck::Detailed;
                    line(&mut told, format!("ACK {id} {word}\n"));
                }
            }
            Step::Flush => {
                if multi_ack == MultiAck::Detailed && got_common && !got_other && common.suffices(walk)? {
                    ready = true;
                    line(&mut told, format!("ACK {} ready\n", last_of(last)));
                }
                if common.list.is_empty() || multi_ack != MultiAck::None {
                    line(&mut told, "NAK\n");
                }
                if no_done && ready {
                    line(&mut told, format!("ACK {}\n", last_of(last)));
                    send = true;
                    break;
                }
                (got_common, got_other) = (false, false);
            }
            Step::Done => {
                match last {
                    Some(id) if !common.list.is_empty() => {
                        if multi_ack != MultiAck::None {
                            line(&mut told, format!("ACK {id}\n"));
                        }
                    }
                    _ => line(&mut told, "NAK\n"),
                }
                send = true;
                break;
            }
        }
    }
    out.write_all(&told)?;
    if send { send_pack(repository, walk, &common, &boundary, band, out) } else { Ok(()) }
}

fn last_of(last: Option<ObjectId>) -> ObjectId {
    last.unwrap_or_else(|| ObjectId::null(gix::hash::Kind::Sha1))
}

fn tell_boundary(out: &mut Vec<u8>, boundary: &Boundary) {
    for id in &boundary.shallow {
        line(out, format!("shallow {id}\n"));
    }
    for id in &boundary.unshallow {
        line(out, format!("unshallow {id}\n"));
    }
}

/// Version 2: one command.
fn command(
    repository: &Repository,
    walk: &mut Walk<'_>,
    request: &[u8],
    out: &mut dyn Write,
) -> Result<(), GitError> {
    match Command::parse(request)? {
        Command::Nothing => Ok(()),
        Command::LsRefs { peel, symrefs, unborn, prefixes } => {
            Ok(out.write_all(&list(repository, peel, symrefs, unborn, &prefixes))?)
        }
        Command::Fetch { fetch, haves, done, wait_for_done } => {
            if fetch.wants.is_empty() {
                let mut told = Vec::new();
                flush(&mut told);
                return Ok(out.write_all(&told)?);
            }
            check(walk, &fetch)?;
            let mut common = Common::new(walk, &fetch)?;
            for have in &haves {
                common.has(walk, *have);
            }
            let mut told = Vec::new();
            if !done && !haves.is_empty() {
                line(&mut told, "acknowledgments\n");
                if common.list.is_empty() {
                    line(&mut told, "NAK\n");
                }
                for id in &common.list {
                    line(&mut told, format!("ACK {id}\n"));
                }
                if wait_for_done || !common.suffices(walk)? {
                    flush(&mut told);
                    return Ok(out.write_all(&told)?);
                }
                line(&mut told, "ready\n");
                delimiter(&mut told);
            }
            let boundary = walk.boundary(&fetch.wants, &common.shallow, &fetch.deepen)?;
            if fetch.deepen.asked() || !fetch.shallow.is_empty() {
                line(&mut told, "shallow-info\n");
                tell_boundary(&mut told, &boundary);
                delimiter(&mut told);
            }
            line(&mut told, "packfile\n");
            out.write_all(&told)?;
            send_pack(repository, walk, &common, &boundary, Band::Large, out)
        }
    }
}

/// The answer to `ls-refs`.
fn list(repository: &Repository, peel: bool, symrefs: bool, unborn: bool, prefixes: &[Vec<u8>]) -> Vec<u8> {
    let wanted =
        |name: &str| prefixes.is_empty() || prefixes.iter().any(|prefix| name.as_bytes().starts_with(prefix));
    let mut out = Vec::new();
    if wanted("HEAD") {
        match &repository.head {
            Head::Branch(name, id) if symrefs => line(&mut out, format!("{id} HEAD symref-target:{name}\n")),
            Head::Branch(_, id) | Head::Detached(id) => line(&mut out, format!("{id} HEAD\n")),
            Head::Unborn(name) if unborn && symrefs => {
                line(&mut out, format!("unborn HEAD symref-target:{name}\n"));
            }
            Head::Unborn(_) | Head::None => {}
        }
    }
    for Reference { name, target, peeled } in
        repository.refs.iter().filter(|reference| wanted(reference.name.as_str()))
    {
        match peeled {
            Some(peeled) if peel => line(&mut out, format!("{target} {name} peeled:{peeled}\n")),
            _ => line(&mut out, format!("{target} {name}\n")),
        }
    }
    flush(&mut out);
    out
}

/// Finds the objects, says how many they are, and sends them.
fn send_pack(
    repository: &Repository,
    walk: &mut Walk<'_>,
    common: &Common<'_>,
    boundary: &Boundary,
    band: Band,
    out: &mut dyn Write,
) -> Result<(), GitError> {
    let fetch = common.fetch;
    let made = walk
        .objects(&Question {
            wants: &fetch.wants,
            common: &common.list,
            shallow: &common.shallow,
            boundary,
            include_tag: fetch.include_tag,
        })
        .and_then(|objects| Located::find(&repository.odb, objects));
    let mut banded = Banded { out, band, buffer: Vec::new() };
    let sent = made.and_then(|located| {
        if !fetch.no_progress {
            banded.tell(2, &format!("Sending {} objects\n", located.len()))?;
        }
        located.write(&repository.odb, fetch.ofs_delta, &mut banded, &mut |_| {})?;
        Ok(banded.flush()?)
    });
    if let Err(error) = sent {
        // In band 3, since the pack is under way; without bands the connection is cut.
        if !matches!(error, GitError::GivenUp) {
            banded.tell(3, &format!("{}\n", error.to_client()))?;
        }
        return Err(error);
    }
    banded.end()
}

/// Wraps the pack in packets, as the client asked.
struct Banded<'o> {
    out: &'o mut dyn Write,
    band: Band,
    buffer: Vec<u8>,
}

impl Banded<'_> {
    /// The most that one packet carries beside its length and the number of its band.
    const fn room(&self) -> usize {
        match self.band {
            Band::Small => 995,
            Band::None | Band::Large => super::pktline::MAX - 5,
        }
    }

    fn packet(&mut self, band: u8, bytes: &[u8]) -> io::Result<()> {
        let mut head = format!("{:04x}", bytes.len() + 5).into_bytes();
        head.push(band);
        self.out.write_all(&head)?;
        self.out.write_all(bytes)
    }

    /// Sends text in band 2 (status) or 3 (error); without bands there is no place for it.
    fn tell(&mut self, band: u8, text: &str) -> Result<(), GitError> {
        if self.band != Band::None {
            self.packet(band, text.as_bytes())?;
            self.out.flush()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), GitError> {
        if self.band != Band::None {
            self.out.write_all(b"0000")?;
        }
        Ok(())
    }
}

impl Write for Banded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let take = bytes.len().min(self.room() - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..take]);
        if self.buffer.len() == self.room() {
            self.flush()?;
        }
        Ok(take)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.buffer);
        if self.band == Band::None { self.out.write_all(&bytes) } else { self.packet(1, &bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_counts() {
        assert_eq!(Version::of(None), Version::V0);
        assert_eq!(Version::of(Some("version=1")), Version::V1);
        assert_eq!(Version::of(Some("version=1:version=2")), Version::V2);
        assert_eq!(Version::of(Some("version=3")), Version::V0);
    }
}
