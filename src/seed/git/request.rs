//! What a client asks of upload-pack: the old form (gitprotocol-pack, versions 0 and 1) and the
//! commands of version 2 (gitprotocol-v2).

use gix::ObjectId;

use super::GitError;
use super::pktline::{Packet, Packets};

/// How the history is to be cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Deepen {
    /// So many commits from each want, 0 for no bound.
    pub(super) depth: u32,
    /// The depth counts from where the client's history ends now.
    pub(super) relative: bool,
    /// Only commits of this time and later.
    pub(super) since: Option<i64>,
    /// Only commits that these references do not reach.
    pub(super) not: Vec<String>,
}

/// The depth that means "all".
pub(super) const INFINITE: u32 = i32::MAX as u32;

impl Deepen {
    /// Whether anything is asked for.
    pub(super) fn asked(&self) -> bool {
        self.depth > 0 || self.by_list()
    }

    /// Whether it is asked for by a list of commits instead of a depth.
    pub(super) fn by_list(&self) -> bool {
        self.since.is_some() || !self.not.is_empty()
    }
}

/// What both forms of a fetch share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fetch {
    pub(super) wants: Vec<ObjectId>,
    /// Commits whose parents the client does not have.
    pub(super) shallow: Vec<ObjectId>,
    pub(super) deepen: Deepen,
    pub(super) ofs_delta: bool,
    pub(super) include_tag: bool,
    pub(super) no_progress: bool,
}

/// How the bytes of the pack are wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Band {
    /// Not at all.
    None,
    /// Packets of at most 1000 bytes.
    Small,
    /// Packets of at most 65520 bytes.
    Large,
}

/// How common commits are acknowledged in the old form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MultiAck {
    None,
    Plain,
    Detailed,
}

/// One step of the old form's negotiation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Have(ObjectId),
    Flush,
    Done,
}

/// A request of versions 0 and 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upload {
    pub(super) fetch: Fetch,
    pub(super) band: Band,
    pub(super) multi_ack: MultiAck,
    pub(super) no_done: bool,
    pub(super) steps: Vec<Step>,
}

/// A command of version 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// The request is empty.
    Nothing,
    LsRefs {
        peel: bool,
        symrefs: bool,
        unborn: bool,
        prefixes: Vec<Vec<u8>>,
    },
    Fetch {
        fetch: Fetch,
        haves: Vec<ObjectId>,
        done: bool,
        wait_for_done: bool,
    },
}

fn show(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned()
}

fn unexpected(line: &[u8]) -> GitError {
    GitError::Client(format!("unexpected line: `{}`", show(line)))
}

fn oid(hex: &[u8], line: &[u8]) -> Result<ObjectId, GitError> {
    if hex.len() != 40 {
        return Err(GitError::Client(format!(
            "protocol error, expected a SHA-1 object name in `{}`",
            show(line)
        )));
    }
    ObjectId::from_hex(hex).map_err(|_| {
        GitError::Client(format!("protocol error, expected a SHA-1 object name in `{}`", show(line)))
    })
}

fn number<T: std::str::FromStr>(text: &[u8], line: &[u8]) -> Result<T, GitError> {
    std::str::from_utf8(text)
        .ok()
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| unexpected(line))
}

