//! `fleetpack render` as people and programs see it, and trees that are too much.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use fleetpack::model::yaml;

use super::render::{Tree, copy};
use super::support::command::{fleetpack, run};
use super::support::repository::Repository;
use super::support::testbed::testbed;

/// A committed copy of `testdata/NAME`.
fn committed(name: &str, folder: &Path) -> Repository {
    let repository = Repository::init(&folder.join(name));
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name), &repository.path);
    repository.commit("all of it");
    repository
}

#[test]
fn every_format_is_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let repository = committed("mixed", folder.path());
    let bin = testbed(&["peers", "helm"]).join("bin");
    for (format, file) in [("text", "render.txt"), ("json", "render.json"), ("yaml", "render.yaml")] {
        let mut command = fleetpack(folder.path());
        command.env("PATH", &bin).arg("render").arg(&repository.path).args(["--format", format]);
        let ended = run(&mut command).ok();
        assert_eq!(ended.stderr, "13 objects, 2 of them not applied\n");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/snapshots").join(file);
        if std::env::var_os("FLEETPACK_UPDATE").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &ended.stdout).unwrap();
        }
        let wanted = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(ended.stdout, wanted, "write it anew with FLEETPACK_UPDATE=1 if it is right");
        if format == "yaml" {
            assert_eq!(yaml::documents(ended.stdout.as_bytes()).unwrap().len(), 13);
        }
    }
}

#[test]
fn what_cannot_be_rendered_ends_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let repository = committed("mixed", folder.path());
    let render = |revision: &str| {
        let mut command = fleetpack(folder.path());
        // Git and nothing that renders.
        let programs = folder.path().join("programs");
        fs::create_dir_all(&programs).unwrap();
        command.env("PATH", &programs).arg("render").arg(&repository.path).args(["--revision", revision]);
        run(&mut command)
    };
    render("HEAD")
        .refused(1, &["`charts/shop` is a Helm chart, and there is no `helm`", "help: install Helm 3 or 4"]);
    fs::remove_dir_all(repository.path.join("charts")).unwrap();
    repository.commit("no chart");
    render("HEAD").refused(4, &["the source `helm: charts/shop` of `fleetpack.yaml` wants `charts/shop`"]);
    render("none").refused(1, &["none"]);
}

const HEAD: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ";

#[test]
fn anchors_that_explode_are_refused_with_their_line() {
    let mut text = format!("{HEAD}bomb}}\ndata:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..=9 {
        let before = level - 1;
        let list = vec![format!("*a{before}"); 10].join(", ");
        writeln!(text, "  a{level}: &a{level} [{list}]").unwrap();
    }
    let tree = Tree::new(&[("deploy/bomb.yaml", &text)]);
    tree.refused(&["deploy/bomb.yaml:", "alias"]);
}

#[test]
fn a_hundred_thousand_documents_are_read_and_one_more_is_not() {
    let mut text = String::new();
    for number in 0..100_000 {
        writeln!(text, "{HEAD}n{number}}}\n---").unwrap();
    }
    let tree = Tree::new(&[("a.yaml", &text)]);
    let objects = tree.objects();
    assert_eq!(objects.len(), 100_000);
    assert_eq!(objects[99_999].origin.to_string(), "a.yaml:399997");
    tree.write("b.yaml", &format!("{HEAD}last}}\n"));
    tree.refused(&["more than 100000 objects"]);
}

#[test]
fn objects_that_no_cluster_takes_are_refused_by_name() {
    let line = "0123456789abcdef".repeat(8);
    let block = format!("  blob: |\n{}", format!("    {line}\n").repeat((50 << 20) / 133));
    let tree = Tree::new(&[("huge.yaml", &format!("# large\n{HEAD}huge}}\ndata:\n{block}"))]);
    tree.refused(&[
        "huge.yaml:2: ConfigMap huge has 5",
        "bytes of data, and Kubernetes takes at most 1048576",
    ]);
    tree.write("huge.yaml", &format!("{HEAD}huge}}\ndata:\n{block}{}", block.replace("blob", "more")));
    tree.refused(&["`huge.yaml` has more than 67108864 bytes"]);
}
