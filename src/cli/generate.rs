//! What the binary says about itself: man pages, completions, schemas. All of it is committed
//! (`man/`, `completions/`, `schemas/`), and a test fails when it differs.

use std::io;

use clap_complete::Shell;

use crate::model::{ReleaseDocument, config::ReleaseConfig};
use crate::ops::lock::LockFile;

/// A generated file: its path below the root of the project, and its content.
pub type Generated = (String, Vec<u8>);

/// The completions of one shell.
#[must_use]
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "fleetpack", &mut out);
    out
}

/// The man page of `command`: the program itself, or `fleetpack-SUBCOMMAND`.
///
/// # Errors
///
/// Never for a buffer in memory; the type is the writer's.
pub fn man_page(command: clap::Command) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    // The date would make two builds differ, so the page carries the version alone.
    clap_mangen::Man::new(command)
        .source(concat!("fleetpack ", env!("CARGO_PKG_VERSION")))
        .render(&mut out)?;
    Ok(out)
}

/// Every generated file of the project.
///
/// # Errors
///
/// When one cannot be rendered.
pub fn all() -> io::Result<Vec<Generated>> {
    let mut files = Vec::new();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let name = match shell {
            Shell::Zsh => "completions/_fleetpack".to_owned(),
            Shell::Fish => "completions/fleetpack.fish".to_owned(),
            _ => "completions/fleetpack.bash".to_owned(),
        };
        files.push((name, completions(shell)));
    }
    let command = super::command();
    files.push(("man/fleetpack.1".to_owned(), man_page(command.clone())?));
    for subcommand in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = format!("fleetpack-{}", subcommand.get_name());
        let page =
            man_page(subcommand.clone().name(Box::leak(name.clone().into_boxed_str()) as &'static str))?;
        files.push((format!("man/{name}.1"), page));
    }
    for (name, schema) in [
        ("schemas/fleetpack.yaml.json", schemars::schema_for!(ReleaseConfig)),
        ("schemas/fleetpack.lock.json", schemars::schema_for!(LockFile)),
        ("schemas/release-document.json", schemars::schema_for!(ReleaseDocument)),
    ] {
        let mut bytes = serde_json::to_vec_pretty(&schema)?;
        bytes.push(b'\n');
        files.push((name.to_owned(), bytes));
    }
    Ok(files)
}
