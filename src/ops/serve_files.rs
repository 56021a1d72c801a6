//! What a running server reads again: its certificate and its passwords. And what it needs of the
//! process: descriptors, a pulse for the service manager.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;

use super::notify::Notifier;
use super::serve::{Options, Tls};
use super::{Error, Result};
use crate::fsio::limits;
use crate::model::Progress;
use crate::seed::{self, Content, Limits, Passwords, SeedError, Server};
use crate::store::Store;
use crate::trust::ServerName;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Descriptors beside those of connections: listener, runtime, releases that are being read.
const SPARE: u64 = 256;

/// Tells one state of a file from another.
type Stamp = Option<(u64, u64, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let data = std::fs::metadata(path).ok()?;
    Some((data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let io = |error| Error::io("read", path, error);
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(io)?.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(io(std::io::Error::other(format!("longer than {limit} bytes"))));
    }
    Ok(bytes)
}

/// Where the certificate comes from.
enum Source {
    Files { certificate: PathBuf, key: PathBuf, seen: (Stamp, Stamp) },
    Store { store: Store, names: BTreeSet<ServerName>, last: String },
}

/// The files of a running server.
pub(super) struct Files {
    tls: Option<(Arc<seed::Tls>, Source)>,
    passwords: Option<(Arc<Passwords>, PathBuf, Stamp)>,
}

impl Files {
    /// Reads what the options name; makes what the store is to hold.
    pub(super) fn load(options: &Options, address: SocketAddr, store: Option<&Store>) -> Result<Self> {
        let tls = match (&options.tls, store) {
            (Tls::None, _) | (Tls::SelfSigned, None) => None,
            (Tls::Files { certificate, key }, _) => {
                let seen = (stamp(certificate), stamp(key));
                let chain = read(certificate, limits::CONFIG_FILE)?;
                let tls = seed::Tls::new(&chain, &read(key, limits::KEY_FILE)?)
                    .map_err(|source| SeedError::Tls { path: certificate.clone(), source })?;
                let source = Source::Files { certificate: certificate.clone(), key: key.clone(), seen };
                Some((Arc::new(tls), source))
            }
            (Tls::SelfSigned, Some(store)) => {
                let names = names(&options.names, address.ip());
                let found = store.certificate(&names, SystemTime::now())?;
                let tls = seed::Tls::new(found.certificate.as_bytes(), found.key.as_bytes())
                    .map_err(|source| SeedError::Tls { path: store.authority_path(), source })?;
                let source = Source::Store { store: store.clone(), names, last: found.certificate };
                Some((Arc::new(tls), source))
            }
        };
        let passwords = match &options.passwords {
            None => None,
            Some(path) => {
                let seen = stamp(path);
                let text = read(path, limits::CONFIG_FILE)?;
                let mut random = [0; 32];
                SystemRandom::new().fill(&mut random).map_err(|_| Error::Setup {
                    what: "the system has no random bytes".into(),
                    hint: "look at `/dev/urandom`".into(),
                })?;
                // Whoever cannot write the store applies nothing to it either.
                let own = store.and_then(|store| store.record_secret().ok());
                let passwords = Passwords::new(&String::from_utf8_lossy(&text), own, random)
                    .map_err(|source| SeedError::Passwords { path: path.clone(), source })?;
                Some((Arc::new(passwords), path.clone(), seen))
            }
        };
        Ok(Self { tls, passwords })
    }

    /// Gives a server what was read.
    pub(super) fn equip(&self, mut server: Server) -> Server {
        if let Some((tls, _)) = &self.tls {
            server = server.with_tls(Arc::clone(tls));
        }
        if let Some((passwords, ..)) = &self.passwords {
            server = server.with_passwords(Arc::clone(passwords));
        }
        server
    }

    /// Reads again what has changed, or all of it when `told` to. What cannot be read leaves what
    /// is in use as it is, and is told once. Blocking.
    fn look(&mut self, told: bool, progress: &dyn Progress) {
        if let Some((tls, source)) = &mut self.tls {
            match source.again(told, tls) {
                Ok(true) => progress.note("the certificate was exchanged".into()),
                Ok(false) => {}
                Err(error) => {
                    progress.warn(format!("the certificate stays as it was: {}", super::chain(&error)));
                }
            }
        }
        if let Some((passwords, path, seen)) = &mut self.passwords {
            let now = stamp(path);
            if told || now != *seen {
                *seen = now;
                let again = read(path, limits::CONFIG_FILE).and_then(|text| {
                    let replaced = passwords.replace(&String::from_utf8_lossy(&text));
                    Ok(replaced.map_err(|source| SeedError::Passwords { path: path.clone(), source })?)
                });
                match again {
                    Ok(()) => progress.note("the passwords were read again".into()),
                    Err(error) => {
                        progress.warn(format!("the passwords stay as they were: {}", super::chain(&error)));
                    }
                }
            }
        }
    }
}

impl Source {
    /// Whether another certificate is in use now.
    fn again(&mut self, told: bool, tls: &seed::Tls) -> Result<bool> {
        match self {
            Self::Files { certificate, key, seen } => {
                let now = (stamp(certificate), stamp(key));
                if !told && now == *seen {
                    return Ok(false);
                }
                // Remembered even if it fails, so that it is told once; a second file that comes
                // a moment later changes the stamp again.
                *seen = now;
                let chain = read(certificate, limits::CONFIG_FILE)?;
                tls.replace(&chain, &read(key, limits::KEY_FILE)?)
                    .map_err(|source| SeedError::Tls { path: certificate.clone(), source })?;
                Ok(true)
            }
            Self::Store { store, names, last } => {
                let found = store.certificate(names, SystemTime::now())?;
                if found.certificate == *last {
                    return Ok(false);
                }
                tls.replace(found.certificate.as_bytes(), found.key.as_bytes())
                    .map_err(|source| SeedError::Tls { path: store.authority_path(), source })?;
                *last = found.certificate;
                Ok(true)
            }
        }
    }
}

/// Looks at the files every few seconds, and when told to, for ever.
pub(super) async fn mind(mut files: Files, reload: Arc<Notify>, progress: Arc<dyn Progress>) {
    loop {
        let told = tokio::time::timeout(LOOK, reload.notified()).await.is_ok();
        let progress = Arc::clone(&progress);
        let looked = tokio::task::spawn_blocking(move || {
            files.look(told, progress.as_ref());
            files
        });
        match looked.await {
            Ok(back) => files = back,
            Err(_) => return,
        }
    }
}

/// Tells the service manager, as often as it wants to hear it, that requests could be answered.
pub(super) async fn pulse(notify: Option<Notifier>, every: Duration, content: Arc<dyn Content>) {
    loop {
        let content = Arc::clone(&content);
        // Content that cannot be read is not healed by a restart; that the question is answered at
        // all is what counts.
        let _ = tokio::task::spawn_blocking(move || content.snapshot().is_ok()).await;
        if let Some(notify) = &notify {
            let _ = notify.tell("WATCHDOG=1");
        }
        tokio::time::sleep(every).await;
    }
}

/// Lets the process have as many descriptors as it may, and fewer connections where that is not
/// enough: one for each connection, and one for the file that it is sent.
pub(super) fn make_room_for_descriptors(limits: &mut Limits, progress: &dyn Progress) {
    let wanted = limits.connections as u64 * 2 + SPARE;
    let found = getrlimit(Resource::Nofile);
    let mut current = found.current.unwrap_or(u64::MAX);
    if current < wanted {
        let raised = found.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        if setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: found.maximum }).is_ok() {
            current = raised;
        }
    }
    if current < wanted {
        let fits = usize::try_from(current.saturating_sub(SPARE) / 2).unwrap_or(usize::MAX).max(16);
        progress.warn(format!(
            "the process may open {current} files, wanted {wanted} (`ulimit -n`): at most {fits} connections at a time"
        ));
        limits.connections = fits;
    }
}

