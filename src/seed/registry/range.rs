//! The `Range` header (RFC 9110, section 14), as far as pulling blobs needs it: one range of bytes.

/// What part of a blob is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it: no range, one that is malformed, of another unit or of several parts, all of
    /// which a server may ignore.
    Whole,
    /// `start` and `length`, the length at least 1.
    Bytes(u64, u64),
    /// A well-formed range that lies outside: 416.
    Outside,
}

/// Reads `header` for a blob of `size` bytes.
pub(super) fn parse(header: &str, size: u64) -> Part {
    let Some(spec) = header.trim().strip_prefix("bytes=") else { return Part::Whole };
    let Some((first, last)) = spec.trim().split_once('-') else { return Part::Whole };
    // Numbers are plain digits; one that overflows lies beyond every blob.
    let number = |text: &str| {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
            .then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (first.trim(), last.trim()) {
        ("", suffix) => match number(suffix) {
            None => Part::Whole,
            Some(0) => Part::Outside,
            Some(_) if size == 0 => Part::Outside,
            Some(length) => Part::Bytes(size - length.min(size), length.min(size)),
        },
        (first, "") => match number(first) {
            None => Part::Whole,
            Some(first) if first >= size => Part::Outside,
            Some(first) => Part::Bytes(first, size - first),
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first > last => Part::Whole,
            (Some(first), Some(_)) if first >= size => Part::Outside,
            (Some(first), Some(last)) => Part::Bytes(first, last.min(size - 1) - first + 1),
            _ => Part::Whole,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_specification() {
        for (header, want) in [
            ("bytes=0-499", Part::Bytes(0, 500)),
            ("bytes=500-999", Part::Bytes(500, 500)),
            ("bytes=500-5000", Part::Bytes(500, 500)),
            ("bytes=-500", Part::Bytes(500, 500)),
            ("bytes=-5000", Part::Bytes(0, 1000)),
            ("bytes=999-", Part::Bytes(999, 1)),
            ("bytes=0-", Part::Bytes(0, 1000)),
            ("bytes=1000-", Part::Outside),
            ("bytes=1000-1001", Part::Outside),
            ("bytes=-0", Part::Outside),
            ("bytes=99999999999999999999999-", Part::Outside),
            ("bytes=0-99999999999999999999999", Part::Bytes(0, 1000)),
            ("bytes=5-4", Part::Whole),
            ("bytes=0-1,5-6", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=", Part::Whole),
            ("lines=0-1", Part::Whole),
        ] {
            assert_eq!(parse(header, 1000), want, "{header}");
        }
        assert_eq!(parse("bytes=0-", 0), Part::Outside);
        assert_eq!(parse("bytes=-1", 0), Part::Outside);
    }
}
