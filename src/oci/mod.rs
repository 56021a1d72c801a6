//! Images at their sources: registries, OCI layout folders, OCI archives.
//!
//! [`resolve()`] turns a reference into the closure of everything that belongs to it, by reading
//! manifests only; [`fetch()`] streams one blob. Both work on any [`BlobSource`].
//!
//! May use `model`, `fsio` and the network. Must never write a file, read the environment, print,
//! or hash a large blob: whoever writes it hashes it once.

mod archive;
pub mod credentials;
mod error;
mod fetch;
mod files;
mod layout;
mod manifest;
mod names;
mod referrers;
mod registries_conf;
pub mod registry;
mod resolve;
mod source;

pub use self::credentials::{CredentialPaths, Credentials};
pub use self::error::{OciError, Result};
pub use self::fetch::{Fetched, fetch};
pub use self::layout::{LayoutSource, open_source};
pub use self::manifest::{Content, Descriptor, Manifest, RawManifest};
pub use self::registries_conf::RegistriesConf;
pub use self::registry::{BlobFile, Moved, Registry, RegistryOptions, RetryPolicy, Session, Target};
pub use self::resolve::{Extent, ResolvedImage, resolve};
pub use self::source::{BlobSource, BlobStream, BoxFuture, Sources};
