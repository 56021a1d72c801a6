//! From a Git revision to rendered objects and the images that they would run.
//!
//! May use `model`, `fsio`, `oci`, `archive`, `trust`, `store` and `ledger`; runs `kustomize`,
//! `kubectl` and `helm` on an exported tree. Must never touch a cluster or change the repository.

pub mod config;
pub mod deploy;
pub mod git;
pub mod images;
pub mod lock;
pub mod render;
