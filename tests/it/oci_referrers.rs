//! What registries say refers to an image: over pages, wrongly, without an end; and how often they
//! are asked.

use std::collections::HashMap;
use std::sync::Arc;

use fleetpack::model::config::Referrers;
use fleetpack::model::{Digest, ErrorClass, media_type};
use fleetpack::oci::{Extent, OciError, ResolvedImage, Sources, resolve};

use crate::oci_lies::{image, manifest_of, registry, says};
use crate::support::layout::Layout;
use crate::support::liar::{Asked, Body, Liar, Notes, Reply};

const SBOM: &str = "application/vnd.example.sbom";

/// A manifest of kind `kind` that refers to `subject`.
fn referrer(subject: &[u8], kind: &str) -> Vec<u8> {
    let (empty, of) = (media_type::EMPTY, Digest::of(subject));
    let config = format!(r#"{{"mediaType":"{empty}","digest":"{}","size":2}}"#, Digest::of(b"{}"));
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","artifactType":"{kind}","config":{config},"layers":[],"subject":{{"mediaType":"{}","digest":"{of}","size":{}}}}}"#,
        media_type::OCI_MANIFEST,
        media_type::OCI_MANIFEST,
        subject.len()
    )
    .into_bytes()
}

/// An index of these manifests, as the referrers API answers it.
fn list(manifests: &[&[u8]]) -> Vec<u8> {
    let entry = |bytes: &&[u8]| {
        let digest = Digest::of(bytes);
        format!(
            r#"{{"mediaType":"{}","digest":"{digest}","size":{}}}"#,
            media_type::OCI_MANIFEST,
            bytes.len()
        )
    };
    let entries: Vec<String> = manifests.iter().map(entry).collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#,
        media_type::OCI_INDEX,
        entries.join(",")
    )
    .into_bytes()
}

fn page(manifests: &[&[u8]]) -> Reply {
    Reply::ok(list(manifests)).header("content-type", media_type::OCI_INDEX)
}

/// A registry that holds `manifests`, the first under the tag `1` and others under `tags`, and
/// leaves what the referrers API answers to `api`.
fn shelf(
    manifests: &[Vec<u8>],
    tags: &[(String, Vec<u8>)],
    api: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
) -> Liar {
    let mut held: HashMap<String, Vec<u8>> = manifests
        .iter()
        .chain(tags.iter().map(|(_, bytes)| bytes))
        .map(|bytes| (Digest::of(bytes).to_string(), bytes.clone()))
        .collect();
    held.insert("1".to_owned(), manifests[0].clone());
    held.extend(tags.iter().cloned());
    Liar::start(move |asked, before| {
        if asked.path.contains("/referrers/") {
            return api(asked, before);
        }
        let found = held.get(asked.path.rsplit('/').next().unwrap());
        found
            .filter(|_| asked.path.contains("/manifests/"))
            .map_or_else(Reply::not_found, |bytes| Reply::ok(bytes.clone()).without("content-type"))
    })
}

async fn take(liar: &Liar, referrers: Referrers) -> (Result<ResolvedImage, OciError>, Vec<String>) {
    let notes = Notes::default();
    let sources = Sources::new(vec![Arc::new(registry(|_| {}))]);
    let extent = Extent { referrers, ..Extent::default() };
    let outcome = resolve(&sources, &image(liar), extent, &notes).await;
    (outcome, notes.lines())
}

fn digests(found: &ResolvedImage) -> Vec<Digest> {
    found.entry.referrers.iter().map(|entry| entry.digest).collect()
}

#[tokio::test]
async fn pages_are_followed_and_no_list_is_believed() {
    let web = manifest_of(b"web");
    let (one, two) = (referrer(&web, SBOM), referrer(&web, "application/vnd.cncf.notary.signature"));
    let (stray, gone) = (referrer(b"another image", SBOM), referrer(&web, "application/vnd.example.gone"));
    let about = referrer(&one, SBOM);
    let lists = [web.clone(), one.clone(), two.clone(), stray.clone(), gone.clone(), about.clone()];
    let api = move |asked: &Asked, _: usize| {
        let [web, one, two, stray, gone, about] = &lists;
        let of = |bytes: &[u8]| asked.path.contains(&Digest::of(bytes).to_string());
        match (of(web), asked.path.contains("?page=2")) {
            (true, false) => {
                page(&[one, stray]).header("link", format!("<{}?page=2>; rel=\"next\"", asked.path))
            }
            (true, true) => page(&[two, gone, one]),
            // In a ring: what refers to the SBOM is referred to by the image, as it says.
            _ if of(one) => page(&[about, one, web]),
            _ => page(&[]),
        }
    };
    let held = [web.clone(), one.clone(), two.clone(), stray.clone(), about.clone()];
    let liar = shelf(&held, &[], api);
    let (found, notes) = take(&liar, Referrers::All).await;
    let found = found.unwrap();
    let mut direct = [Digest::of(&one), Digest::of(&two)];
    direct.sort();
    assert_eq!(digests(&found), [&direct[..], &[Digest::of(&about)]].concat());
    assert_eq!(found.entry.referrers[2].subject, Digest::of(&one));
    let told = notes.join("\n");
    says(
        &told,
        &[&format!("@{}` is listed as referring to", Digest::of(&stray)), "but it does not: left out"],
    );
    says(&told, &[&format!("@{}` is listed as referring to", Digest::of(&gone)), "but it is not there"]);

    let (found, _) = take(&liar, Referrers::Signatures).await;
    assert_eq!(digests(&found.unwrap()), [Digest::of(&two)]);
    let before = liar.asked().len();
    let (found, _) = take(&liar, Referrers::None).await;
    assert_eq!(digests(&found.unwrap()), []);
    assert_eq!(liar.asked().len() - before, 1, "the manifest, and nothing about it");
}

