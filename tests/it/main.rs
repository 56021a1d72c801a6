//! One test program, one file a feature: linking once keeps the inner loop short.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on should stop right there"
)]

mod apply;
mod apply_node;
mod apply_refusals;
mod archive;
mod canonical;
mod care;
mod clock;
mod demo;
mod deployers;
mod deployers_flux;
mod deployers_node;
mod discovery;
mod disk_full;
mod documents;
mod drift;
mod generated;
mod git;
mod git_store;
mod images;
mod journey;
mod layering;
mod lfs;
mod lfs_serve;
mod lock;
mod media;
mod media_faults;
mod memory;
mod mirrors;
mod oci;
mod oci_layout;
mod oci_lies;
mod oci_referrers;
mod oci_tokens;
mod odd_images;
mod power;
mod push;
mod push_site;
mod push_trouble;
mod refusals;
mod remote;
mod render;
mod render_bases;
mod render_command;
mod render_helm;
mod serve_archive;
mod serve_clients;
mod serve_git;
mod serve_git_difference;
mod serve_git_hostile;
mod serve_images;
mod serve_limits;
mod signed_images;
mod site;
mod soak;
mod status_page;
mod store;
mod submodules;
mod support;
mod trouble;
mod trouble_node;
mod trust;
mod watch;
mod waves;
mod waves_node;
mod yaml;
