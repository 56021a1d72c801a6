//! What the documents claim about the program is what the program is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// What stands between backticks in the first cell of each row of the table below `heading`.
fn first_cells(text: &str, heading: &str) -> BTreeSet<String> {
    let (_, section) = text.split_once(heading).unwrap();
    let rows =
        section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| row.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[test]
fn the_architecture_says_why_each_dependency_is_there() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let mut declared = BTreeSet::new();
    for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let names = manifest.get(table).and_then(toml::Value::as_table).into_iter().flatten();
        declared.extend(names.map(|(name, _)| name.clone()));
    }
    assert_eq!(first_cells(&read("ARCHITECTURE.md"), "## Direct dependencies"), declared);
}

#[test]
fn every_dependency_is_used() {
    fn sources(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut text = String::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let unused: Vec<&String> = manifest["dependencies"]
        .as_table()
        .unwrap()
        .keys()
        // It gives `kube` the version of the API that it speaks.
        .filter(|name| *name != "k8s-openapi")
        .filter(|name| {
            let path = name.replace('-', "_");
            let word = |c: char| c.is_alphanumeric() || c == '_';
            !text.match_indices(&format!("{path}::")).any(|(at, _)| !text[..at].ends_with(word))
        })
        .collect();
    assert!(unused.is_empty(), "{unused:?}");
}

#[test]
fn the_architecture_names_each_room() {
    let rooms: BTreeSet<String> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert_eq!(first_cells(&read("ARCHITECTURE.md"), "| room | purpose | never |"), rooms);
}

#[test]
fn the_exit_codes_are_those_of_the_program() {
    let documented: Vec<String> = read("docs/formats.md")
        .split_once("## Exit codes")
        .unwrap()
        .1
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "))
        .filter(|(code, _)| code.parse::<u8>().is_ok())
        .map(|(code, meaning)| format!("  {code}  {meaning}"))
        .collect();
    let told: Vec<String> = fleetpack::cli::exit::TABLE.lines().skip(1).map(str::to_owned).collect();
    assert_eq!(documented, told);
}

#[test]
fn the_commands_in_the_documents_are_commands() {
    let mut count = 0;
    for name in ["README.md", "docs/formats.md"] {
        for line in read(name).lines().filter_map(|line| line.trim().strip_prefix("$ fleetpack ")) {
            let line = line.split(" #").next().unwrap().trim_end_matches('&').trim();
            let words = std::iter::once("fleetpack").chain(line.split_whitespace());
            if let Err(error) = fleetpack::cli::command().try_get_matches_from(words) {
                panic!("{name}: `fleetpack {line}`: {error}");
            }
            count += 1;
        }
    }
    assert!(count >= 8, "the README shows {count} commands");
}

#[test]
fn the_links_between_the_documents_lead_somewhere() {
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/formats.md"] {
        let text = read(name);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap();
            if !path.is_empty() && !link.contains("://") {
                assert!(folder.parent().unwrap().join(path).exists(), "{name} links to `{link}`");
            }
        }
    }
}
