//! Serving what the site holds: images to runtimes, history to Git clients.
//!
//! One read-only process: OCI distribution pull, smart HTTP Git, `/healthz`, `/metrics`; in the clear
//! or by TLS, open to all or to those with a password. Beside it stand what points runtimes here
//! (mirrors) and what asks whether everything is here (gate).
//!
//! Or the content goes to a registry of the site's own (push).
//!
//! May use the store, the ledger and what lies below. Must never write to the store, and must
//! never answer from content that its own checks refused: a connection is cut short instead.
//!
//! Names from the network are parsed before anything is looked up, so that no path of a request
//! ever becomes a path of a file.

mod archived;
mod ask;
mod auth;
mod connection;
pub mod content;
mod dispatch;
mod gate;
mod git;
mod log;
mod metrics;
pub mod mirrors;
mod page;
pub mod push;
mod registry;
pub mod server;
mod stall;
mod stored;
mod tls;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

pub use archived::{ArchiveContent, ArchivedGit};
pub use ask::{Lacking, ask};
pub use auth::{OWN_USER, Passwords, PasswordsError};
pub use content::{Active, Content, Opened, Snapshot};
pub use dispatch::{Front, Page};
pub use gate::{GateError, Gated, gate};
pub use log::{AccessLog, Served};
pub use page::StatusPage;
pub use server::{Limits, Server};
pub use stored::StoreContent;
pub use tls::{Tls, TlsError};

use crate::model::ErrorClass;

/// Why serving failed. What a single request runs into is answered to its client instead.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The address cannot be listened on.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// What is to be served cannot be read.
    #[error("cannot read what is to be served")]
    Content(#[source] io::Error),
    /// A certificate or its key cannot be used.
    #[error("cannot use the certificate `{}`", path.display())]
    Tls {
        /// The certificate's file.
        path: PathBuf,
        /// The cause.
        source: TlsError,
    },
    /// A file of passwords cannot be used.
    #[error("cannot use the passwords of `{}`", path.display())]
    Passwords {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: PasswordsError,
    },
}

impl SeedError {
    /// How this error ends the process.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        ErrorClass::Failed
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Listen { source, address } if source.kind() == io::ErrorKind::AddrInUse => Some(format!(
                "another process listens on `{address}`; end it, or choose another address with `--listen`"
            )),
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("ports below 1024 want root; choose another with `--listen`".to_owned())
            }
            Self::Passwords { .. } => {
                Some("make the file with `htpasswd -B -c FILE USER`, which knows bcrypt".to_owned())
            }
            Self::Tls { .. } => {
                Some("give both files as PEM: `--tls-cert` the chain, the server's own first".to_owned())
            }
            _ => None,
        }
    }
}
