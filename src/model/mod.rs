//! Pure values: what the rest of the crate talks about.
//!
//! This room parses and prints, and nothing else: no file, no network, no clock, no terminal.
//! Names that come from outside are types here, and parsing is the only way to make one.

pub mod bundle;
pub mod class;
pub mod config;
pub mod deployers;
pub mod digest;
pub mod field;
pub mod lock;
pub mod media_type;
pub mod name;
pub mod object;
pub mod path;
pub mod plan;
pub mod platform;
pub mod progress;
pub mod reference;
pub mod release;
pub mod site_registry;
pub mod waiting;
pub mod yaml;

pub use bundle::BundleHeader;
pub use class::{ErrorClass, chain};
pub use digest::Digest;
pub use field::FieldPath;
pub use lock::Lock;
pub use name::{
    GitOid, HelmReleaseName, KubeApi, KubeVersion, Namespace, RefName, ReleaseName, ReleaseVersion,
};
pub use object::{ObjectId, ObjectRole, Origin, RenderedObject};
pub use path::SafePath;
pub use plan::Plan;
pub use platform::Platform;
pub use progress::{Event, Progress};
pub use reference::ImageRef;
pub use release::{
    AbsentManifest, BlobEntry, GitContent, GitRef, ImageEntry, LfsObject, ObjectEntry, ReferrerEntry,
    ReleaseDocument, RenderedContent, SubmoduleEntry, SubmodulePath, Usage,
};
pub use site_registry::SiteRegistry;
pub use waiting::{HealthState, Waiting, WaitingFor};