impl Fetch {
    /// Reads a line that both forms know; says whether it was one.
    fn take(&mut self, line: &[u8]) -> Result<bool, GitError> {
        if let Some(hex) = line.strip_prefix(b"shallow ") {
            self.shallow.push(oid(hex, line)?);
        } else if let Some(depth) = line.strip_prefix(b"deepen ") {
            // The clients' own "all" is 2^31 - 1; more is no more.
            let depth: u64 = number(depth, line)?;
            if depth == 0 {
                return Err(GitError::Client("invalid deepen: `deepen 0`".into()));
            }
            self.deepen.depth = u32::try_from(depth).unwrap_or(INFINITE).min(INFINITE);
        } else if let Some(time) = line.strip_prefix(b"deepen-since ") {
            self.deepen.since = Some(number(time, line)?);
        } else if let Some(name) = line.strip_prefix(b"deepen-not ") {
            self.deepen.not.push(String::from_utf8_lossy(name).into_owned());
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn check(&self) -> Result<(), GitError> {
        if self.deepen.depth > 0 && self.deepen.by_list() {
            return Err(GitError::Client(
                "deepen and deepen-since (or deepen-not) cannot be used together".into(),
            ));
        }
        Ok(())
    }
}

impl Upload {
    /// Parses the whole of a request body.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, GitError> {
        let mut packets = Packets::new(bytes);
        let mut upload = Self {
            fetch: Fetch::default(),
            band: Band::None,
            multi_ack: MultiAck::None,
            no_done: false,
            steps: Vec::new(),
        };
        loop {
            match packets.next()? {
                None if upload.fetch.wants.is_empty() => return Ok(upload),
                None => {
                    return Err(GitError::Client("the request ends before the flush after its wants".into()));
                }
                Some(Packet::Flush) => break,
                Some(Packet::Delimiter) => return Err(unexpected(b"0001")),
                Some(Packet::Line(line)) => {
                    if let Some(rest) = line.strip_prefix(b"want ") {
                        let (hex, capabilities) = rest.split_at(rest.len().min(40));
                        if !capabilities.is_empty() {
                            if !upload.fetch.wants.is_empty() || capabilities[0] != b' ' {
                                return Err(unexpected(line));
                            }
                            upload.capabilities(capabilities)?;
                        }
                        upload.fetch.wants.push(oid(hex, line)?);
                    } else if !upload.fetch.take(line)? {
                        return Err(unexpected(line));
                    }
                }
            }
        }
        upload.fetch.check()?;
        while let Some(packet) = packets.next()? {
            upload.steps.push(match packet {
                Packet::Flush => Step::Flush,
                Packet::Line(b"done") => Step::Done,
                Packet::Line(line) => match line.strip_prefix(b"have ") {
                    Some(hex) => Step::Have(oid(hex, line)?),
                    None => return Err(unexpected(line)),
                },
                Packet::Delimiter => return Err(unexpected(b"0001")),
            });
            if upload.steps.last() == Some(&Step::Done) {
                break;
            }
        }
        Ok(upload)
    }

    fn capabilities(&mut self, text: &[u8]) -> Result<(), GitError> {
        for capability in text.split(|b| *b == b' ') {
            match capability {
                b"side-band-64k" => self.band = Band::Large,
                b"side-band" if self.band == Band::None => self.band = Band::Small,
                b"multi_ack_detailed" => self.multi_ack = MultiAck::Detailed,
                b"multi_ack" if self.multi_ack == MultiAck::None => self.multi_ack = MultiAck::Plain,
                b"no-done" => self.no_done = true,
                b"ofs-delta" => self.fetch.ofs_delta = true,
                b"include-tag" => self.fetch.include_tag = true,
                b"no-progress" => self.fetch.no_progress = true,
                b"deepen-relative" => self.fetch.deepen.relative = true,
                other => check_object_format(other)?,
            }
        }
        Ok(())
    }
}

/// Refuses another hash than the one that was advertised; what else a client says about itself is its own matter.
fn check_object_format(capability: &[u8]) -> Result<(), GitError> {
    match capability.strip_prefix(b"object-format=") {
        Some(format) if format != b"sha1" => {
            Err(GitError::Client(format!("object format `{}` is not served, wanted `sha1`", show(format))))
        }
        _ => Ok(()),
    }
}

impl Command {
    /// Parses the whole of a request body.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, GitError> {
        let mut packets = Packets::new(bytes);
        let mut name: Option<&[u8]> = None;
        let mut arguments = false;
        loop {
            match packets.next()? {
                None if name.is_none() => return Ok(Self::Nothing),
                None | Some(Packet::Flush) => break,
                Some(Packet::Delimiter) => {
                    arguments = true;
                    break;
                }
                Some(Packet::Line(line)) => match line.strip_prefix(b"command=") {
                    Some(_) if name.is_some() => return Err(unexpected(line)),
                    Some(command) => name = Some(command),
                    None => check_object_format(line)?,
                },
            }
        }
        let mut lines = Vec::new();
        if arguments {
            loop {
                match packets.next()? {
                    Some(Packet::Line(line)) => lines.push(line),
                    Some(Packet::Flush) => break,
                    Some(Packet::Delimiter) => return Err(unexpected(b"0001")),
                    None => return Err(GitError::Client("the request ends before its flush".into())),
                }
            }
        }
        match name {
            None => Ok(Self::Nothing),
            Some(b"ls-refs") => Self::ls_refs(&lines),
            Some(b"fetch") => Self::fetch(&lines),
            Some(other) => Err(GitError::Client(format!("invalid command `{}`", show(other)))),
        }
    }