#[tokio::test]
async fn what_cannot_be_asked_fails_and_does_not_count_as_nothing() {
    let web = manifest_of(b"web");
    for (status, words) in [(500, "500 Internal Server Error"), (403, "403 Forbidden")] {
        let liar =
            shelf(std::slice::from_ref(&web), &[], move |_, _| Reply::new(status, Body::Whole(Vec::new())));
        let (outcome, _) = take(&liar, Referrers::All).await;
        says(&outcome.unwrap_err().to_string(), &["what refers to `127.0.0.1:", words]);
    }
    let liar = shelf(std::slice::from_ref(&web), &[], |asked, _| {
        page(&[]).header("link", format!("<{}x>; rel=\"next\"", asked.path))
    });
    let (outcome, _) = take(&liar, Referrers::All).await;
    says(&outcome.unwrap_err().to_string(), &["more than 64 pages of referrers"]);
    let liar = shelf(std::slice::from_ref(&web), &[], |_, _| {
        page(&[])
            .header("link", "</v2/shop/web/referrers/x?n=1>; rel=\"next\"")
            .header("content-type", "text/html")
    });
    // No list at all counts as no API: the tags are asked for instead.
    let (outcome, _) = take(&liar, Referrers::All).await;
    assert_eq!(digests(&outcome.unwrap()), []);
    // A tag of the schema that is no list.
    let tag = format!("sha256-{}", Digest::of(&web).hex());
    let liar = shelf(std::slice::from_ref(&web), &[(tag.clone(), manifest_of(b"no list"))], |_, _| {
        Reply::not_found()
    });
    let (outcome, _) = take(&liar, Referrers::All).await;
    assert_eq!(digests(&outcome.unwrap()), []);
}

#[tokio::test]
async fn a_registry_without_the_api_is_asked_for_it_once() {
    let web = manifest_of(b"web");
    let sbom = referrer(&web, SBOM);
    let signature = manifest_of(b"a signature of the SBOM");
    let tag = |bytes: &[u8], suffix: &str| format!("sha256-{}{suffix}", Digest::of(bytes).hex());
    let tags = [(tag(&web, ""), list(&[&sbom])), (tag(&sbom, ".sig"), signature.clone())];
    let liar = shelf(&[web.clone(), sbom.clone()], &tags, |_, _| Reply::not_found());
    let (found, _) = take(&liar, Referrers::All).await;
    let found = found.unwrap();
    assert_eq!(digests(&found), [Digest::of(&sbom), Digest::of(&signature)]);
    assert_eq!(found.entry.referrers[1].tag.as_deref(), Some(tags[1].0.as_str()));
    let asked = liar.asked();
    assert_eq!(asked.iter().filter(|asked| asked.path.contains("/referrers/")).count(), 1);
    // Of three manifests: the list under its tag, and three tags of cosign's, each by HEAD alone
    // where nothing is there.
    assert_eq!(asked.iter().filter(|asked| asked.method == "HEAD").count(), 3 * 4);
}

#[tokio::test]
async fn what_refers_to_what_refers_ends() {
    let chain = |length: usize| {
        let mut all = vec![manifest_of(b"web")];
        for _ in 0..length {
            all.push(referrer(all.last().unwrap(), SBOM));
        }
        let answers = all.clone();
        shelf(&all, &[], move |asked, _| {
            let of = answers.iter().position(|bytes| asked.path.contains(&Digest::of(bytes).to_string()));
            let next = of.and_then(|of| answers.get(of + 1));
            next.map_or_else(|| page(&[]), |next| page(&[next]))
        })
    };
    let (found, _) = take(&chain(8), Referrers::All).await;
    assert_eq!(digests(&found.unwrap()).len(), 8);
    let (outcome, _) = take(&chain(9), Referrers::All).await;
    let error = outcome.unwrap_err();
    says(&error.to_string(), &["manifests refer to each other more than 8 deep", "`images.referrers`"]);
    assert_eq!(error.class(), ErrorClass::Failed);
    let (found, _) = take(&chain(9), Referrers::None).await;
    assert_eq!(digests(&found.unwrap()).len(), 0);
}

/// A layout's index lists manifests that nobody names: what they refer to says that they belong.
#[tokio::test]
async fn signatures_of_an_image_in_a_layout() {
    let folder = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(folder.path());
    let web = layout.image(&[], "{}", "");
    layout.name(&web, "a.example.com/x:1");
    let found = layout.take("a.example.com/x:1", &[]).await.unwrap();
    assert_eq!(found.entry.referrers, []);
    let about = found.manifests[0].bytes.clone();
    for kind in [SBOM, "application/vnd.cncf.notary.signature"] {
        let described = layout.blob(media_type::OCI_MANIFEST, &referrer(&about, kind), "");
        layout.name(&described, kind);
    }
    let found = layout.take("a.example.com/x:1", &[]).await.unwrap();
    assert_eq!(found.entry.referrers.len(), 2, "{:?}", found.entry.referrers);
}
