//! Fetching over HTTP by gix: no program is run but git's own credential helpers, by git.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use gix::bstr::ByteSlice as _;
use gix::credentials::helper::Action;
use gix::credentials::protocol;
use gix::protocol::handshake::Ref;
use gix::protocol::transport::client::blocking_io::http;
use gix::remote::{Direction, fetch::Tags};

use super::program::{Git, STALL, Watch};
use super::{Head, RemoteError, RemoteSettings, RemoteUrl, Snapshot, Want};
use crate::fsio::limits;
use crate::model::chain;

/// Why gix did not fetch: something that git may do better, or an end of it.
pub(super) enum Declined {
    /// git may be able to.
    TryGit(String),
    /// Nobody should go on.
    Stop(RemoteError),
}

/// Fetches into the repository at `cache`. One connection, so one advertisement: what is fetched is
/// what was advertised.
pub(super) fn fetch(
    url: &RemoteUrl,
    settings: &RemoteSettings,
    cache: &Path,
    want: Want<'_>,
) -> Result<Snapshot, Declined> {
    let interrupt = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    {
        let (url, settings, cache) = (url.clone(), settings.clone(), cache.to_owned());
        let specs = want.specs();
        let interrupt = Arc::clone(&interrupt);
        // A thread of its own: gix's reads end by their own limit, but the caller does not wait for that.
        thread::spawn(move || {
            // Nobody waits any more when the caller has given up.
            let _ = sender.send(fetch_here(&url, &settings, &cache, &specs, &interrupt));
        });
    }
    let watch = Watch::new(url, settings, cache);
    let mut last = (0, Instant::now());
    loop {
        match receiver.recv_timeout(Duration::from_millis(20)) {
            Ok(Ok(snapshot)) => return Ok(snapshot),
            Ok(Err(why)) => return Err(Declined::TryGit(hide(url, &why))),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(Declined::TryGit("gix stopped without an answer".to_owned()));
            }
        }
        let stop = watch.check().and_then(|size| {
            if size != last.0 {
                last = (size, Instant::now());
            }
            // A read that hangs ends by the client's own limit; twice that is more than a hanging read.
            if last.1.elapsed() > 2 * STALL {
                return Err(watch.late(format!("nothing came for {} s", 2 * STALL.as_secs())));
            }
            Ok(())
        });
        if let Err(error) = stop {
            interrupt.store(true, Ordering::Relaxed);
            return Err(Declined::Stop(error));
        }
    }
}

fn hide(url: &RemoteUrl, text: &str) -> String {
    let text: String = text.chars().take(600).collect();
    url.secret().map_or_else(|| text.clone(), |secret| text.replace(secret, "…"))
}

fn fetch_here(
    url: &RemoteUrl,
    settings: &RemoteSettings,
    cache: &Path,
    specs: &[String],
    interrupt: &AtomicBool,
) -> Result<Snapshot, String> {
    // The user's configuration is asked for one thing alone: whether it says something about HTTP
    // or URLs. gix takes some of that and git takes all of it.
    if settings.git.is_some()
        && let Ok(globals) = gix::config::File::from_globals()
        && let Some(section) = ["http", "url"]
            .into_iter()
            .find(|name| globals.sections_by_name(name).is_some_and(|mut found| found.next().is_some()))
    {
        return Err(format!("git's configuration has a section `{section}`, which only git knows all of"));
    }
    let text = |error: &gix::Error| chain(error);
    let repository = gix::open_opts(
        cache,
        gix::open::Options::isolated().config_overrides([
            format!("gitoxide.objects.allocLimit={}", limits::GIT_OBJECT),
            "core.useReplaceRefs=false".to_owned(),
        ]),
    )
    .map_err(|error| text(&error))?;
    let remote = repository
        .remote_at_without_url_rewrite(url.as_str())
        .map_err(|error| text(&error))?
        .with_fetch_tags(Tags::None)
        .with_refspecs(specs.iter().map(|spec| spec.as_bytes().as_bstr()), Direction::Fetch)
        .map_err(|error| text(&error))?;
    let mut options = repository.transport_options(url.as_str(), None).map_err(|error| text(&error))?;
    if let Some(options) = options.as_mut().and_then(|any| any.downcast_mut::<http::Options>()) {
        let backend = http::reqwest::Options {
            configure_client: Some(Box::new(|client| Ok(client.timeout(STALL)))),
            ..http::reqwest::Options::default()
        };
        options.backend = Some(Arc::new(Mutex::new(backend)));
    }
    let mut connection = remote.connect(Direction::Fetch).map_err(|error| text(&error))?;
    if let Some(options) = options {
        connection.set_transport_options(options);
    }
    let mut asked = 0;
    connection.set_credentials(move |action| {
        asked += 1;
        login(url, settings, cache, action, asked)
            .map_err(|why| gix::Error::from_error(std::io::Error::other(why)))
    });
    let outcome = connection
        .prepare_fetch(gix::progress::Discard, gix::remote::ref_map::Options::default())
        .and_then(|prepared| {
            prepared.with_write_packed_refs_only(true).receive(gix::progress::Discard, interrupt)
        })
        .map_err(|error| text(&error))?;
    if let gix::remote::fetch::Status::Change { write_pack_bundle, .. } = &outcome.status
        && let Some(keep) = &write_pack_bundle.keep_path
    {
        // Nothing here removes packs; the file would only be in the way of a person who tidies up.
        let _ = std::fs::remove_file(keep);
    }
    Ok(snapshot(&outcome.ref_map.remote_refs))
}

