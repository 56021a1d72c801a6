//! The durable steps in `ARCHITECTURE.md` are those that the program takes, in that order.

use std::collections::BTreeSet;
use std::path::Path;

use fleetpack::fsio::Step;

use super::mount::FileSystem;
use super::site::{Act, Site};
use crate::support::command::run;
use crate::support::root::is_root;

fn architecture() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap()
}

/// The block that follows the heading of `command`.
fn documented<'text>(text: &'text str, command: &str) -> &'text str {
    let (_, rest) = text.split_once(&format!("\n#### `{command}`\n")).unwrap();
    let (_, rest) = rest.split_once("```text\n").unwrap();
    rest.split_once("```").unwrap().0
}

/// The step of a line, without what is said beside it.
fn step(line: &str) -> &str {
    line.split("  ").next().unwrap().trim()
}

/// The block as it should be; what was said beside a line stays there.
fn block(found: &[String], before: &str) -> String {
    let mut before: Vec<&str> = before.lines().collect();
    found.iter().fold(String::new(), |text, line| {
        let at = before.iter().position(|old| step(old) == line);
        let line = at.map_or(line.as_str(), |at| before.drain(..=at).next_back().unwrap());
        format!("{text}{line}\n")
    })
}

/// A step as the document has it: names that differ from site to site are placeholders.
fn general(step: &str, name: &str) -> String {
    let (step, what) = step.split_once(' ').unwrap();
    if step.starts_with("cluster-") {
        return format!("{step} {}", what.split(' ').next().unwrap());
    }
    let is_hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
    let mut parts: Vec<String> = Vec::new();
    for part in what.split('/').skip_while(|part| *part != "store").skip(1) {
        let digits = part.split('.').next().unwrap();
        parts.push(match part {
            part if part.starts_with(".fleetpack-tmp-") => {
                parts.push("TEMPORARY".into());
                break;
            }
            part if is_hex(digits, 64) => part.replace(digits, "HEX"),
            part if is_hex(part, 32) => "GENERATION".into(),
            part if part == name => "NAME".into(),
            part if part == format!("{name}.git") => "NAME.git".into(),
            part => part.to_owned(),
        });
    }
    let path = if parts.is_empty() { ".".to_owned() } else { parts.join("/") };
    format!("{step} {path}")
}

/// Steps that several threads take at once, or once a file: of a run of them each kind stands once.
fn group(line: &str) -> &str {
    let (step, path) = line.split_once(' ').unwrap();
    match path {
        _ if step.starts_with("cluster-") => "cluster",
        "blobs/sha256/HEX" | "git/NAME/TEMPORARY" => path,
        _ => line,
    }
}

fn order(steps: &[String], name: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut run: Vec<String> = Vec::new();
    for line in steps.iter().map(|step| general(step, name)) {
        if run.last().is_some_and(|last| group(last) != group(&line)) {
            out.append(&mut run);
        }
        if !run.contains(&line) {
            run.push(line);
        }
    }
    out.append(&mut run);
    shortened(&out)
}

/// `write FILE` stands for the three steps of an atomic write, `ledger` for the two of a line.
fn shortened(lines: &[String]) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = lines;
    while let Some((first, after)) = rest.split_first() {
        let (step, path) = first.split_once(' ').unwrap();
        let folder = path.rsplit_once('/').map_or(".", |(folder, _)| folder);
        let is = |at: usize, wanted: String| after.get(at) == Some(&wanted);
        if step == "ledger-line" && is(0, format!("sync-file {path}")) {
            out.push("ledger".into());
            rest = &after[1..];
        } else if step == "sync-file"
            && !path.contains("blobs/")
            && is(0, format!("rename {path}"))
            && is(1, format!("sync-folder {folder}"))
        {
            out.push(format!("write {path}"));
            rest = &after[2..];
        } else {
            out.push(first.clone());
            rest = after;
        }
    }
    out
}

#[test]
fn every_step_has_a_line_in_the_architecture() {
    let text = architecture();
    let (_, section) = text.split_once("\n| failpoint | before |\n").unwrap();
    let rows = section.lines().skip(1).take_while(|line| line.starts_with('|'));
    let listed: BTreeSet<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    let known: BTreeSet<&str> = Step::ALL.iter().map(|step| step.name()).collect();
    assert_eq!(listed, known);
}

/// Whatever makes something durable, or takes it away, passes a failpoint right before, so that the
/// harness stops there. What is only tidied up (`let _ =`) need not.
#[test]
fn what_is_made_durable_passes_a_failpoint() {
    const ACTS: [&str; 6] = [
        ".sync_all()",
        ".sync_data()",
        "fs::rename(",
        "fs::remove_file(",
        "fs::remove_dir_all(",
        "fs::hard_link(",
    ];
    /// Files whose content a cut may take: room set aside, what is built and not stored.
    const OTHERS: [&str; 3] = ["fsio/reserve.rs", "fsio/early_sync.rs", "fsio/temporary.rs"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders: Vec<_> = ["fsio", "ledger", "store"].map(|room| root.join(room)).into();
    let (mut acts, mut missing) = (0, Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if OTHERS.iter().any(|other| path.ends_with(other)) {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let lines: Vec<&str> = text
                .lines()
                .take_while(|line| line.trim() != "#[cfg(test)]" || !line.starts_with('#'))
                .collect();
            for (at, line) in lines.iter().enumerate() {
                if !ACTS.iter().any(|act| line.contains(act)) || line.contains("let _ =") {
                    continue;
                }
                acts += 1;
                let near = &lines[at.saturating_sub(5)..(at + 2).min(lines.len())];
                if !near.iter().any(|line| line.contains("pass(")) {
                    missing.push(format!("{}:{}: {}", path.display(), at + 1, line.trim()));
                }
            }
        }
    }
    assert!(acts > 15, "{acts} found");
    assert!(missing.is_empty(), "no failpoint before:\n{}", missing.join("\n"));
}

#[test]
fn the_order_of_the_durable_steps_is_the_documented_one() {
    if !is_root() || !super::has_failpoints() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let name = "power-steps";
    let site = Site::new(folder.path(), name, FileSystem::Ext4);
    let mut text = architecture();
    let mut compare = |command: &str| {
        let found = order(&site.points.steps(), name);
        let before = documented(&text, command);
        let after = block(&found, before);
        text = text.replacen(
            &format!("\n#### `{command}`\n\n```text\n{before}"),
            &format!("\n#### `{command}`\n\n```text\n{after}"),
            1,
        );
    };
    site.points.note(None, None);
    let server = site.serve(true);
    assert_eq!(server.stop().0, Some(0));
    compare("serve");
    let _server = site.serve(false);
    for version in ["1", "2"] {
        run(&mut site.command(Act::Apply(version), false)).ok();
    }
    for (act, command) in [(Act::Apply("3"), "apply"), (Act::Back, "rollback")] {
        site.points.note(None, None);
        run(&mut site.command(act, true)).ok();
        compare(command);
    }
    let mut older = site.command(Act::Keeping("1"), false);
    run(older.args(["--allow-downgrade", "so that one is to go"])).ok();
    site.points.note(None, None);
    run(&mut site.command(Act::Gc, true)).ok();
    compare("gc");
    if std::env::var_os("FLEETPACK_UPDATE").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md"), &text).unwrap();
    }
    let said = architecture();
    let differ = said.lines().zip(text.lines()).find(|(said, is)| said != is);
    assert!(said == text, "ARCHITECTURE.md, first: {differ:?}; FLEETPACK_UPDATE=1 sets it right");
}
