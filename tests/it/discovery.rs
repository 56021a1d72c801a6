//! Which images are found in which shapes of objects: `testdata/discovery/NAME.yaml` holds the
//! objects, `NAME.expected` every reference with its place, and nothing else is found.
//!
//! `FLEETPACK_UPDATE=1 cargo test discovery` writes the expected files anew: read the difference.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use fleetpack::model::{ObjectId, Origin, RenderedObject, yaml};
use fleetpack::source::images::{self, Certainty};

/// The objects of a file, as rendering a `path` source gives them.
fn objects(file: &str, bytes: &[u8]) -> Vec<RenderedObject> {
    let object = |document: yaml::Document| {
        let origin = Origin { file: file.to_owned(), line: Some(document.line), ..Origin::default() };
        RenderedObject::new(ObjectId::of(&document.value).unwrap(), origin, document.value)
    };
    yaml::documents(bytes).unwrap().into_iter().map(object).collect()
}

/// What is found in a file: one line a reference.
fn table(file: &str, bytes: &[u8]) -> String {
    let mut discovery = images::discover(&objects(file, bytes));
    images::locate(&mut discovery, &mut |asked| (asked == file).then(|| bytes.to_vec()));
    let mut out = String::new();
    for found in discovery.found {
        let certainty = match found.certainty {
            Certainty::Required => "required ",
            Certainty::Candidate => "candidate",
        };
        let usage = found.usage;
        let (place, object, field) = (usage.place(), usage.object, usage.field);
        writeln!(out, "{certainty} {}\n          {place}  {object}  {field}  ({})", found.image, found.rule)
            .unwrap();
        assert!(usage.line.is_some(), "{field} has no line of its own in {file}");
    }
    for field in discovery.unresolvable {
        let usage = field.usage;
        writeln!(
            out,
            "error     {}\n          {}  {}  {}",
            field.why,
            usage.place(),
            usage.object,
            usage.field
        )
        .unwrap();
    }
    out
}

#[test]
fn each_shape_gives_exactly_its_images() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/discovery");
    let update = std::env::var_os("FLEETPACK_UPDATE").is_some();
    let (mut shapes, mut wrong) = (0, Vec::new());
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "yaml")) {
        shapes += 1;
        let file = path.file_name().unwrap().to_str().unwrap();
        let found = table(file, &fs::read(path).unwrap());
        let expected = path.with_extension("expected");
        if update {
            fs::write(&expected, &found).unwrap();
        } else {
            let wanted = fs::read_to_string(&expected).unwrap_or_default();
            if wanted != found {
                wrong.push(format!("{file}, wanted:\n{wanted}\nfound:\n{found}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(shapes >= 25, "{shapes}");
}
