//! (room)

pub mod rendered;