    fn ls_refs(lines: &[&[u8]]) -> Result<Self, GitError> {
        let (mut peel, mut symrefs, mut unborn, mut prefixes) = (false, false, false, Vec::new());
        for line in lines {
            match *line {
                b"peel" => peel = true,
                b"symrefs" => symrefs = true,
                b"unborn" => unborn = true,
                line => match line.strip_prefix(b"ref-prefix ") {
                    Some(prefix) => prefixes.push(prefix.to_vec()),
                    None => return Err(unexpected(line)),
                },
            }
        }
        Ok(Self::LsRefs { peel, symrefs, unborn, prefixes })
    }

    fn fetch(lines: &[&[u8]]) -> Result<Self, GitError> {
        let (mut fetch, mut haves, mut done, mut wait_for_done) =
            (Fetch::default(), Vec::new(), false, false);
        for line in lines {
            match *line {
                b"done" => done = true,
                b"wait-for-done" => wait_for_done = true,
                // A pack that is not thin serves whoever could take a thin one.
                b"thin-pack" => {}
                b"ofs-delta" => fetch.ofs_delta = true,
                b"include-tag" => fetch.include_tag = true,
                b"no-progress" => fetch.no_progress = true,
                b"deepen-relative" => fetch.deepen.relative = true,
                line => {
                    if let Some(hex) = line.strip_prefix(b"want ") {
                        fetch.wants.push(oid(hex, line)?);
                    } else if let Some(hex) = line.strip_prefix(b"have ") {
                        haves.push(oid(hex, line)?);
                    } else if !fetch.take(line)? {
                        return Err(unexpected(line));
                    }
                }
            }
        }
        fetch.check()?;
        Ok(Self::Fetch { fetch, haves, done, wait_for_done })
    }
}

#[cfg(test)]
mod tests {
    use super::super::pktline::{delimiter, flush, line};
    use super::*;

    fn id(digit: char) -> ObjectId {
        ObjectId::from_hex(digit.to_string().repeat(40).as_bytes()).unwrap()
    }

    #[test]
    fn what_go_git_sends() {
        let mut body = Vec::new();
        line(&mut body, format!("want {} ofs-delta side-band-64k agent=go-git/5.x\n", id('1')));
        line(&mut body, format!("want {}\n", id('2')));
        line(&mut body, "deepen 1\n");
        flush(&mut body);
        line(&mut body, format!("have {}\n", id('3')));
        line(&mut body, "done\n");
        let upload = Upload::parse(&body).unwrap();
        assert_eq!(upload.fetch.wants, [id('1'), id('2')]);
        assert_eq!((upload.band, upload.multi_ack), (Band::Large, MultiAck::None));
        assert_eq!(upload.fetch.deepen.depth, 1);
        assert!(upload.fetch.ofs_delta && !upload.fetch.include_tag);
        assert_eq!(upload.steps, [Step::Have(id('3')), Step::Done]);
    }

    #[test]
    fn a_command_of_version_2() {
        let mut body = Vec::new();
        line(&mut body, "command=fetch");
        line(&mut body, "agent=git/2.39");
        line(&mut body, "object-format=sha1");
        delimiter(&mut body);
        for text in ["thin-pack", "ofs-delta", "deepen 2147483647", &format!("want {}\n", id('1')), "done\n"]
        {
            line(&mut body, text);
        }
        flush(&mut body);
        let Command::Fetch { fetch, haves, done, .. } = Command::parse(&body).unwrap() else { panic!() };
        assert_eq!((fetch.wants, haves, done), (vec![id('1')], vec![], true));
        assert_eq!(fetch.deepen.depth, INFINITE);
    }

    #[test]
    fn refusals() {
        let packets = |lines: &[&str]| {
            let mut body = Vec::new();
            for text in lines {
                line(&mut body, text);
            }
            flush(&mut body);
            body
        };
        let want = format!("want {}", id('1'));
        for bad in [
            vec!["want xyz"],
            vec!["want "],
            vec![&want, "deepen 0"],
            vec![&want, "deepen x"],
            vec![&want, "deepen -1"],
            vec![&want, "filter blob:none"],
            vec![&want, "deepen 1", "deepen-since 5"],
            vec!["hello"],
        ] {
            assert!(Upload::parse(&packets(&bad)).is_err(), "{bad:?}");
        }
        assert!(Upload::parse(&packets(&[&format!("{want} object-format=sha256")])).is_err());
        for bad in [
            vec!["command=push"],
            vec!["command=fetch", "command=ls-refs"],
            vec!["command=ls-refs", "object-format=sha256"],
        ] {
            assert!(Command::parse(&packets(&bad)).is_err(), "{bad:?}");
        }
        let mut unended = Vec::new();
        line(&mut unended, "command=ls-refs");
        delimiter(&mut unended);
        assert!(Command::parse(&unended).is_err());
    }
}
