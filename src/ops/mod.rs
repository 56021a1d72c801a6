//! The use cases, one file each: they join the rooms below, which do not know each other.
//!
//! Takes values and a progress sink; never prints, prompts or reads the environment.

pub mod apply;
mod archives;
pub mod build;
pub mod checkout;
pub mod cluster_state;
pub mod demo;
pub mod error;
pub mod export;
pub mod gc;
pub mod image_problems;
pub mod images;
pub mod inspect;
mod install;
pub mod keys;
pub mod list_images;
pub mod lock;
pub mod mirrors;
pub mod mirrors_check;
pub mod notify;
mod registry;
pub mod render;
pub mod rollback;
pub mod scrub;
pub mod serve;
mod serve_files;
pub mod serve_unit;
pub mod sign;
pub mod space;
pub mod status;
pub mod verify;
pub mod watch;
pub mod watch_line;
mod watch_memory;

use std::path::PathBuf;

pub use error::Error;

use crate::model::chain;

/// What every `ops` function returns.
pub type Result<T> = std::result::Result<T, Error>;

/// How to reach the cluster.
#[derive(Debug, Clone, Default)]
pub struct ClusterSettings {
    /// kubeconfig file; none means the pod's own service account.
    pub kubeconfig: Option<PathBuf>,
    /// Context of it; none means its current one.
    pub context: Option<String>,
}

/// Where registries' configuration and credentials are, each list in order of precedence.
/// Files that do not exist are passed over.
#[derive(Debug, Clone, Default)]
pub struct RegistrySettings {
    /// `registries.conf` files (containers-registries.conf(5)): the first that exists counts.
    pub registries_conf: Vec<PathBuf>,
    /// Folders of `*.conf` files that add to it.
    pub drop_ins: Vec<PathBuf>,
    /// The credential file that the user named: no other is read.
    pub auth_file: Option<PathBuf>,
    /// Other credential files, Docker's and the containers' own.
    pub auth_files: Vec<PathBuf>,
    /// Folders of certificates by host (containers-certs.d(5)).
    pub certs_dirs: Vec<PathBuf>,
}

impl ClusterSettings {
    /// As the room of the cluster takes it.
    fn target(&self) -> crate::apply::ClusterTarget {
        crate::apply::ClusterTarget { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() }
    }
}
