//! Files, as everything above wants them: verified while read, whole or absent when written.
//!
//! May use `model` and the operating system. Must never know what the bytes mean.

pub mod atomic;
pub mod early_sync;
pub mod failpoint;
pub mod hash;
pub mod limits;
pub mod lock;
pub mod reserve;
pub mod scratch;
pub mod share;
pub mod space;
pub mod temporary;

pub use atomic::{sync_folder, write_atomic};
pub use early_sync::EarlySync;
pub use failpoint::{Step, pass};
pub use hash::{Hasher, HashingReader};
pub use lock::FolderLock;
pub use reserve::Reserve;
pub use scratch::ScratchFolder;
pub use share::share;
pub use space::{Room, allocate, available_space, is_full, largest_file};
pub use temporary::TemporaryFile;