fn snapshot(refs: &[Ref]) -> Snapshot {
    let mut out = Snapshot::default();
    for reference in refs {
        let (name, target, object) = match reference {
            Ref::Peeled { full_ref_name, tag, .. } => (full_ref_name, None, *tag),
            Ref::Direct { full_ref_name, object } => (full_ref_name, None, *object),
            Ref::Symbolic { full_ref_name, target, tag, object } => {
                (full_ref_name, Some(target), tag.unwrap_or(*object))
            }
            Ref::Unborn { full_ref_name, target } if full_ref_name == "HEAD" => {
                out.head = Some(Head::Branch(target.to_string()));
                continue;
            }
            Ref::Unborn { .. } => continue,
        };
        if name == "HEAD" {
            out.head = Some(match target {
                Some(target) => Head::Branch(target.to_string()),
                None => Head::Detached(object.to_hex().to_string()),
            });
        } else if let Ok(name) = name.to_str() {
            out.insert(name, object.to_hex().to_string());
        }
    }
    out
}

/// User and password: the URL's own, else what git's credential helpers say (gitcredentials(7)).
fn login(
    url: &RemoteUrl,
    settings: &RemoteSettings,
    folder: &Path,
    action: Action,
    asked: usize,
) -> Result<Option<protocol::Outcome>, String> {
    let Some(git) = Git::new(settings, url) else {
        return match (action, url.login()) {
            (Action::Get(context), Some(login)) if asked == 1 => Ok(Some(outcome(context, login))),
            (Action::Get(_), _) => Err("it wants a login, and git's helpers are not there".to_owned()),
            _ => Ok(None),
        };
    };
    let run = |verb: &str, input: &[u8]| {
        git.run("find a login for", folder, &["credential", verb], input).map_err(|error| chain(&error))
    };
    match action {
        Action::Get(context) => {
            if let Some(login) = url.login().filter(|_| asked == 1) {
                return Ok(Some(outcome(context, login)));
            }
            let mut input = Vec::new();
            context.write_to(&mut input).map_err(|error| error.to_string())?;
            input.push(b'\n');
            let answer = run("fill", &input)?;
            let answer = protocol::Context::from_bytes(&answer, protocol::ContextOptions::default())
                .map_err(|error| error.to_string())?;
            let login = answer.username.clone().zip(answer.password.clone());
            Ok(login.map(|login| outcome(answer, login)))
        }
        // A URL's own login is nobody else's to keep or to forget.
        Action::Store(_) | Action::Erase(_) if url.login().is_some() && asked <= 2 => Ok(None),
        Action::Store(payload) => run("approve", &payload).map(|_| None),
        Action::Erase(payload) => run("reject", &payload).map(|_| None),
    }
}

fn outcome(mut context: protocol::Context, (username, password): (String, String)) -> protocol::Outcome {
    context.username = Some(username.clone());
    context.password = Some(password.clone());
    protocol::Outcome {
        identity: gix::sec::identity::Account { username, password, oauth_refresh_token: None },
        next: gix::credentials::helper::NextAction::from(context),
    }
}
