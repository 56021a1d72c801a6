//! What the tests share: real peers, a scrubbed environment, repositories made on the spot.
//! One file a purpose; a test module takes what it needs.
#![allow(dead_code, reason = "each test module uses a part of it")]

pub mod carried;
pub mod clock;
pub mod cluster;
pub mod command;
pub mod ctr;
pub mod depot;
pub mod faulty;
pub mod githost;
pub mod gitsite;
pub mod http;
pub mod images;
pub mod keeper;
pub mod layout;
pub mod liar;
pub mod medium;
pub mod registries;
pub mod repository;
pub mod root;
pub mod served;
pub mod shop;
pub mod steps;
pub mod storm;
pub mod testbed;
