//! A Git host: `git http-backend` behind a small HTTP server on loopback, with what real hosts add:
//! logins, and a remote that moves between one request and the next.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use super::command::program;

type Hook = Box<dyn FnMut(&str) + Send>;

/// One request as it came.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers, names in lower case.
    pub headers: HashMap<String, String>,
    /// Body, without chunks.
    pub body: Vec<u8>,
}

/// What a route of the test's own answers: status, content type, body.
pub type Route = Box<dyn Fn(&Request) -> Option<(u16, &'static str, Vec<u8>)> + Send + Sync>;

#[derive(Default)]
struct State {
    root: PathBuf,
    login: Mutex<Option<String>>,
    before_post: Mutex<Option<Hook>>,
    requests: Mutex<Vec<(String, String)>>,
    route: Mutex<Option<Route>>,
}

/// The host; serves as long as the test runs.
pub struct GitHost {
    /// `http://127.0.0.1:PORT`.
    pub endpoint: String,
    state: Arc<State>,
}

impl GitHost {
    /// Serves every repository below `root`.
    pub fn new(root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State { root: root.to_owned(), ..State::default() });
        let served = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&served);
                std::thread::spawn(move || drop(serve(&state, stream)));
            }
        });
        Self { endpoint, state }
    }

    /// Wants this user and password from now on.
    pub fn login(&self, user: &str, password: &str) {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        *self.state.login.lock().unwrap() = Some(format!("Basic {text}"));
    }

    /// Calls `hook` with the path of each POST before it is answered.
    pub fn before_post(&self, hook: impl FnMut(&str) + Send + 'static) {
        *self.state.before_post.lock().unwrap() = Some(Box::new(hook));
    }

    /// Asks `route` before git.
    pub fn route(
        &self,
        route: impl Fn(&Request) -> Option<(u16, &'static str, Vec<u8>)> + Send + Sync + 'static,
    ) {
        *self.state.route.lock().unwrap() = Some(Box::new(route));
    }

    /// Takes the requests so far: method and path, and the client's name.
    pub fn requests(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.state.requests.lock().unwrap())
    }

    /// The URL of a repository.
    pub fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint)
    }

    /// The same with user and password in it.
    pub fn url_with(&self, login: &str, path: &str) -> String {
        self.url(path).replace("http://", &format!("http://{login}@"))
    }
}

fn serve(state: &State, stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(request) = read(&mut reader, &mut stream)? {
        let client = request.headers.get("user-agent").cloned().unwrap_or_default();
        state.requests.lock().unwrap().push((format!("{} {}", request.method, request.target), client));
        let wanted = state.login.lock().unwrap().clone();
        if wanted.is_some() && request.headers.get("authorization") != wanted.as_ref() {
            stream.write_all(
                b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\nContent-Length: 0\r\n\r\n",
            )?;
            continue;
        }
        let answer = state.route.lock().unwrap().as_ref().and_then(|route| route(&request));
        if let Some((status, kind, body)) = answer {
            write!(
                stream,
                "HTTP/1.1 {status} Test\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            )?;
            stream.write_all(&body)?;
            continue;
        }
        if request.method == "POST"
            && let Some(hook) = state.before_post.lock().unwrap().as_mut()
        {
            hook(&request.target);
        }
        backend(state, &request, &mut stream)?;
    }
    Ok(())
}

fn read(reader: &mut BufReader<TcpStream>, stream: &mut TcpStream) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let mut request = Request {
        method: words.next().unwrap_or_default().to_owned(),
        target: words.next().unwrap_or_default().to_owned(),
        ..Request::default()
    };
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    if request.headers.contains_key("expect") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if request.headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).unwrap();
            reader.by_ref().take(size).read_to_end(&mut request.body)?;
            line.clear();
            reader.read_line(&mut line)?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = request.headers.get("content-length") {
        reader.by_ref().take(length.parse().unwrap()).read_to_end(&mut request.body)?;
    }
    Ok(Some(request))
}

/// One CGI request (RFC 3875) to `git http-backend`.
fn backend(state: &State, request: &Request, stream: &mut TcpStream) -> std::io::Result<()> {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let header = |name: &str| request.headers.get(name).cloned().unwrap_or_default();
    let mut child = program("git", &state.root)
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", &state.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", &request.method)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().unwrap();
    let body = request.body.clone();
    std::thread::spawn(move || drop(input.write_all(&body)));
    let output = child.wait_with_output()?.stdout;
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(output.len());
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let body = output.get(end + 4..).unwrap_or_default();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    let mut answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for line in head.lines().filter(|line| !line.starts_with("Status: ")) {
        answer = format!("{answer}{line}\r\n");
    }
    stream.write_all(format!("{answer}\r\n").as_bytes())?;
    stream.write_all(body)
}