/// What the certificate is to name: what was given, the address that is listened on, and this
/// machine itself.
fn names(given: &[ServerName], listen: IpAddr) -> BTreeSet<ServerName> {
    let mut names: BTreeSet<ServerName> = given.iter().cloned().collect();
    let own = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    names.extend(own.map(ServerName::Address));
    names.extend("localhost".parse());
    if !listen.is_unspecified() {
        names.insert(ServerName::Address(listen.to_canonical()));
        return names;
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    names.extend(read("/proc/sys/kernel/hostname").trim().parse());
    let four = local_v4(&read("/proc/net/fib_trie")).into_iter().map(IpAddr::V4);
    let six = local_v6(&read("/proc/net/if_inet6")).into_iter().map(IpAddr::V6);
    names.extend(four.chain(six).take(64).map(ServerName::Address));
    names
}

/// This machine's addresses: the kernel's routing table marks them `host LOCAL`.
fn local_v4(table: &str) -> Vec<Ipv4Addr> {
    let mut last = None;
    let mut found = Vec::new();
    for line in table.lines() {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.trim().parse().ok();
        } else if line.starts_with("/32 host LOCAL")
            && let Some(address) = last
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// The same for IPv6, without those that want an interface beside them.
fn local_v6(table: &str) -> Vec<Ipv6Addr> {
    let address = |line: &str| {
        let digits = line.split_whitespace().next()?;
        u128::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 32).map(Ipv6Addr::from_bits)
    };
    let whole = |address: &Ipv6Addr| !address.is_unicast_link_local();
    table.lines().filter_map(address).filter(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_machine() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
                     +-- 10.0.0.0/24 2 0 2\n        |-- 10.0.0.7\n           /32 host LOCAL\n        \
                     |-- 10.0.0.255\n           /32 link BROADCAST\n     |-- 10.0.0.7\n        /32 host LOCAL\n";
        assert_eq!(local_v4(table), [Ipv4Addr::new(10, 0, 0, 7)]);
        let table = "fe800000000000000000000000000001 02 40 20 80 eth0\n\
                     20010db8000000000000000000000001 02 40 00 80 eth0\nx\n";
        assert_eq!(local_v6(table), ["2001:db8::1".parse::<Ipv6Addr>().unwrap()]);
        let some = names(&["registry.site".parse().unwrap()], "192.0.2.1".parse().unwrap());
        let text: Vec<_> = some.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["localhost", "registry.site", "127.0.0.1", "192.0.2.1", "[::1]"]);
        assert!(names(&[], Ipv4Addr::UNSPECIFIED.into()).len() >= 3);
    }
}
