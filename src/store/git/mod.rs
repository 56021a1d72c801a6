//! The site side of Git: bundles become generations of bare repositories that are switched whole.
//!
//! May use `model`, `fsio` and gix. Must never run a program, follow a reference out of the store,
//! or change a generation after it has its final name.
//!
//! [`object`] and [`walk`] are also what the build side reads histories with, so that both sides
//! mean the same by "everything that a reference reaches".

pub mod check;
pub mod error;
pub mod generation;
pub mod object;
pub mod pack;
pub mod walk;

pub use check::{Repository, Sums, check_generation, holds, releases_of, repositories};
pub use error::GitStoreError;
pub use generation::{
    Generation, GenerationRelease, build_generation, clear_leftovers, current, prune_generations,
    remove_others, submodules_folder, submodules_named, switch,
};
pub use object::TreeFault;
pub use pack::PackError;
pub use walk::{Closure, Objects, WalkError};
