//! A scripted HTTP server that answers as no server should: every test of what is done about it
//! writes its own answers, and reads afterwards what was asked.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fleetpack::model::{Event, Progress};

/// A request, as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `GET`, `HEAD` …
    pub method: String,
    /// Path with query.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What follows the head of an answer.
pub enum Body {
    /// These bytes, then the end.
    Whole(Vec<u8>),
    /// These bytes, then the connection breaks.
    Cut(Vec<u8>),
    /// Zero bytes until the client hangs up.
    Endless,
    /// One byte after each pause.
    Drip(Vec<u8>, Duration),
    /// Nothing, for that long.
    Silence(Duration),
}

/// An answer.
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
}

impl Reply {
    /// An answer with `Content-Length` as it should be (where there is a whole body).
    pub fn new(status: u16, body: Body) -> Self {
        let mut reply = Self { status, headers: Vec::new(), body };
        if let Body::Whole(bytes) = &reply.body {
            reply.headers.push(("content-length".into(), bytes.len().to_string()));
        }
        reply
    }

    /// 200 with these bytes.
    pub fn ok(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(200, Body::Whole(bytes.into()))
    }

    /// 404 as registries write it.
    pub fn not_found() -> Self {
        Self::new(404, Body::Whole(br#"{"errors":[{"code":"UNKNOWN","message":"nothing here"}]}"#.to_vec()))
    }

    /// With this header in place of an earlier one of its name.
    pub fn header(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.headers.retain(|(key, _)| key != name);
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// Without that header.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(key, _)| key != name);
        self
    }
}

/// The server. It speaks plain HTTP on loopback, one request a connection, and ends when dropped.
pub struct Liar {
    /// Where it listens.
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
}

impl Liar {
    /// Starts one. `answer` sees each request and how many of the same method and path came before.
    pub fn start(answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let (log, stopped, answer) = (Arc::clone(&asked), Arc::clone(&stop), Arc::new(answer));
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (log, stopped, answer) = (Arc::clone(&log), Arc::clone(&stopped), Arc::clone(&answer));
                std::thread::spawn(move || {
                    // A client that hangs up is part of the script.
                    let _ = serve(&connection, &log, &stopped, answer.as_ref());
                });
            }
        });
        Self { address, asked, stop }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// All requests so far, in the order of their arrival, without the pings of `/v2/`.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().iter().filter(|asked| asked.path != "/v2/").cloned().collect()
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The listener wakes up, sees the flag and ends.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    connection: &TcpStream,
    log: &Mutex<Vec<Asked>>,
    stop: &AtomicBool,
    answer: &(dyn Fn(&Asked, usize) -> Reply + Send + Sync),
) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection);
    let mut first = [0];
    connection.peek(&mut first)?;
    if first[0] == 0x16 {
        // TLS, which is not spoken here.
        return Ok(());
    }
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut asked = Asked { method: method.into(), path: path.into(), headers: Vec::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        asked.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = asked.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    asked.body = vec![0; length];
    reader.read_exact(&mut asked.body)?;
    let before = {
        let mut log = log.lock().unwrap();
        log.push(asked.clone());
        log.iter().filter(|old| old.method == asked.method && old.path == asked.path).count() - 1
    };
    let reply = if asked.path == "/v2/" { Reply::ok("{}") } else { answer(&asked, before) };
    let mut writer = connection;
    write!(writer, "HTTP/1.1 {} Scripted\r\nconnection: close\r\n", reply.status)?;
    for (name, value) in &reply.headers {
        write!(writer, "{name}: {value}\r\n")?;
    }
    write!(writer, "\r\n")?;
    if asked.method == "HEAD" {
        return Ok(());
    }
    match reply.body {
        Body::Whole(bytes) | Body::Cut(bytes) => writer.write_all(&bytes)?,
        Body::Endless => {
            let zeros = vec![0; 65536];
            while !stop.load(Ordering::Relaxed) {
                writer.write_all(&zeros)?;
            }
        }
        Body::Drip(bytes, pause) => {
            for byte in bytes {
                writer.write_all(&[byte])?;
                std::thread::sleep(pause);
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
        Body::Silence(time) => std::thread::sleep(time),
    }
    Ok(())
}

/// Keeps the lines that long work told.
#[derive(Default)]
pub struct Notes(Mutex<Vec<String>>);

impl Notes {
    /// Notes and warnings so far.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Progress for Notes {
    fn event(&self, event: Event) {
        if let Event::Note(line) | Event::Warning(line) = event {
            self.0.lock().unwrap().push(line);
        }
    }
}
