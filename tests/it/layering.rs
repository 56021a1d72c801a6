//! Dependencies between the rooms point one way.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms each room may use; `lib.rs` draws the same table.
const ALLOWED: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("fsio", &["model"]),
    ("oci", &["model", "fsio"]),
    ("archive", &["model", "fsio", "oci"]),
    ("trust", &["model", "fsio", "oci", "archive"]),
    ("store", &["model", "fsio", "oci", "archive", "trust"]),
    ("ledger", &["model", "fsio", "oci", "archive", "trust"]),
    ("source", &["model", "fsio", "oci", "archive", "trust", "store", "ledger"]),
    ("apply", &["model", "fsio", "oci", "archive", "trust", "store", "ledger"]),
    ("seed", &["model", "fsio", "oci", "archive", "trust", "store", "ledger"]),
    ("ops", &["model", "fsio", "oci", "archive", "trust", "store", "ledger", "source", "apply", "seed"]),
    ("cli", &["model", "fsio", "ops"]),
];

fn rust_files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

/// The rooms that a line of source names: `crate::oci::…`, `crate::{model, fsio::…}` and the like.
fn rooms_named(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in source.match_indices("crate::") {
        let rest = &source[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut name)),
                    c if depth == 0 => name.push(c),
                    _ => {}
                }
            }
            found.push(name);
        } else {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found
        .iter()
        .map(|name| name.trim().split("::").next().unwrap_or_default().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn rooms_use_only_what_lies_below_them() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for entry in fs::read_dir(&source).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        let room = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(below) = allowed.get(room.as_str()) else {
            wrong.push(format!("src/{room} is a room the table does not know"));
            continue;
        };
        let mut files = Vec::new();
        rust_files(&folder, &mut files);
        for file in files {
            seen += 1;
            for used in rooms_named(&fs::read_to_string(&file).unwrap()) {
                if used != room && allowed.contains_key(used.as_str()) && !below.contains(&used.as_str()) {
                    wrong.push(format!("{} uses `crate::{used}`", file.display()));
                }
            }
        }
    }
    assert!(seen > 20, "the test looked at {seen} files only: does it look at the right folder?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn groups_and_paths_are_both_read() {
    assert_eq!(rooms_named("use crate::{model::Digest, fsio::{a, b}, oci};"), ["model", "fsio", "oci"]);
    assert_eq!(rooms_named("crate::store::Store::open()"), ["store"]);
}
