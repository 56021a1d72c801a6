//! Who may ask: names and passwords from an htpasswd file, as docker-registry takes it.
//!
//! Only bcrypt is taken. It is slow on purpose, and a runtime sends its password with each request,
//! so what was found right or wrong once is remembered, keyed with random bytes of this process:
//! memory never holds a password. One verification runs at a time, so that guessing costs at most
//! one processor.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use tokio::sync::Semaphore;

/// The user that `apply` itself is, on the machine that holds the store.
pub const OWN_USER: &str = "fleetpack-site";
/// Users of one file.
const USERS: usize = 10_000;
/// The longest `Authorization` header that is looked at.
const HEADER: usize = 4096;
/// Answers that are remembered.
const REMEMBERED: usize = 4096;
/// The highest cost of a hash: some seconds on a small machine.
const COST: u32 = 16;
/// How many may wait for a verification.
const WAITING: usize = 64;

/// Why a file of passwords cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordsError {
    /// A line is not what it must be.
    #[error("line {line}: {why}, wanted `USER:HASH` with a bcrypt hash of cost {COST} or less")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What was found.
        why: String,
    },
    /// Nobody could ever come in.
    #[error("found no user, wanted one `USER:HASH` a line")]
    Empty,
    /// There are too many.
    #[error("found more than {USERS} users")]
    TooMany,
}

/// The users of a file.
#[derive(Default)]
struct Users {
    hashes: BTreeMap<String, String>,
}

impl Users {
    fn parse(text: &str) -> Result<Self, PasswordsError> {
        let mut hashes = BTreeMap::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = |why: &str| PasswordsError::Line { line: at + 1, why: why.to_owned() };
            let (user, hash) = line.split_once(':').ok_or_else(|| bad("no `:` in it"))?;
            if user.is_empty() || user.len() > 255 || user.chars().any(char::is_control) {
                return Err(bad("not a user's name"));
            }
            if user == OWN_USER {
                return Err(bad("the name is kept for fleetpack itself"));
            }
            let cost = ["$2y$", "$2b$", "$2a$"].iter().find_map(|scheme| hash.strip_prefix(scheme));
            let cost = cost.ok_or_else(|| bad("another scheme than bcrypt"))?;
            let parsed: bcrypt::HashParts = hash.parse().map_err(|_| bad("a hash that cannot be read"))?;
            if parsed.get_cost() > COST || !cost.starts_with(|c: char| c.is_ascii_digit()) {
                return Err(bad("a hash of too high a cost"));
            }
            hashes.insert(user.to_owned(), hash.to_owned());
            if hashes.len() > USERS {
                return Err(PasswordsError::TooMany);
            }
        }
        if hashes.is_empty() { Err(PasswordsError::Empty) } else { Ok(Self { hashes }) }
    }
}

/// How a request is let in, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It comes from this user.
    Let(Arc<str>),
    /// It names nobody, or with a wrong password.
    Deny,
    /// Too many wait to be looked at.
    Busy,
}

/// Checks names and passwords.
pub struct Passwords {
    users: RwLock<Arc<Users>>,
    /// What is asked with [`OWN_USER`].
    own: Option<String>,
    key: hmac::Key,
    known: Mutex<HashMap<[u8; 32], Option<Arc<str>>>>,
    turn: Semaphore,
    waiting: Semaphore,
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passwords")
    }
}

impl Passwords {
    /// Reads an htpasswd file's text. `own` is a secret that lets [`OWN_USER`] in; `random` are bytes
    /// that nobody can guess.
    ///
    /// # Errors
    ///
    /// When a line is not `USER:HASH` with a bcrypt hash.
    pub fn new(text: &str, own: Option<String>, random: [u8; 32]) -> Result<Self, PasswordsError> {
        Ok(Self {
            users: RwLock::new(Arc::new(Users::parse(text)?)),
            own,
            key: hmac::Key::new(hmac::HMAC_SHA256, &random),
            known: Mutex::default(),
            turn: Semaphore::new(1),
            waiting: Semaphore::new(WAITING),
        })
    }

