//! Deltas between two versions of an object (gitformat-pack, "Deltified representation").
//!
//! The result depends on the two inputs alone: no timing, no hash seed, no tuning by size of the
//! machine. That is what makes a bundle the same on every machine.

/// Bytes of one indexed block, and the shortest copy that is looked for.
const BLOCK: usize = 16;
/// Blocks of equal hash that are tried; keeps runs of zeros from costing the square of their length.
const TRIES: usize = 8;
/// A shared beginning or end of at least this many bytes is worth the instruction that copies it.
const WORTH: usize = 8;
/// Longest copy that one instruction holds in every reader of version 2 packs.
const MAX_COPY: usize = 0x1_0000;
/// Longest insertion that one instruction holds.
const MAX_INSERT: usize = 127;

/// The blocks of a base, findable by content.
struct Index {
    shift: u32,
    heads: Vec<u32>,
    next: Vec<u32>,
}

fn hash(block: &[u8], shift: u32) -> usize {
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&block[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let mixed = word(0).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word(8).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    // The shift leaves at most 24 bits.
    usize::try_from((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> shift).unwrap_or(0)
}

impl Index {
    fn new(base: &[u8]) -> Self {
        let blocks = base.len() / BLOCK;
        let bits = (usize::BITS - blocks.leading_zeros()).clamp(4, 24);
        let shift = 64 - bits;
        let mut heads = vec![0_u32; 1 << bits];
        let mut next = vec![0_u32; blocks + 1];
        // From the end, so that the first block of a content is tried first.
        for at in (0..blocks).rev() {
            let slot = &mut heads[hash(&base[at * BLOCK..], shift)];
            let number = u32::try_from(at + 1).unwrap_or(0);
            next[number as usize] = *slot;
            *slot = number;
        }
        Self { shift, heads, next }
    }

    /// The longest match for `target` from `at` on: where in the base, and how long.
    fn find(&self, base: &[u8], target: &[u8], at: usize) -> Option<(usize, usize)> {
        let wanted = target.get(at..)?;
        if wanted.len() < BLOCK {
            return None;
        }
        let mut best: Option<(usize, usize)> = None;
        let mut number = self.heads[hash(wanted, self.shift)];
        for _ in 0..TRIES {
            let Some(block) = number.checked_sub(1) else { break };
            let from = block as usize * BLOCK;
            let length = common(&base[from..], wanted);
            if length >= BLOCK && best.is_none_or(|(_, longest)| length > longest) {
                best = Some((from, length));
            }
            number = self.next[number as usize];
        }
        best
    }
}

/// How many bytes both begin with.
fn common(a: &[u8], b: &[u8]) -> usize {
    let mut words = a.chunks_exact(8).zip(b.chunks_exact(8));
    let whole = 8 * words.position(|(a, b)| a != b).unwrap_or_else(|| a.len().min(b.len()) / 8);
    whole + a[whole..].iter().zip(&b[whole..]).take_while(|(a, b)| a == b).count()
}

/// How many bytes both end with.
fn common_end(a: &[u8], b: &[u8]) -> usize {
    let mut words = a.rchunks_exact(8).zip(b.rchunks_exact(8));
    let whole = 8 * words.position(|(a, b)| a != b).unwrap_or_else(|| a.len().min(b.len()) / 8);
    let rest = |bytes: &[u8]| bytes.len() - whole;
    let (a, b) = (&a[..rest(a)], &b[..rest(b)]);
    whole + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// The delta that makes `target` of `base`; none when it would be longer than `limit`. `base` is shorter
/// than 4 GiB.
///
/// Most versions of a file share their beginning and their end. Only what lies between is looked
/// through, and only in what lies between in the base.
#[must_use]
pub fn delta(base: &[u8], target: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(limit.min(target.len()).min(4096));
    size(&mut out, base.len());
    size(&mut out, target.len());
    let begin = Some(common(base, target)).filter(|length| *length >= WORTH).unwrap_or(0);
    let end = common_end(&base[begin..], &target[begin..]);
    let end = Some(end).filter(|length| *length >= WORTH).unwrap_or(0);
    copy(&mut out, 0, begin);
    let (left, wanted) = (&base[..base.len() - end], &target[..target.len() - end]);
    between(&mut out, left, wanted, begin, limit)?;
    copy(&mut out, left.len(), end);
    (out.len() <= limit).then_some(out)
}

/// Makes `target` from `begin` on of `base` from `begin` on; none when `out` grows longer than `limit`.
fn between(out: &mut Vec<u8>, base: &[u8], target: &[u8], begin: usize, limit: usize) -> Option<()> {
    let part = &base[begin..];
    if part.len() < BLOCK || target.len() - begin < BLOCK {
        insert(out, &target[begin..]);
        return (out.len() <= limit).then_some(());
    }
    let index = Index::new(part);
    let mut at = begin;
    let mut pending = begin;
    while at < target.len() {
        if out.len() + (at - pending) > limit {
            return None;
        }
        let Some((mut from, mut length)) = index.find(part, target, at) else {
            at += 1;
            continue;
        };
        // The match may have begun before the block that gave it away.
        let earlier = common_end(&part[..from], &target[pending..at]);
        from -= earlier;
        length += earlier;
        let start = at - earlier;
        insert(out, &target[pending..start]);
        copy(out, begin + from, length);
        at = start + length;
        pending = at;
    }
    insert(out, &target[pending..]);
    Some(())
}

fn size(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn insert(out: &mut Vec<u8>, bytes: &[u8]) {
    for part in bytes.chunks(MAX_INSERT) {
        out.push(u8::try_from(part.len()).unwrap_or(0));
        out.extend_from_slice(part);
    }
}

fn copy(out: &mut Vec<u8>, mut from: usize, mut length: usize) {
    while length > 0 {
        let part = length.min(MAX_COPY);
        let offset = u32::try_from(from).unwrap_or(0).to_le_bytes();
        // A size of 0 means 64 KiB.
        let count = u16::try_from(part).unwrap_or(0).to_le_bytes();
        let at = out.len();
        out.push(0x80);
        for (bit, byte) in offset.iter().chain(&count).enumerate() {
            if *byte != 0 {
                out[at] |= 1 << bit;
                out.push(*byte);
            }
        }
        from += part;
        length -= part;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reading side, from the specification: what git does with a delta.
    fn apply(base: &[u8], mut delta: &[u8]) -> Vec<u8> {
        fn take(delta: &mut &[u8]) -> u8 {
            let (first, rest) = delta.split_first().unwrap();
            *delta = rest;
            *first
        }
        fn size(delta: &mut &[u8]) -> usize {
            let mut value = 0;
            let mut shift = 0;
            loop {
                let byte = take(delta);
                value |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    return value;
                }
            }
        }
        assert_eq!(size(&mut delta), base.len());
        let wanted = size(&mut delta);
        let mut out = Vec::new();
        while !delta.is_empty() {
            let op = take(&mut delta);
            if op & 0x80 == 0 {
                assert_ne!(op, 0);
                let (bytes, rest) = delta.split_at(op.into());
                out.extend_from_slice(bytes);
                delta = rest;
                continue;
            }
            let (mut from, mut length) = (0, 0);
            for bit in 0..4 {
                if op & 1 << bit != 0 {
                    from |= usize::from(take(&mut delta)) << (8 * bit);
                }
            }
            for bit in 0..3 {
                if op & 0x10 << bit != 0 {
                    length |= usize::from(take(&mut delta)) << (8 * bit);
                }
            }
            let length = if length == 0 { 0x1_0000 } else { length };
            out.extend_from_slice(&base[from..from + length]);
        }
        assert_eq!(out.len(), wanted);
        out
    }

    fn noise(length: usize, mut seed: u64) -> Vec<u8> {
        (0..length)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                u8::try_from(seed >> 56).unwrap()
            })
            .collect()
    }

    #[test]
    fn what_is_encoded_comes_back() {
        let base = noise(200_000, 1);
        let mut edited = base.clone();
        edited.splice(70_000..70_010, noise(300, 2));
        edited.splice(5..6, [1, 2, 3]);
        let moved = [&base[150_000..], &base[..150_000]].concat();
        let zeros = vec![0; 300_000];
        for (base, target) in [
            (&base, &edited),
            (&base, &moved),
            (&base, &base),
            (&base, &Vec::new()),
            (&Vec::new(), &edited),
            (&zeros, &[&zeros[..], &[1], &zeros].concat()),
            (&base[..20].to_vec(), &base),
            (&base[..15].to_vec(), &base[..15].to_vec()),
            (&base[..9].to_vec(), &[&base[..9], &base[..9]].concat()),
            (&[&base[..9], &base[..9]].concat(), &base[..9].to_vec()),
            (&base[..40].to_vec(), &[&base[..25], &base[20..40]].concat()),
            (&[&base[..25], &base[20..40]].concat(), &base[..40].to_vec()),
        ] {
            let made = delta(base, target, usize::MAX).unwrap();
            assert_eq!(&apply(base, &made), target);
        }
    }

    #[test]
    fn small_changes_make_small_deltas_and_others_none() {
        let base = noise(200_000, 1);
        let mut edited = base.clone();
        edited[100_000] ^= 1;
        assert!(delta(&base, &edited, 1_000).unwrap().len() < 100);
        assert_eq!(delta(&base, &noise(200_000, 3), 100_000), None);
    }
}
