//! fleetpack carries Kubernetes releases across an air gap.
//!
//! One room a folder, and dependencies point one way (`tests/it/layering.rs` reads every
//! `use crate::` line against this table):
//!
//! ```text
//! cli -> ops -> { source, apply, seed } -> { ledger, store } -> trust -> archive -> oci -> fsio -> model
//! ```
//!
//! Siblings in braces never import each other; [`ops`] joins them.
//!
//! Invariants that hold everywhere:
//!
//! * Unverified content cannot be used: what installs or applies takes a
//!   [`trust::Verified`] value, and only the verifier makes one.
//! * Every byte from outside passes a reader that counts, caps and hashes it.
//! * Names from outside are types ([`model::Digest`], [`model::ImageRef`], [`model::RefName`],
//!   [`model::SafePath`]); parsing is the only way to make one.
//! * Only [`cli`] prints, prompts or reads the environment. The rooms below take values and a
//!   [`model::Progress`] sink.

pub mod apply;
pub mod archive;
pub mod cli;
pub mod fsio;
pub mod ledger;
pub mod model;
pub mod oci;
pub mod ops;
pub mod seed;
pub mod source;
pub mod store;
pub mod trust;