    /// Takes another text in place of the one before.
    ///
    /// # Errors
    ///
    /// As [`Passwords::new`]; the one before stays in use then.
    pub fn replace(&self, text: &str) -> Result<(), PasswordsError> {
        let users = Arc::new(Users::parse(text)?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = users;
        known.clear();
        Ok(())
    }

    /// Looks at the `Authorization` of a request (RFC 7617).
    pub(super) async fn check(&self, header: Option<&HeaderValue>) -> Verdict {
        let Some((user, password)) = header.and_then(credentials) else { return Verdict::Deny };
        if let Some(own) = &self.own
            && user == OWN_USER
        {
            let right = verify_slices_are_equal(own.as_bytes(), password.as_bytes()).is_ok();
            return if right { Verdict::Let(OWN_USER.into()) } else { Verdict::Deny };
        }
        let key = self.digest(&user, &password);
        let remembered = |known: &HashMap<_, Option<Arc<str>>>| known.get(&key).cloned();
        if let Some(known) = remembered(&self.known.lock().unwrap_or_else(PoisonError::into_inner)) {
            return known.map_or(Verdict::Deny, Verdict::Let);
        }
        let Ok(_waiting) = self.waiting.try_acquire() else { return Verdict::Busy };
        let Ok(_turn) = self.turn.acquire().await else { return Verdict::Busy };
        // The one before may have asked the same.
        if let Some(known) = remembered(&self.known.lock().unwrap_or_else(PoisonError::into_inner)) {
            return known.map_or(Verdict::Deny, Verdict::Let);
        }
        let users = Arc::clone(&self.users.read().unwrap_or_else(PoisonError::into_inner));
        let name: Arc<str> = user.as_str().into();
        let looked_up = Arc::clone(&users);
        let right = tokio::task::spawn_blocking(move || {
            // Whoever is not there costs as much time as whoever is.
            let hash = looked_up.hashes.get(&user);
            let any = hash.or_else(|| looked_up.hashes.values().next());
            let right = any.is_some_and(|any| bcrypt::verify(&password, any).unwrap_or(false));
            right && hash.is_some()
        });
        let verdict = right.await.unwrap_or(false).then_some(name);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // An answer that another file gave is not remembered.
        if Arc::ptr_eq(&users, &self.users.read().unwrap_or_else(PoisonError::into_inner)) {
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(key, verdict.clone());
        }
        verdict.map_or(Verdict::Deny, Verdict::Let)
    }

    fn digest(&self, user: &str, password: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&(user.len() as u64).to_le_bytes());
        context.update(user.as_bytes());
        context.update(password.as_bytes());
        let mut digest = [0; 32];
        for (to, from) in digest.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        digest
    }
}

/// Name and password of a `Basic` header.
fn credentials(header: &HeaderValue) -> Option<(String, String)> {
    let bytes = header.as_bytes();
    if bytes.len() > HEADER {
        return None;
    }
    let (scheme, encoded) = bytes.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim_ascii()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `htpasswd -nbB -C 4 node secret`
    fn file(user: &str, password: &str) -> String {
        format!("# nodes\n\n{user}:{}\n", bcrypt::hash(password, 4).unwrap())
    }

    fn header(user: &str, password: &str) -> HeaderValue {
        format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))).parse().unwrap()
    }

    #[tokio::test]
    async fn who_is_in_the_file_is_let_in_until_he_is_not() {
        let passwords = Passwords::new(&file("node", "a:b"), Some("own".to_owned()), [1; 32]).unwrap();
        let check = async |header: HeaderValue| passwords.check(Some(&header)).await;
        for _ in 0..2 {
            assert_eq!(check(header("node", "a:b")).await, Verdict::Let("node".into()));
            assert_eq!(check(header("node", "a")).await, Verdict::Deny);
            assert_eq!(check(header("nobody", "a:b")).await, Verdict::Deny);
            assert_eq!(check(header(OWN_USER, "own")).await, Verdict::Let(OWN_USER.into()));
            assert_eq!(check(header(OWN_USER, "other")).await, Verdict::Deny);
        }
        for bad in ["", "Basic", "Basic ", "Basic %%%", "Bearer x", "basic bm9kZQ=="] {
            assert_eq!(check(bad.parse().unwrap()).await, Verdict::Deny, "{bad}");
        }
        assert_eq!(passwords.check(None).await, Verdict::Deny);
        assert!(passwords.replace("node:plain").is_err());
        assert_eq!(check(header("node", "a:b")).await, Verdict::Let("node".into()));
        passwords.replace(&file("node", "next")).unwrap();
        assert_eq!(check(header("node", "a:b")).await, Verdict::Deny);
        assert_eq!(check(header("node", "next")).await, Verdict::Let("node".into()));
    }

    #[test]
    fn files_that_are_refused() {
        let hash = bcrypt::hash("x", 4).unwrap();
        let costly = hash.replacen("$04$", "$17$", 1);
        for (text, part) in [
            ("node".to_owned(), "line 1: no `:`"),
            ("#\nnode:{SHA}x".to_owned(), "line 2: another scheme"),
            ("node:$apr1$x$y".to_owned(), "another scheme"),
            ("node:$2y$05$short".to_owned(), "cannot be read"),
            (format!("node:{costly}"), "too high"),
            (format!(":{hash}"), "not a user's name"),
            (format!("{OWN_USER}:{hash}"), "kept for fleetpack"),
            ("# nobody\n".to_owned(), "no user"),
        ] {
            let error = Users::parse(&text).err().unwrap().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
