//! What a sink sees when something is wrong: never a blob that is not right, and its own errors
//! come back.

use super::*;
use crate::archive::ArchiveError;
use crate::model::ErrorClass;

/// Fails at one step for one blob.
struct Failing {
    at: Step,
    digest: Digest,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Wants,
    Begin,
    Write,
    Commit,
    Panic,
}

struct FailingWrite(Option<Step>);

fn full() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "the store is full")
}

impl BlobSink for Failing {
    fn wants(&self, blob: &BlobEntry) -> io::Result<bool> {
        if self.at == Step::Wants && blob.digest == self.digest { Err(full()) } else { Ok(true) }
    }

    fn begin(&self, blob: &BlobEntry) -> io::Result<Box<dyn BlobWrite + Send>> {
        let here = blob.digest == self.digest;
        if here && self.at == Step::Begin {
            return Err(full());
        }
        Ok(Box::new(FailingWrite(here.then_some(self.at))))
    }
}

impl io::Write for FailingWrite {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(self.0 != Some(Step::Panic), "a sink with a fault");
        if self.0 == Some(Step::Write) { Err(full()) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWrite for FailingWrite {
    fn commit(self: Box<Self>) -> io::Result<()> {
        if self.0 == Some(Step::Commit) { Err(full()) } else { Ok(()) }
    }
}

#[test]
fn a_sink_that_fails_stops_the_pass() {
    let fixture = Fixture::with_layer(20 << 20);
    let bytes = fixture.bytes(&[]);
    for digest in [fixture.document.git.bundle, fixture.document.blobs[0].digest] {
        for at in [Step::Wants, Step::Begin, Step::Write, Step::Commit, Step::Panic] {
            for (kind, source) in ["file", "pipe"].into_iter().zip(sources(&bytes)) {
                let place = format!("{at:?} of {digest} from a {kind}");
                let Err(error) = read(source, &Failing { at, digest }) else {
                    panic!("{place}: was accepted")
                };
                if at == Step::Panic {
                    assert!(matches!(error, ArchiveError::Worker), "{place}: {error:?}");
                    continue;
                }
                assert_eq!(error.to_string(), format!("cannot store blob {digest}"), "{place}");
                assert_eq!(error.class(), ErrorClass::Failed, "{place}");
                let cause = std::error::Error::source(&error).unwrap().to_string();
                assert_eq!(cause, "the store is full", "{place}");
            }
        }
    }
}

#[test]
fn a_blob_that_is_not_right_is_not_kept() {
    let fixture = Fixture::new();
    let bytes = fixture.bytes(&[]);
    let release = read_head(&mut Cursor::new(&bytes)).unwrap().parse().unwrap();
    let places = release.layout().unwrap().blobs;
    for (blob, place) in fixture.document.blobs.iter().zip(places).filter(|(blob, _)| blob.size > 0) {
        let mut damaged = bytes.clone();
        damaged[usize::try_from(place.content() + blob.size - 1).unwrap()] ^= 1;
        for source in sources(&damaged) {
            let keep = Keep::default();
            assert!(
                matches!(read(source, &keep), Err(ArchiveError::Digest { wanted, .. }) if wanted == blob.digest)
            );
            let kept = keep.kept.lock().unwrap();
            assert!(!kept.contains_key(&blob.digest));
            assert!(kept.iter().all(|(digest, bytes)| Digest::of(bytes) == *digest));
        }
    }
}

#[test]
fn the_closure_is_checked_before_large_blobs_are_taken() {
    let mut fixture = Fixture::new();
    fixture.document.images[2].absent.clear();
    let small = fixture.document.blobs.iter().position(|b| b.digest == fixture.document.git.bundle).unwrap();
    for source in sources(&fixture.bytes(&[])) {
        let keep = Keep::default();
        assert!(matches!(read(source, &keep), Err(ArchiveError::Incomplete { .. })));
        let kept = keep.kept.lock().unwrap();
        assert!(fixture.document.blobs[small..].iter().all(|blob| !kept.contains_key(&blob.digest)));
    }
}
