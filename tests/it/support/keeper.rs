//! A small registry that takes what is pushed to it, and fails as a test's script says: in the
//! middle of a body, with any status, or by saying that it took what it did not.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use fleetpack::model::Digest;

/// A request, as far as it was read.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `PUT`, `PATCH` …
    pub method: String,
    /// Path with query.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: HashMap<String, String>,
    /// Bytes of the body that were read.
    pub read: usize,
}

/// What goes wrong with a request.
pub enum Fault {
    /// Nothing.
    None,
    /// The connection breaks after so many bytes of the body, which are kept.
    Cut(usize),
    /// It is answered so, and nothing is kept.
    Answer(u16, Vec<(&'static str, String)>),
}

#[derive(Default)]
struct State {
    /// By repository and digest, or repository and tag: media type and bytes.
    manifests: HashMap<(String, String), (String, Vec<u8>)>,
    blobs: HashMap<(String, String), Vec<u8>>,
    uploads: HashMap<String, Vec<u8>>,
    asked: Vec<Asked>,
}

/// The registry; it ends when dropped.
pub struct Keeper {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
}

type Script = dyn Fn(&Asked, usize) -> Fault + Send + Sync;

impl Keeper {
    /// Starts one. `script` sees each request before its body, and how many of its method came before.
    pub fn start(script: impl Fn(&Asked, usize) -> Fault + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (state, stop) = (Arc::<Mutex<State>>::default(), Arc::<AtomicBool>::default());
        let (kept, stopped, script) = (Arc::clone(&state), Arc::clone(&stop), Arc::new(script));
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (kept, script) = (Arc::clone(&kept), Arc::clone(&script));
                std::thread::spawn(move || {
                    // A client that hangs up is part of the script.
                    let _ = serve(&connection, &kept, script.as_ref());
                });
            }
        });
        Self { address, state, stop }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// All requests so far, in the order of their arrival.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// The bytes of a blob, if it is there.
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        self.state.lock().unwrap().blobs.get(&(repository.to_owned(), digest.to_owned())).cloned()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The listener wakes up, sees the flag and ends.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(connection: &TcpStream, state: &Mutex<State>, script: &Script) -> std::io::Result<()> {
    let mut first = [0];
    connection.peek(&mut first)?;
    if first[0] == 0x16 {
        // TLS, which is not spoken here.
        return Ok(());
    }
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length: usize = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut asked = Asked { method, path, headers, read: 0 };
    let before = state.lock().unwrap().asked.iter().filter(|old| old.method == asked.method).count();
    let fault = if asked.path == "/v2/" { Fault::None } else { script(&asked, before) };
    let wanted = match fault {
        Fault::None => length,
        Fault::Cut(bytes) => bytes.min(length),
        Fault::Answer(..) => 0,
    };
    let mut body = vec![0; wanted];
    reader.read_exact(&mut body)?;
    asked.read = wanted;
    let mut state = state.lock().unwrap();
    if asked.path != "/v2/" {
        state.asked.push(asked.clone());
    }
    let (status, headers, bytes) = match fault {
        Fault::Answer(status, headers) => (status, headers, Vec::new()),
        Fault::Cut(_) => {
            if let Some(kept) = upload_of(&asked.path).and_then(|id| state.uploads.get_mut(id)) {
                kept.extend_from_slice(&body);
            }
            return Ok(());
        }
        Fault::None => answer(&mut state, &asked, body),
    };
    drop(state);
    let mut writer = connection;
    write!(writer, "HTTP/1.1 {status} Kept\r\nconnection: close\r\n")?;
    if !headers.iter().any(|(name, _)| *name == "content-length") {
        write!(writer, "content-length: {}\r\n", bytes.len())?;
    }
    for (name, value) in &headers {
        write!(writer, "{name}: {value}\r\n")?;
    }
    write!(writer, "\r\n")?;
    if asked.method != "HEAD" {
        writer.write_all(&bytes)?;
    }
    writer.flush()
}

/// The upload that a path means.
fn upload_of(path: &str) -> Option<&str> {
    let (_, rest) = path.split_once("/blobs/uploads/")?;
    let id = rest.split('?').next()?;
    (!id.is_empty()).then_some(id)
}

type Answered = (u16, Vec<(&'static str, String)>, Vec<u8>);

fn answer(state: &mut State, asked: &Asked, body: Vec<u8>) -> Answered {
    let not_found =
        (404, Vec::new(), br#"{"errors":[{"code":"UNKNOWN","message":"nothing here"}]}"#.to_vec());
    let Some(path) = asked.path.strip_prefix("/v2/").filter(|path| !path.is_empty()) else {
        return (200, Vec::new(), b"{}".to_vec());
    };
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let query = query.replace("%3A", ":");
    if let Some((repository, rest)) = path.split_once("/blobs/uploads/") {
        let location = |id: &str| ("location", format!("/v2/{repository}/blobs/uploads/{id}"));
        return match (asked.method.as_str(), rest) {
            ("POST", _) => {
                let id = format!("u{}", state.asked.len());
                state.uploads.insert(id.clone(), Vec::new());
                (202, vec![location(&id)], Vec::new())
            }
            (method, id) => {
                let Some(kept) = state.uploads.get_mut(id) else { return not_found };
                if let Some(range) = asked.headers.get("content-range")
                    && !range.starts_with(&format!("{}-", kept.len()))
                {
                    return (416, Vec::new(), Vec::new());
                }
                kept.extend(body);
                let range = ("range", format!("0-{}", kept.len().saturating_sub(1)));
                match method {
                    "GET" => (204, vec![location(id), range], Vec::new()),
                    "PATCH" => (202, vec![location(id), range], Vec::new()),
                    _ => {
                        let digest = query.strip_prefix("digest=").unwrap_or_default().to_owned();
                        if Digest::of(kept).to_string() != digest {
                            let words = br#"{"errors":[{"code":"DIGEST_INVALID","message":"other bytes"}]}"#;
                            return (400, Vec::new(), words.to_vec());
                        }
                        let kept = state.uploads.remove(id).unwrap_or_default();
                        state.blobs.insert((repository.to_owned(), digest), kept);
                        (201, Vec::new(), Vec::new())
                    }
                }
            }
        };
    }
    if let Some((repository, digest)) = path.split_once("/blobs/") {
        return match state.blobs.get(&(repository.to_owned(), digest.to_owned())) {
            Some(bytes) => (200, vec![("content-length", bytes.len().to_string())], Vec::new()),
            None => not_found,
        };
    }
    let Some((repository, reference)) = path.split_once("/manifests/") else { return not_found };
    let key = |reference: &str| (repository.to_owned(), reference.to_owned());
    if asked.method == "PUT" {
        let media_type = asked.headers.get("content-type").cloned().unwrap_or_default();
        let digest = Digest::of(&body).to_string();
        state.manifests.insert(key(&digest), (media_type.clone(), body.clone()));
        state.manifests.insert(key(reference), (media_type, body));
        return (201, vec![("docker-content-digest", digest)], Vec::new());
    }
    match state.manifests.get(&key(reference)) {
        Some((media_type, bytes)) => {
            let digest = Digest::of(bytes).to_string();
            let headers = vec![
                ("docker-content-digest", digest),
                ("content-type", media_type.clone()),
                ("content-length", bytes.len().to_string()),
            ];
            (200, headers, bytes.clone())
        }
        None => not_found,
    }
}
