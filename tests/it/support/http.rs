//! HTTP by hand: a client that shows every byte of an answer, and sends what no client should.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// What came back on a connection until the server closed it.
#[derive(Debug)]
pub struct Answer {
    /// Status code; 0 where the connection was closed without an answer.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// What came of the body.
    pub body: Vec<u8>,
    /// Whether that is all of it, by its length or its last chunk.
    pub whole: bool,
}

impl Answer {
    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Code of the first error of the registry API.
    #[track_caller]
    pub fn code(&self) -> String {
        let json = self.json();
        assert_eq!(self.header("content-type"), "application/json");
        assert!(json["errors"][0]["message"].is_string(), "{json}");
        json["errors"][0]["code"].as_str().unwrap().to_owned()
    }

    /// Reads an answer to `method`.
    #[track_caller]
    fn parse(method: &str, bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            // Closed without a word: no answer, and so no whole one.
            return Self { status: 0, headers: Vec::new(), body: Vec::new(), whole: false };
        }
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head in `{}`", String::from_utf8_lossy(bytes)));
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<_> = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect();
        let mut answer = Self { status, headers, body: bytes[end + 4..].to_vec(), whole: true };
        if method == "HEAD" || matches!(status, 204 | 304) {
            assert!(answer.body.is_empty(), "{answer:?}");
        } else if answer.header("transfer-encoding") == "chunked" {
            (answer.body, answer.whole) = dechunk(&answer.body);
        } else {
            answer.whole = answer.body.len().to_string() == answer.header("content-length");
        }
        answer
    }
}

/// The content of chunks, and whether the last one is there.
fn dechunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    loop {
        let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") else { return (out, false) };
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        let Some(chunk) = bytes.get(end + 2..end + 2 + size) else { return (out, false) };
        if size == 0 {
            return (out, true);
        }
        out.extend_from_slice(chunk);
        bytes = bytes.get(end + 4 + size..).unwrap_or_default();
    }
}

/// A connection to `host` on which nothing waits longer than a minute.
pub fn connect(host: &str) -> TcpStream {
    let stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    stream.set_write_timeout(Some(Duration::from_mins(1))).unwrap();
    stream
}

/// Sends bytes as they are and reads until the server closes; empty when it closes at once.
pub fn raw(host: &str, request: &[u8]) -> Vec<u8> {
    let mut stream = connect(host);
    // A server that has heard enough closes before it has read all.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

/// One request on a connection of its own. `path` goes out as it is.
#[track_caller]
pub fn request(host: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text = format!("{text}{name}: {value}\r\n");
    }
    if !body.is_empty() {
        text = format!("{text}Content-Length: {}\r\n", body.len());
    }
    text.push_str("\r\n");
    let bytes = raw(host, &[text.as_bytes(), body].concat());
    Answer::parse(method, &bytes)
}

/// A GET.
#[track_caller]
pub fn get(host: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    request(host, "GET", path, headers, b"")
}

/// Parses what [`raw`] read as an answer to a GET or POST.
#[track_caller]
pub fn parse(bytes: &[u8]) -> Answer {
    Answer::parse("GET", bytes)
}
