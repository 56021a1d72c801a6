//! Smart HTTP Git, read-only: protocols 0, 1 and 2 (gitprotocol-http, -pack, -v2) for what git,
//! go-git and with them Argo CD and Flux speak; and the read-only half of Git LFS.
//!
//! May use the bare repositories that [`Content`](super::Content) names. Must never write to one,
//! run a program, or look anything up by a name that was not parsed.

mod answer;
mod http;
mod lfs;
mod pack;
mod pktline;
mod repository;
mod request;
mod walk;

pub(super) use http::answer;

use std::io;

use gix::ObjectId;

/// Why a request of a Git client ends otherwise than it hoped.
#[derive(Debug, thiserror::Error)]
enum GitError {
    /// The request makes no sense, or asks for what is not there: told to the client as it is.
    #[error("{0}")]
    Client(String),
    /// The request is not packets.
    #[error(transparent)]
    Packet(#[from] pktline::PacketError),
    /// The repository is not as it should be: told to the operator.
    #[error("{0}")]
    Broken(String),
    /// The client went away.
    #[error("the client has gone")]
    GivenUp,
    /// The answer could not be sent, or the repository could not be read.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl GitError {
    /// What the library says about the repository.
    fn repository(error: impl std::fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }

    /// An object that should be there.
    fn missing(id: ObjectId) -> Self {
        Self::Broken(format!("object `{id}` is missing"))
    }

    /// What the client is told.
    fn to_client(&self) -> String {
        match self {
            Self::Client(_) | Self::Packet(_) => self.to_string(),
            Self::Broken(_) | Self::Io(_) | Self::GivenUp => {
                "the server cannot read its repository".to_owned()
            }
        }
    }
}
