//! From a Git revision to rendered objects and the images that they would run.
//!
//! May use `model`, `fsio`, `oci`, `archive`, `trust`, `store` and `ledger`. Must never touch a cluster.

pub mod git;
