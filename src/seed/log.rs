//! What is told about each request, to whoever keeps a log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// One request that has ended.
#[derive(Debug, Clone)]
pub struct Served {
    /// Who asked.
    pub peer: SocketAddr,
    /// As which user, where passwords are asked for.
    pub user: Option<Arc<str>>,
    /// The method, at most 16 characters of it.
    pub method: String,
    /// Path and query, at most 1024 characters of them.
    pub target: String,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// Whether the body went out whole.
    pub whole: bool,
    /// From the end of the request's head to the end of the answer.
    pub took: Duration,
    /// The client's name of itself, at most 200 characters of it.
    pub agent: Option<String>,
}

/// Takes note of requests. Called from several threads; must not block for long.
pub trait AccessLog: Send + Sync {
    /// A request has ended.
    fn served(&self, request: &Served);
}
