//! Bases of a kustomization in other repositories, served by the real git: pinned ones are taken, and
//! nothing else is.

use std::fs;

use fleetpack::model::ErrorClass;

use super::render::{Tree, place, tools};
use super::support::githost::GitHost;
use super::support::repository::Repository;

struct Team {
    folder: tempfile::TempDir,
    work: Repository,
    commit: String,
    host: GitHost,
}

impl Team {
    /// A host with `team/base.git`, whose second commit differs from its first.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let work = Repository::init(&folder.path().join("work"));
        work.write("deploy/web/kustomization.yaml", "resources: [web.yaml, ../common]\n");
        work.write(
            "deploy/web/web.yaml",
            "# The web.\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {n: first}\n",
        );
        work.write("deploy/common/kustomization.yaml", "resources: [c.yaml]\n");
        work.write("deploy/common/c.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: common}\n");
        work.write("deploy/extra/kustomization.yaml", "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\ncommonAnnotations: {extra: taken}\n");
        work.write("outside/kustomization.yaml", "resources: [/etc]\n");
        let commit = work.commit("First");
        work.write("deploy/web/web.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: later}\n");
        work.commit("Second");
        let bare = folder.path().join("host/team/base.git");
        work.git(&["clone", "--quiet", "--bare", ".", bare.to_str().unwrap()]);
        let host = GitHost::new(&folder.path().join("host"));
        Self { folder, work, commit, host }
    }

    fn base(&self, folder: &str) -> String {
        format!("{}/team/base.git//{folder}?ref={}", self.host.endpoint, self.commit)
    }
}

#[test]
fn a_pinned_base_is_taken_and_its_objects_say_where_they_come_from() {
    let team = Team::new();
    let overlay = format!(
        "# ours\nnamespace: shop\nresources:\n- own.yaml\n- {}\n- {}\ncomponents: ['{}']\n",
        team.base("deploy/web"),
        "../inner",
        team.base("deploy/extra")
    );
    let own = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own}\n";
    let tree = Tree::new(&[
        (
            "fleetpack.yaml",
            "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: x}\nsources: [{kustomize: site}]\n",
        ),
        ("site/kustomization.yaml", &overlay),
        ("site/own.yaml", own),
        ("inner/kustomization.yaml", "resources: [i.yaml]\n"),
        ("inner/i.yaml", "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: inner}\n"),
    ]);
    let (objects, lines) = tree.render(&tools());
    let objects = objects.unwrap();
    let url = format!("{}/team/base.git", team.host.endpoint);
    let at = format!("?ref={}", team.commit);
    assert_eq!(place(&objects, "ConfigMap shop/web"), format!("{url}//deploy/web/web.yaml{at}:3"));
    assert_eq!(place(&objects, "Secret shop/common"), format!("{url}//deploy/common/c.yaml{at}:1"));
    assert_eq!(place(&objects, "ConfigMap shop/own"), "site/own.yaml:1");
    assert_eq!(place(&objects, "ServiceAccount shop/inner"), "inner/i.yaml:1");
    assert_eq!(objects.len(), 4);
    assert!(objects.iter().all(|object| object.value["metadata"]["annotations"]["extra"] == "taken"));
    let taken = lines
        .iter()
        .filter(|line| line.contains(&format!("taking the base `{url}` at commit {}", team.commit)));
    assert_eq!(taken.count(), 1, "fetched once: {lines:?}");
    let after = fs::read_to_string(tree.path().join("site/kustomization.yaml")).unwrap();
    assert_eq!(after, overlay, "the tree is the revision's again");

    // A base of a base, in another repository; kubectl's own kustomize takes it as well.
    let outer = Repository::init(&team.folder.path().join("outer"));
    outer.write(
        "kustomization.yaml",
        format!("namePrefix: deep-\nresources: ['{}']\n", team.base("deploy/common")),
    );
    let commit = outer.commit("Outer");
    outer.git(&[
        "clone",
        "--quiet",
        "--bare",
        ".",
        team.folder.path().join("host/outer.git").to_str().unwrap(),
    ]);
    let tree = Tree::new(&[(
        "kustomization.yaml",
        &format!("resources: ['{}/outer.git?ref={commit}']\n", team.host.endpoint),
    )]);
    let objects = tree.objects();
    assert_eq!(place(&objects, "Secret deep-common"), format!("{url}//deploy/common/c.yaml{at}:1"));
    let with_kubectl = fleetpack::source::render::RenderTools { kustomize: None, ..tools() };
    assert_eq!(tree.render(&with_kubectl).0.unwrap(), objects);
}

#[test]
fn what_is_not_pinned_not_there_or_leads_on_is_refused() {
    let team = Team::new();
    let with = |entry: &str, parts: &[&str]| {
        Tree::new(&[("kustomization.yaml", &format!("# site\nresources:\n- {entry}\n"))]).refused(parts)
    };
    let url = format!("{}/team/base.git", team.host.endpoint);
    let error = with(
        &format!("{url}//deploy/web?ref=main"),
        &["kustomization.yaml:3: `resources` names", "?ref=main`, which is not pinned to a commit"],
    );
    assert!(error.hint().unwrap().contains(&format!("write `{url}//deploy/web?ref=COMMIT`")), "{error:?}");
    assert_eq!(error.class(), ErrorClass::Incomplete);
    with(&format!("{url}//deploy/web"), &["kustomization.yaml:3", "not pinned to a commit"]);
    with(&format!("{}/raw/web.yaml", team.host.endpoint), &["is a file outside the revision"]);
    with(&format!("{url}//deploy/none?ref={}", team.commit), &["wants a folder by", "deploy/none"]);
    with(
        &format!("{url}//outside?ref={}", team.commit),
        &["outside/kustomization.yaml?ref=", "`/etc`, which lies outside"],
    );
    let absent = "0123456789abcdef0123456789abcdef01234567";
    let error =
        with(&format!("{url}//deploy/web?ref={absent}"), &["kustomization.yaml: cannot take the base"]);
    assert!(fleetpack::model::chain(&error).contains(absent), "{}", fleetpack::model::chain(&error));

    // Only what is built of: the output of programs elsewhere is not.
    Tree::new(&[("kustomization.yaml", &format!("generators: ['{}']\n", team.base("deploy/web")))])
        .refused(&["kustomization.yaml:1: `generators` names", "lies outside the revision"]);

    // A base that is not pinned in a base that is.
    team.work
        .write("deploy/web/kustomization.yaml", format!("resources: ['{url}//deploy/common?ref=main']\n"));
    let commit = team.work.commit("Third");
    team.work.git(&[
        "push",
        "--quiet",
        team.folder.path().join("host/team/base.git").to_str().unwrap(),
        "main",
    ]);
    with(
        &format!("{url}//deploy/web?ref={commit}"),
        &["kustomization.yaml?ref=", ":1: `resources`", "not pinned to a commit"],
    );
}
