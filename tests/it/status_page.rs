//! The page at `/` of `serve`.

use crate::support::depot::Depot;
use crate::support::http::{get, request};

#[test]
fn the_page_tells_what_the_site_holds() {
    let folder = tempfile::tempdir().unwrap();
    // No cluster is asked: the page is of the store alone.
    let mut depot = Depot::new(folder.path(), "depot-page", &folder.path().join("kubeconfig"));
    let one = depot.build("1.2.3", "");
    let host = depot.host().to_owned();
    let empty = get(&host, "/", &[]);
    assert!(String::from_utf8(empty.body).unwrap().contains("No release yet"));
    depot.apply(&one, &["--seed-only"]).ok();

    let page = get(&host, "/", &[("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")]);
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let text = String::from_utf8(page.body).unwrap();
    for part in ["depot-page 1.2.3", "registry.example.com/depot/part:1", "no cluster was touched from here"]
    {
        assert!(text.contains(part), "wanted `{part}` in:\n{text}");
    }
    for outside in ["http://", "https://", "<script", "src="] {
        assert!(!text.contains(outside), "{outside} in:\n{text}");
    }
    let head = request(&host, "HEAD", "/", &[], b"");
    assert_eq!((head.status, head.header("content-type")), (200, "text/html; charset=utf-8"));
    assert_eq!(request(&host, "POST", "/", &[], b"x").status, 405);
    assert_eq!(get(&host, "/index.php", &[]).status, 404);

    let json = get(&host, "/status.json", &[]);
    assert_eq!(json.header("content-type"), "application/json");
    let site = json.json();
    assert_eq!(site["lines"][0]["state"], "seeded", "{site}");
    assert_eq!(
        site["lines"][0]["releases"][0]["images"][0]["reference"],
        "registry.example.com/depot/part:1"
    );
    assert_eq!(site["lines"][0]["history"][0]["action"], "seed");
    let negotiated = get(&host, "/", &[("Accept", "application/json")]);
    assert_eq!(negotiated.header("content-type"), "application/json");
    assert_eq!(negotiated.json()["lines"], site["lines"]);

    // An archive has a page of its own.
    depot.silence();
    let archive = one.display().to_string();
    let server = depot.serve_archive(&archive);
    let text = String::from_utf8(get(server.host(), "/", &[]).body).unwrap();
    assert!(text.contains("straight from an archive") && text.contains("depot-page 1.2.3"), "{text}");
}
