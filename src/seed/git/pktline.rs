//! Packet lines (gitprotocol-common): four hexadecimal digits of length, then so many bytes less four.

/// The longest packet, its length included (`LARGE_PACKET_MAX`).
pub(super) const MAX: usize = 65520;

/// One packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// A line; a newline at its end is taken off, as every reader of text lines does.
    Line(&'a [u8]),
    /// `0000`
    Flush,
    /// `0001`
    Delimiter,
}

/// Why bytes are not packets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PacketError {
    #[error("packet at byte {at} has length `{found}`, wanted four hexadecimal digits, at most fff0")]
    Length { at: usize, found: String },
    #[error("packet at byte {at} wants {wanted} bytes, but the request ends after {left}")]
    Short { at: usize, wanted: usize, left: usize },
}

/// Reads packets from the whole of a request.
#[derive(Debug, Clone)]
pub(super) struct Packets<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Packets<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next packet, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Packet<'a>>, PacketError> {
        let at = self.at;
        let rest = &self.bytes[at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let digits = &rest[..rest.len().min(4)];
        let length = std::str::from_utf8(digits)
            .ok()
            .filter(|text| text.len() == 4 && text.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|text| usize::from_str_radix(text, 16).ok())
            .filter(|length| *length <= MAX && !matches!(length, 2 | 3))
            .ok_or_else(|| PacketError::Length { at, found: String::from_utf8_lossy(digits).into_owned() })?;
        let length = match length {
            0 | 1 => {
                self.at += 4;
                return Ok(Some(if length == 0 { Packet::Flush } else { Packet::Delimiter }));
            }
            length => length,
        };
        let line = rest.get(4..length).ok_or(PacketError::Short { at, wanted: length, left: rest.len() })?;
        self.at += length;
        Ok(Some(Packet::Line(line.strip_suffix(b"\n").unwrap_or(line))))
    }
}

/// Appends a packet that holds `line`, which fits one.
pub(super) fn line(out: &mut Vec<u8>, line: impl AsRef<[u8]>) {
    let line = line.as_ref();
    debug_assert!(line.len() + 4 <= MAX, "a line of our own fits a packet");
    out.extend_from_slice(format!("{:04x}", line.len() + 4).as_bytes());
    out.extend_from_slice(line);
}

/// Appends a flush packet.
pub(super) fn flush(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0000");
}

/// Appends a delimiter packet.
pub(super) fn delimiter(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0001");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let mut bytes = Vec::new();
        line(&mut bytes, "want 1\n");
        delimiter(&mut bytes);
        line(&mut bytes, "");
        flush(&mut bytes);
        assert_eq!(bytes, b"000bwant 1\n000100040000");
        let mut packets = Packets::new(&bytes);
        for want in [Packet::Line(b"want 1"), Packet::Delimiter, Packet::Line(b""), Packet::Flush] {
            assert_eq!(packets.next(), Ok(Some(want)));
        }
        assert_eq!(packets.next(), Ok(None));
    }

    #[test]
    fn malformed_packets() {
        for bad in ["0", "000", "zzzz", "0002", "0003", "+005a", "ffff", "fff1", "0006a", "00 5a", "0x05a"] {
            assert!(Packets::new(bad.as_bytes()).next().is_err(), "{bad}");
        }
    }
}
