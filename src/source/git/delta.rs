//! Deltas between two versions of an object (gitformat-pack, "Deltified representation").
//!
//! The result depends on the two inputs alone: no timing, no hash seed, no tuning by size of the
//! machine. That is what makes a bundle the same on every machine.

/// Bytes of one indexed block, and the shortest copy that is looked for.
const BLOCK: usize = 16;
/// Blocks of equal hash that are tried; keeps runs of zeros from costing the square of their length.
const TRIES: usize = 8;
/// Longest copy that one instruction holds in every reader of version 2 packs.
const MAX_COPY: usize = 0x1_0000;
/// Longest insertion that one instruction holds.
const MAX_INSERT: usize = 127;

/// What deltas are made of. Its blocks are indexed when the first delta is asked for.
pub struct Base {
    data: Vec<u8>,
    index: Option<Index>,
}

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
            let length = base[from..].iter().zip(wanted).take_while(|(a, b)| a == b).count();
            if length >= BLOCK && best.is_none_or(|(_, longest)| length > longest) {
                best = Some((from, length));
            }
            number = self.next[number as usize];
        }
        best
    }
}

impl Base {
    /// A base of `data`, which must be shorter than 4 GiB.
    #[must_use]
    pub const fn new(data: Vec<u8>) -> Self {
        Self { data, index: None }
    }

    /// Length of the base.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.data.len()
    }

    /// The delta that makes `target` of the base; none when it would be longer than `limit`.
    #[must_use]
    pub fn delta(&mut self, target: &[u8], limit: usize) -> Option<Vec<u8>> {
        let base = self.data.as_slice();
        let index = self.index.get_or_insert_with(|| Index::new(base));
        let mut out = Vec::with_capacity(limit.min(target.len()));
        size(&mut out, base.len());
        size(&mut out, target.len());
        let mut at = 0;
        let mut pending = 0;
        while at < target.len() {
            if out.len() + (at - pending) > limit {
                return None;
            }
            let Some((mut from, mut length)) = index.find(base, target, at) else {
                at += 1;
                continue;
            };
            // The match may have begun before the block that gave it away.
            let mut start = at;
            while start > pending && from > 0 && target[start - 1] == base[from - 1] {
                start -= 1;
                from -= 1;
                length += 1;
            }
            insert(&mut out, &target[pending..start]);
            copy(&mut out, from, length);
            at = start + length;
            pending = at;
        }
        insert(&mut out, &target[pending..]);
        (out.len() <= limit).then_some(out)
    }
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
        ] {
            let delta = Base::new(base.clone()).delta(target, usize::MAX).unwrap();
            assert_eq!(&apply(base, &delta), target);
        }
    }

    #[test]
    fn small_changes_make_small_deltas_and_others_none() {
        let base = noise(200_000, 1);
        let mut edited = base.clone();
        edited[100_000] ^= 1;
        assert!(Base::new(base.clone()).delta(&edited, 1_000).unwrap().len() < 100);
        assert_eq!(Base::new(base.clone()).delta(&noise(200_000, 3), 100_000), None);
    }
}
