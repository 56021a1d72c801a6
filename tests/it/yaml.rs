//! YAML against the real kubectl: what a text means, what is written, what is refused.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use fleetpack::model::yaml;
use serde_json::{Value, json};

use super::support::command::run;
use super::support::testbed::tool;

const HEAD: &str = "apiVersion: example.com/v1\nkind: Odd\n";

/// Scalars, set off by `¦` or the end of a line; `⏎` is a new line.
const SCALARS: &str = r#"
yes ¦ Yes ¦ YES ¦ yEs ¦ y ¦ Y ¦ n ¦ no ¦ on ¦ On ¦ off ¦ OFF ¦ true ¦ True ¦ tRUE ¦ ~ ¦ null ¦ Null
nULL ¦ nil ¦ none ¦ 0 ¦ -0 ¦ +0 ¦ 00 ¦ 0644 ¦ -0644 ¦ 0o644 ¦ 0O7 ¦ 0x1F ¦ 0X1f ¦ 0x_1F ¦ 0b101
0b-101 ¦ -0b101 ¦ 0B11 ¦ 08 ¦ 09.5 ¦ 0_8 ¦ 1_000 ¦ 1__0 ¦ _1 ¦ 1_ ¦ +12 ¦ -12 ¦ 9223372036854775807
9223372036854775808 ¦ -9223372036854775808 ¦ -9223372036854775809 ¦ 18446744073709551615
18446744073709551616 ¦ +9223372036854775808 ¦ 123456789012345678901234567890 ¦ 1.0 ¦ 1. ¦ .5 ¦ -.5
+.5 ¦ . ¦ .. ¦ + ¦ 1e3 ¦ 1E3 ¦ 1e+3 ¦ 1e-3 ¦ 12e03 ¦ 1e ¦ e1 ¦ 1.5e300 ¦ 1e308 ¦ 1e20 ¦ 1e21
123456.789 ¦ 0.1 ¦ 1e-7 ¦ 5e-324 ¦ 0x ¦ 0b ¦ 0o ¦ 0xg ¦ 1:30 ¦ 190:20:30 ¦ 1:30.5 ¦ 2001-01-01
2001-1-1 ¦ 2001-12-14t21:59:43.10-05:00 ¦ 2001-12-14 21:59:43.10 ¦ 1.2.3 ¦ 1.10 ¦ v1.10 ¦ = ¦ <
a=b ¦ .inF ¦ inf ¦ nan ¦ Infinity ¦ 0.0.0.0 ¦ 10.0.0.0/8 ¦ 1,000 ¦ 1 000 ¦ a b ¦ a:b ¦ a#b
http://x/y ¦ /a ¦ \n ¦ a\nb ¦ !!str 12 ¦ !!str yes ¦ !!int 12 ¦ !!float 12 ¦ !!bool yes ¦ 'yes'
"0644" ¦ 'it''s' ¦ "a\tb\u00e9\x41" ¦ [] ¦ {} ¦ [yes, 0o17, 'no'] ¦ {a: on, 1: ~} ¦ |⏎    yes⏎    no
|-⏎    a⏎    b ¦ >⏎    a⏎    b⏎⏎    c ¦ |+⏎    a⏎⏎ ¦ a⏎    b⏎⏎    c ¦ "a⏎    b" ¦ &x yes ¦ é ¦ 😀
'#' ¦ a # comment
"#;

/// Keys of a mapping, in the same way.
const KEYS: &str = r#"
yes ¦ NO ¦ on ¦ y ¦ 0644 ¦ 0x10 ¦ 1_0 ¦ -5 ¦ 1.5 ¦ 1.0 ¦ 1e3 ¦ 1e6 ¦ 1234567.0 ¦ 0.00001 ¦ 1e-4
16777217.5 ¦ 3.14159265358979 ¦ 2001-01-01 ¦ a b ¦ 'yes' ¦ "1" ¦ < ¦ = ¦ é ¦ / ¦ !!str 12 ¦ true
9223372036854775807 ¦ 1e300 ¦ -2.5
"#;

fn table(text: &str) -> Vec<String> {
    let cells = text.trim_matches('\n').lines().flat_map(|line| line.split(" ¦ "));
    cells.map(|cell| cell.replace('⏎', "\n")).collect()
}

/// What the real kubectl reads: it changes nothing when it is to remove an annotation that is not there.
pub(crate) fn kubectl_reads(folder: &Path) -> Vec<Value> {
    let mut command = tool("kubectl", folder);
    command.args(["annotate", "--local", "-R", "-o", "json", "none-", "-f"]).arg(folder);
    let output = run(&mut command).ok().stdout;
    let documents = serde_json::Deserializer::from_str(&output).into_iter::<Value>();
    documents.map(Result::unwrap).collect()
}

/// Go holds a number above `int64` as a float; we keep its digits.
fn as_go(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.as_i64().is_none() => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(as_go).collect(),
        Value::Object(entries) => entries.iter().map(|(key, value)| (key.clone(), as_go(value))).collect(),
        other => other.clone(),
    }
}

