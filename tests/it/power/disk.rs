//! A disk that remembers every write: what it holds after a power cut at any point can be made
//! afterwards, for each of thousands of points, from one run.
//!
//! The log holds, in one order, the writes and flushes that the kernel's block layer sent, the
//! failpoints that the programs under test came to, and the calls that changed the cluster.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::SeekFrom;

/// Bytes that are kept together.
const BLOCK: usize = 4096;
const BLOCK_LONG: u64 = BLOCK as u64;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// A small generator (xorshift), so that a cut can be made again from its seed.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    /// One that follows from `seed` and `text` alone.
    pub fn new(seed: u64, text: &str) -> Self {
        let mix = |state: u64, byte: u8| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let bytes = seed.to_le_bytes().into_iter().chain(text.bytes());
        let mut dice = Self(bytes.fold(0xcbf2_9ce4_8422_2325, mix) | 1);
        for _ in 0..8 {
            dice.below(2);
        }
        dice
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % (bound.max(1) as u64)).unwrap()
    }
}

/// What a disk holds. Blocks that are not there are zero; copies share what they have in common.
#[derive(Clone, Default)]
pub struct Image {
    size: u64,
    blocks: BTreeMap<u64, Arc<[u8]>>,
}

impl Image {
    /// Reads a file, without its holes.
    pub fn read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut image = Self { size, blocks: BTreeMap::new() };
        let mut at = 0;
        while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
            let end = rustix::fs::seek(&file, SeekFrom::Hole(start))?;
            let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
            file.read_exact_at(&mut bytes, start)?;
            image.put(start, &bytes);
            at = end;
        }
        Ok(image)
    }

    /// Writes it as a sparse file.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.size)?;
        self.blocks
            .iter()
            .filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
            .try_for_each(|(number, bytes)| file.write_all_at(bytes, number * BLOCK_LONG))
    }

    /// Size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Replaces bytes from `offset` on.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) {
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let (number, within) = (at / BLOCK_LONG, usize::try_from(at % BLOCK_LONG).unwrap());
            let count = rest.len().min(BLOCK - within);
            let block = self.blocks.entry(number).or_insert_with(|| vec![0; BLOCK].into());
            let mut changed = block.to_vec();
            changed[within..within + count].copy_from_slice(&rest[..count]);
            *block = changed.into();
            rest = &rest[count..];
            at += count as u64;
        }
    }

    /// The bytes from `offset` on.
    pub fn get(&self, offset: u64, length: usize) -> Vec<u8> {
        let end = offset.saturating_add(length as u64).min(self.size);
        let mut bytes = Vec::with_capacity(length);
        let mut at = offset;
        while at < end {
            let within = usize::try_from(at % BLOCK_LONG).unwrap();
            let count = (BLOCK - within).min(usize::try_from(end - at).unwrap());
            match self.blocks.get(&(at / BLOCK_LONG)) {
                Some(block) => bytes.extend_from_slice(&block[within..within + count]),
                None => bytes.resize(bytes.len() + count, 0),
            }
            at += count as u64;
        }
        bytes
    }
}

/// One thing that happened.
#[derive(Clone)]
pub enum Event {
    /// The block layer wrote.
    Write(u64, Vec<u8>),
    /// The block layer wanted all that was written before to be durable, and was told that it is.
    Flush,
    /// A program came to a failpoint, and waits there.
    Step(String),
    /// A call that changes the cluster arrived there, by number.
    CallBegan(usize),
    /// It was answered.
    CallEnded(usize),
    /// The command has ended well: what it did was promised.
    Ended,
}

/// What a disk was before a run, and everything that happened in it.
#[derive(Clone, Default)]
pub struct Log {
    /// Before.
    pub base: Image,
    /// In order.
    pub events: Vec<Event>,
}

/// How the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// While a program waits at a failpoint; what was written is there.
    Failpoint,
    /// Between any two events; what was written is there.
    Anywhere,
    /// Between any two events; of what was written since the last flush, parts are lost.
    Lost,
    /// In the middle of a write.
    Torn,
}

impl Kind {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failpoint => "at a failpoint",
            Self::Anywhere => "at a random instant",
            Self::Lost => "unflushed writes lost",
            Self::Torn => "a write torn",
        }
    }
}

/// A power cut.
pub struct Cut {
    /// How.
    pub kind: Kind,
    /// So many events had happened.
    pub at: usize,
    /// What else chance decides.
    pub dice: Dice,
}

