//! The cluster: the only room that talks to one.
//!
//! ```text
//! connect -> observe (dry run of everything) -> plan (pure) -> execute (stages) -> wait (health) -> prune
//! ```
//!
//! [`observe`] and everything before it change nothing, and neither does [`compare`]. [`execute`],
//! [`prune`] and [`heal`] are the only functions of the crate that change a cluster, and all can
//! be run again after any cut: they work towards the release and ask the cluster, not their memory, what is left to do. A rollback
//! is the same with the objects of the release before.
//!
//! May use `model` and `fsio`, and the network to the one API server that [`connect`] was told
//! of. Must never read the environment or `$HOME`, never print, and never change an object of a
//! release that has not been verified: callers make [`ReleaseObjects`] from verified bytes only.

mod admission;
mod client;
mod consent;
mod diff;
mod discovery;
mod drift;
mod error;
mod execute;
mod heal;
mod health;
mod inventory;
mod members;
mod migrate;
mod observe;
mod order;
mod plan;
mod prune;
mod retry;
mod status;
mod tenants;
mod trial;
mod trouble;
mod wait;
mod waves;
mod webhooks;

pub use client::{Cluster, ClusterTarget, connect};
pub use consent::Cure;
pub use drift::{
    DriftReport, FieldDrift, InventoryDrift, ObjectDrift, UncheckedObject, UnreadyObject, compare,
};
pub use error::{ApplyError, MissingKind, MissingNamespace, ObjectAt, ObjectFailure};
pub use execute::{execute, execute_within};
pub use heal::{Healed, heal};
pub use health::{Health, State};
pub use inventory::{FIELD_MANAGER, NAMESPACE, apply_set_id, parent_name};
pub use observe::{Observation, observe};
pub use plan::{PlanOptions, plan};
pub use prune::{PruneReport, prune};
pub use status::{ClusterRelease, status};
pub use wait::{HealthReport, Unready, wait};
pub use waves::{OrderProblem, check_order};

use crate::model::{Digest, ReleaseName, ReleaseVersion, RenderedObject};

/// The objects of one release, read from verified bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleaseObjects {
    /// Name of the line of releases.
    pub name: ReleaseName,
    /// Version of the release.
    pub version: ReleaseVersion,
    /// Digest of its release manifest.
    pub digest: Digest,
    /// Its sequence number.
    pub sequence: u64,
    /// Its rendered objects, in the order of the release document.
    pub objects: Vec<RenderedObject>,
}

/// Takes note of each stage that is done; the ledger is one such sink.
pub trait StepSink: Send {
    /// A step is done: `stage:1` to `stage:4`, with the wave before it and the level behind it
    /// where there are such ([`crate::model::plan::Stage::step`]). An error stops the work: what cannot be recorded
    /// is not done.
    ///
    /// # Errors
    ///
    /// When the step cannot be recorded.
    fn step(&mut self, step: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// The sink that records nothing: for a throw-away cluster.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unrecorded;

impl StepSink for Unrecorded {
    fn step(&mut self, _: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}