#[test]
fn plain_scalars_mean_what_kubectl_reads() {
    let (mut scalars, keys) = (table(SCALARS), table(KEYS));
    assert!(scalars.len() > 100 && keys.len() > 25, "{} {}", scalars.len(), keys.len());
    scalars.push(String::new());
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for (at, scalar) in scalars.iter().enumerate() {
        let _ = write!(text, "---\n{HEAD}metadata: {{name: s{at}}}\nv: {scalar}\nafter: 1\n");
    }
    for (at, key) in keys.iter().enumerate() {
        let _ = write!(text, "---\n{HEAD}metadata: {{name: k{at}}}\nv:\n  {key}: 1\n");
    }
    fs::write(folder.path().join("odd.yaml"), &text).unwrap();
    let theirs = kubectl_reads(folder.path());
    let ours = yaml::documents(text.as_bytes()).unwrap();
    assert_eq!(ours.len(), scalars.len() + keys.len());
    assert_eq!(theirs.len(), ours.len());
    for ((ours, theirs), source) in ours.iter().zip(&theirs).zip(scalars.iter().chain(&keys)) {
        assert_eq!(as_go(&ours.value["v"]), as_go(&theirs["v"]), "{source:?}");
    }
}

#[test]
fn kubectl_reads_what_is_written_as_the_same_values() {
    let pieces = [
        "",
        "a",
        " ",
        "\n",
        "\t",
        "\r",
        ":",
        "#",
        "-",
        "?",
        "|",
        ">",
        "'",
        "\"",
        "\\",
        "%",
        "@",
        "`",
        "!",
        "&",
        "*",
        "[",
        "{",
        "}",
        ",",
        "~",
        "<<",
        "---",
        "...",
        "yes",
        "No",
        "null",
        "0",
        "0x1F",
        "1e3",
        ".5",
        "2001-01-01",
        "1:30",
        "=",
        "\u{0}",
        "\u{7f}",
        "\u{85}",
        "\u{a0}",
        "\u{2028}",
        "\u{feff}",
        "\u{e000}",
        "é",
        "\u{1f600}",
        ": ",
        " #",
        "- ",
        "\n\n",
        "  \n",
    ];
    let mut strings = BTreeSet::new();
    for first in pieces {
        for second in pieces {
            strings.insert(format!("{first}{second}"));
            strings.insert(format!("{first}\nx{second}\n"));
            strings.insert(format!("x{first}\n{second}y"));
        }
    }
    strings.insert("k".repeat(2000));
    let strings: Vec<_> = strings.into_iter().collect();
    let mut written = Vec::new();
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for (at, chunk) in strings.chunks(200).enumerate() {
        let map: serde_json::Map<_, _> =
            chunk.iter().map(|s| (s.clone(), json!([s, {s.as_str(): s}]))).collect();
        let value = json!({
            "apiVersion": "example.com/v1", "kind": "Odd", "metadata": {"name": format!("w{at:03}")},
            "v": map,
            "w": [[[]], [{}], [[1, 2]], null, 0.1, -1e-9, 1e300, i64::MIN, i64::MAX, {"a": {"b": {}}}],
        });
        let _ = write!(text, "---\n{}", yaml::to_string(&value));
        written.push(value);
    }
    fs::write(folder.path().join("odd.yaml"), &text).unwrap();
    let read = kubectl_reads(folder.path());
    assert_eq!(read.len(), written.len());
    for (read, written) in read.iter().zip(&written) {
        for (key, value) in written["v"].as_object().unwrap() {
            assert_eq!(read["v"].get(key), Some(value), "{key:?}");
        }
        assert_eq!(read["w"], written["w"]);
    }
}

#[test]
fn what_kubectl_refuses_is_refused() {
    let head = format!("{HEAD}metadata: {{name: x}}\n");
    // Texts, and whether we refuse more than kubectl does, with the reason.
    let texts: &[(&str, bool)] = &[
        ("v: -\n", false),
        ("v: - a\n", false),
        ("v: a: b\n", false),
        ("v: [a\n", false),
        ("v: {a: b\n", false),
        ("v: 'a\n", false),
        ("v: *none\n", false),
        ("v: \"\\q\"\n", false),
        ("v:\n\ta: 1\n", false),
        ("v:\n  a: 1\n b: 2\n", false),
        ("v:\n a: 1\n  b: 2\n", false),
        ("v:\n  - a\n - b\n", false),
        ("- v\n", false),
        ("v: @a\n", false),
        ("v: `a\n", false),
        ("v: %a\n", false),
        ("v: ]\n", false),
        ("v: &a *a\n", false),
        ("v: !!int x\n", false),
        ("v: !!bool 1\n", false),
        ("v: .inf\n", false),
        ("v: .nan\n", false),
        ("v: {~: 1}\n", false),
        ("v: {[a]: 1}\n", false),
        ("v: {18446744073709551615: 1}\n", false),
        ("v: |x\n  a\n", false),
        ("v: >\n\ta\n", false),
        ("v: \u{7}\n", false),
        ("<<: a\n", false),
        ("<<: [a]\n", false),
        ("v: 1\nv: 2\n", true),
        ("v: {a: 1, a: 2}\n", true),
        ("v: {1: a, '1': b}\n", true),
        ("v: !mine a\n", true),
        ("v: {a: 1, <<: {a: 2}}\n", true),
    ];
    let mut wrong = Vec::new();
    for (text, stricter) in texts {
        let whole = format!("{head}{text}");
        if yaml::documents(whole.as_bytes()).is_ok() {
            wrong.push(format!("{text:?} is accepted"));
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("odd.yaml"), &whole).unwrap();
        let mut command = tool("kubectl", folder.path());
        let ended =
            run(command.args(["annotate", "--local", "-o", "json", "none-", "-f"]).arg(folder.path()));
        if (ended.code == 0) != *stricter {
            wrong.push(format!("{text:?}: kubectl says {} {}", ended.code, ended.stderr));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