impl Cut {
    /// The cut of this kind that `dice` choose.
    pub fn choose(kind: Kind, log: &Log, mut dice: Dice) -> Self {
        let wanted = |event: &Event| match kind {
            Kind::Failpoint => matches!(event, Event::Step(_) | Event::Ended),
            Kind::Torn => matches!(event, Event::Write(..)),
            Kind::Anywhere | Kind::Lost => true,
        };
        let places: Vec<usize> =
            (0..log.events.len()).filter(|at| wanted(&log.events[*at])).map(|at| at + 1).collect();
        assert!(!places.is_empty(), "no place for a cut {}", kind.name());
        let at = places[dice.below(places.len())];
        Self { kind, at, dice }
    }

    /// The `nth` of `of` cuts that are spread over all failpoints.
    pub fn at_failpoint(log: &Log, nth: usize, of: usize, dice: Dice) -> Self {
        let steps =
            log.events.iter().enumerate().filter(|(_, event)| matches!(event, Event::Step(_) | Event::Ended));
        let places: Vec<usize> = steps.map(|(at, _)| at + 1).collect();
        assert!(!places.is_empty(), "no failpoint was passed");
        let mut start = dice.clone();
        // In thousandths of a place, so that few cuts are spread evenly too.
        let at = (nth * 1000 + start.below(1000)) * places.len() / (1000 * of.max(1));
        Self { kind: Kind::Failpoint, at: places[at.min(places.len() - 1)], dice }
    }

    /// What a mounted disk would hold after it.
    pub fn image(&self, log: &Log) -> Image {
        let mut image = log.base.clone();
        let mut dice = self.dice.clone();
        let happened = &log.events[..self.at];
        let flushed = match self.kind {
            Kind::Lost => {
                happened.iter().rposition(|event| matches!(event, Event::Flush)).map_or(0, |at| at + 1)
            }
            Kind::Torn => self.at - 1,
            Kind::Failpoint | Kind::Anywhere => self.at,
        };
        for (number, event) in happened.iter().enumerate() {
            let Event::Write(offset, bytes) = event else { continue };
            if number < flushed {
                image.put(*offset, bytes);
            } else if self.kind == Kind::Torn {
                image.put(*offset, &bytes[..SECTOR * dice.below(bytes.len() / SECTOR)]);
            } else {
                for (at, part) in (*offset..).step_by(BLOCK).zip(bytes.chunks(BLOCK)) {
                    if dice.below(2) == 0 {
                        image.put(at, part);
                    }
                }
            }
        }
        image
    }

    /// The calls that the cluster had carried out. One that had arrived and was not yet answered may
    /// have been.
    pub fn calls(&self, log: &Log) -> Vec<usize> {
        let mut dice = self.dice.clone();
        let happened = &log.events[..self.at];
        let ended: Vec<usize> = happened
            .iter()
            .filter_map(|event| if let Event::CallEnded(call) = event { Some(*call) } else { None })
            .collect();
        let began = happened
            .iter()
            .filter_map(|event| if let Event::CallBegan(call) = event { Some(*call) } else { None });
        began.filter(|call| ended.contains(call) || dice.below(2) == 0).collect()
    }

    /// The last failpoint before it.
    pub fn step<'log>(&self, log: &'log Log) -> &'log str {
        let mut before = log.events[..self.at].iter().rev();
        before
            .find_map(|event| if let Event::Step(step) = event { Some(step.as_str()) } else { None })
            .unwrap_or("before the first step")
    }
}

/// The disk, while it is in use.
#[derive(Default)]
pub struct Disk {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    image: Image,
    recorded: Option<Log>,
}

impl Disk {
    /// One that holds `image`.
    pub fn new(image: Image) -> Self {
        Self { state: Mutex::new(State { image, recorded: None }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records from now on.
    pub fn record(&self) {
        let mut state = self.state();
        state.recorded = Some(Log { base: state.image.clone(), events: Vec::new() });
    }

    /// Ends the recording.
    pub fn recorded(&self) -> Log {
        self.state().recorded.take().unwrap()
    }

    /// What it holds now.
    pub fn image(&self) -> Image {
        self.state().image.clone()
    }

    /// Its size.
    pub fn size(&self) -> u64 {
        self.state().image.size()
    }

    /// Reads.
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        self.state().image.get(offset, length)
    }

    /// Writes.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        state.image.put(offset, bytes);
        if let Some(log) = &mut state.recorded {
            log.events.push(Event::Write(offset, bytes.to_vec()));
        }
    }

    /// Notes what happened elsewhere, or a flush.
    pub fn happened(&self, event: Event) {
        if let Some(log) = &mut self.state().recorded {
            log.events.push(event);
        }
    }
}
