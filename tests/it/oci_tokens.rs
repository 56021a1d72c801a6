//! Token servers that fail half way or answer nonsense, tokens that end in the middle of a download,
//! registries that say when to come back, and credential helpers that never answer.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use fleetpack::model::{ErrorClass, Progress};
use fleetpack::oci::{BlobSource as _, OciError};

use crate::oci_lies::{download, entry, image, layer, login, manifest_of, range, registry, says};
use crate::support::command::run;
use crate::support::liar::{Asked, Body, Liar, Notes, Reply};

/// A registry that wants a token of `tokens`, and answers those who have one with `answer`.
fn guarded(tokens: &Liar, answer: impl Fn(&Asked, &str) -> Option<Reply> + Send + Sync + 'static) -> Liar {
    let realm = format!("http://{}/token", tokens.host());
    Liar::start(move |asked, _| {
        let token = asked.header("authorization").and_then(|text| text.strip_prefix("Bearer "));
        token.and_then(|token| answer(asked, token)).unwrap_or_else(|| {
            Reply::new(401, Body::Whole(Vec::new()))
                .header("www-authenticate", format!(r#"Bearer realm="{realm}",service="registry""#))
        })
    })
}

/// Asks a guarded registry for its manifest, with a token server that answers so.
async fn with_tokens(
    answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
) -> (Result<(), OciError>, usize, Vec<String>) {
    let tokens = Liar::start(answer);
    let liar = guarded(&tokens, |_, token| (token == "good").then(|| Reply::ok(manifest_of(b"x"))));
    let folder = tempfile::tempdir().unwrap();
    let notes = Arc::new(Notes::default());
    let client = registry(|options| {
        options.credentials = login(folder.path(), &liar.host());
        options.progress = Arc::clone(&notes) as Arc<dyn Progress>;
    });
    let outcome = client.manifest(&image(&liar)).await.map(|_| ());
    (outcome, tokens.asked().len(), notes.lines())
}

const GOOD: &str = r#"{"token":"good","expires_in":60}"#;

#[tokio::test]
async fn token_servers_that_fail_half_way_are_asked_again() {
    let cut =
        || Reply::new(200, Body::Cut(GOOD.as_bytes()[..9].to_vec())).header("content-length", GOOD.len());
    let (outcome, asked, _) =
        with_tokens(move |_, before| if before == 0 { cut() } else { Reply::ok(GOOD) }).await;
    outcome.unwrap();
    assert_eq!(asked, 2);
    let (outcome, asked, _) = with_tokens(move |_, before| match before {
        0 => Reply::new(503, Body::Whole(b"overloaded".to_vec())),
        _ => Reply::ok(GOOD),
    })
    .await;
    outcome.unwrap();
    assert_eq!(asked, 2);

    let (outcome, asked, _) = with_tokens(move |_, _| cut()).await;
    let error = outcome.unwrap_err();
    says(&error.to_string(), &["no answer from `127.0.0.1` for a token for `127.0.0.1:", "/shop/web`"]);
    assert_eq!((error.class(), asked), (ErrorClass::Failed, 3), "as many attempts as the policy has");
    let (outcome, _, _) = with_tokens(|_, _| Reply::new(503, Body::Whole(b"overloaded".to_vec()))).await;
    says(
        &outcome.unwrap_err().to_string(),
        &["answered a token for `127.0.0.1:", "503 Service Unavailable (overloaded)"],
    );
}

#[tokio::test]
async fn what_is_no_token_is_refused_without_showing_it() {
    for (body, kind, parts) in [
        ("s3cret", "application/json", &["against the protocol: its answer holds no token"][..]),
        (r#"{"token":7,"s3cret":1}"#, "application/json", &["its answer holds no token"]),
        (r#"{"s3cret":"x"}"#, "application/json", &["its answer holds no token"]),
        (r#"{"token":""}"#, "application/json", &["its answer holds no token"]),
        (
            r#"{"token":"s3cret\nX-Evil: 1"}"#,
            "application/json",
            &["the login holds characters that no header takes"],
        ),
        ("<html>s3cret</html>", "text/html", &["an HTML page (status 200), wanted a token in JSON"]),
        // A token that the registry does not take.
        (r#"{"token":"s3cret"}"#, "application/json", &["401 Unauthorized"]),
    ] {
        let (outcome, asked, _) = with_tokens(move |_, _| Reply::ok(body).header("content-type", kind)).await;
        let error = outcome.unwrap_err().to_string();
        says(&error, parts);
        assert!(!error.contains("s3cret") && asked <= 2, "{asked}: {error}");
    }
    let (outcome, ..) = with_tokens(|_, _| Reply::new(200, Body::Endless)).await;
    says(&outcome.unwrap_err().to_string(), &["is larger than 1048576 bytes"]);
    let (outcome, asked, _) = with_tokens(|_, _| Reply::new(403, Body::Whole(Vec::new()))).await;
    says(
        &outcome.unwrap_err().to_string(),
        &["403 Forbidden (from the token server `127.0.0.1`)", "(found there)"],
    );
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn a_token_that_ends_in_the_middle_of_a_download() {
    let bytes = layer();
    let content = bytes.clone();
    let tokens = Liar::start(|_, before| Reply::ok(format!(r#"{{"access_token":"{before}"}}"#)));
    let liar = guarded(&tokens, move |asked, token| match (token, range(asked)) {
        ("0", None) => Some(
            Reply::new(200, Body::Cut(content[..100_000].to_vec())).header("content-length", content.len()),
        ),
        ("1", Some(from)) => Some(
            Reply::new(206, Body::Whole(content[from..].to_vec()))
                .header("content-range", format!("bytes {from}-{}/{}", content.len() - 1, content.len())),
        ),
        // The first token takes nobody further.
        _ => None,
    });
    let folder = tempfile::tempdir().unwrap();
    let client = registry(|options| options.credentials = login(folder.path(), &liar.host()));
    let (got, outcome) = download(&client, &image(&liar), &entry(&bytes)).await;
    outcome.unwrap();
    assert!(got == bytes, "the bytes differ");
    let sent: Vec<_> = liar
        .asked()
        .iter()
        .map(|asked| (asked.header("authorization").unwrap_or("-").to_owned(), range(asked)))
        .collect();
    let bearer = |n: u8| format!("Bearer {n}");
    assert_eq!(
        sent,
        [("-".to_owned(), None), (bearer(0), None), (bearer(0), Some(100_000)), (bearer(1), Some(100_000))]
    );
}

#[tokio::test]
async fn when_to_come_back_is_believed_within_bounds() {
    let busy = |value: &'static str| {
        move |_: &Asked, before: usize| match before {
            0 => Reply::new(429, Body::Whole(b"slow down".to_vec())).header("retry-after", value),
            _ => Reply::ok(manifest_of(b"x")),
        }
    };
    // The client of these tests waits for two seconds at most.
    for (value, wait) in [
        ("1", "in 1.0 s"),
        ("86400", "in 2.0 s"),
        ("Sun, 01 Jan 2090 00:00:00 GMT", "in 2.0 s"),
        ("Sat, 01 Jan 2000 00:00:00 GMT", "in 0.0 s"),
        ("18446744073709551616", "in 0.0 s"),
        ("soon", "in 0.0 s"),
    ] {
        let liar = Liar::start(busy(value));
        let notes = Arc::new(Notes::default());
        let client = registry(|options| options.progress = Arc::clone(&notes) as Arc<dyn Progress>);
        client.manifest(&image(&liar)).await.unwrap();
        let lines = notes.lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        says(&lines[0], &["429 Too Many Requests (slow down)", "attempt 2 of 3", wait]);
    }
    // A token server may be as busy.
    let (outcome, asked, lines) = with_tokens(|_, before| match before {
        0 => Reply::new(429, Body::Whole(Vec::new())).header("retry-after", "0"),
        _ => Reply::ok(GOOD),
    })
    .await;
    outcome.unwrap();
    assert_eq!((asked, lines.len()), (2, 1), "{lines:?}");
}

#[tokio::test]
async fn downloads_wait_as_they_are_told_and_share_one_token() {
    let bytes = layer();
    let content = bytes.clone();
    let tokens = Liar::start(|_, _| Reply::ok(GOOD));
    let busy = std::sync::atomic::AtomicBool::new(true);
    let liar = guarded(&tokens, move |asked, token| {
        if token != "good" {
            return None;
        }
        if asked.path.contains("/manifests/") {
            return Some(Reply::ok(manifest_of(b"x")));
        }
        let busy = busy.swap(false, std::sync::atomic::Ordering::Relaxed);
        Some(if busy {
            Reply::new(429, Body::Whole(Vec::new())).header("retry-after", "1")
        } else {
            Reply::ok(content.clone())
        })
    });
    let notes = Arc::new(Notes::default());
    let client = registry(|options| options.progress = Arc::clone(&notes) as Arc<dyn Progress>);
    let name = image(&liar);
    let many = (0..8).map(|_| client.manifest(&name));
    for outcome in futures_util::future::join_all(many).await {
        outcome.unwrap();
    }
    let (got, outcome) = download(&client, &name, &entry(&bytes)).await;
    outcome.unwrap();
    assert!(got == bytes, "the bytes differ");
    let lines = notes.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    says(&lines[0], &["429 Too Many Requests", "in 1.0 s"]);
    assert_eq!(tokens.asked().len(), 1);
}

/// Through the binary: a helper that never answers is stopped, told, and what needs no login goes on.
#[test]
fn a_credential_helper_that_fails_is_told_and_what_is_public_is_still_had() {
    let folder = tempfile::tempdir().unwrap();
    let shop = crate::support::shop::Shop::new(folder.path());
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let helper = bin.join("docker-credential-keychain");
    fs::write(&helper, "#!/bin/sh\necho 'the keychain is locked'; exit 7\n").unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let docker = folder.path().join("docker");
    fs::create_dir(&docker).unwrap();
    fs::write(docker.join("config.json"), r#"{"credsStore":"keychain"}"#).unwrap();
    // This registry wants no login, so nobody is asked for one.
    let build = |output: &str| {
        let mut command = shop.fleetpack();
        let path = command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, value)| value);
        let path = format!("{}:{}", bin.display(), path.unwrap().to_str().unwrap());
        command.env("PATH", path).env("DOCKER_CONFIG", &docker).args(["build", "shop", "-o", output]);
        run(&mut command)
    };
    let said = build("one.tar").ok();
    assert!(!said.stderr.contains("keychain"), "{}", said.stderr);
    // This one wants a token, which it gives to everybody.
    let tokens = Liar::start(|_, _| Reply::ok(GOOD));
    let address = shop.registry.address.clone();
    let proxied = guarded(&tokens, move |asked, token| {
        (token == "good").then(|| {
            let accept = asked.header("accept").unwrap_or("*/*");
            let answer = crate::support::http::request(
                &address,
                &asked.method,
                &asked.path,
                &[("accept", accept)],
                b"",
            );
            let reply = Reply::new(answer.status, Body::Whole(answer.body.clone()));
            let reply = reply.header("content-type", answer.header("content-type"));
            if asked.method == "HEAD" {
                reply.header("content-length", answer.header("content-length"))
            } else {
                reply
            }
        })
    });
    let conf = format!(
        "[[registry]]\nprefix = \"registry.example.com\"\nlocation = \"{}/registry.example.com\"\ninsecure = true\n",
        proxied.host()
    );
    fs::write(folder.path().join("registries.conf"), conf).unwrap();
    let said = build("two.tar").ok();
    let warnings: Vec<_> =
        said.stderr.lines().filter(|line| line.contains("docker-credential-keychain")).collect();
    assert_eq!(warnings.len(), 1, "{}", said.stderr);
    says(warnings[0], &["warning: credential helper", "the keychain is locked", "asking without its login"]);
    assert!(
        fs::read(folder.path().join("one.tar")).unwrap() == fs::read(folder.path().join("two.tar")).unwrap()
    );
}
