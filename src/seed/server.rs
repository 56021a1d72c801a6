//! The listener, and what clients may hold of it.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::connection::{self, Peer};
use super::metrics::{Metrics, count};
use super::{AccessLog, Content, Front, Passwords, SeedError, Tls};
use crate::model::Progress;

/// Bounds on what clients may hold. The defaults suit a small machine with a few hundred nodes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time; more wait in the kernel's queue.
    pub connections: usize,
    /// Connections of one address (of one /64 in IPv6) at a time; more are turned away. Nodes behind
    /// one router share an address, so this is many; loopback is not counted.
    pub peer_connections: usize,
    /// Requests that are answered at a time; more wait.
    pub requests: usize,
    /// How long the head of a request may take, and how long a connection may lie idle.
    pub head: Duration,
    /// How long a client may take nothing of an answer, and take to send a request's body.
    pub stall: Duration,
    /// Bytes of a request's head.
    pub head_size: usize,
    /// Packs generated at a time; more wait.
    pub packs: usize,
    /// How long a request waits for its turn before it is told to come again.
    pub turn: Duration,
    /// How long open requests may go on once the server is to stop.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            peer_connections: 512,
            requests: 768,
            head: Duration::from_secs(30),
            stall: Duration::from_mins(2),
            head_size: 32 << 10,
            packs: 8,
            turn: Duration::from_mins(2),
            grace: Duration::from_secs(10),
        }
    }
}

/// What every request needs.
pub(super) struct Site {
    pub(super) content: Arc<dyn Content>,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) packs: Arc<Semaphore>,
    pub(super) requests: Arc<Semaphore>,
    pub(super) limits: Limits,
    pub(super) front: Option<Arc<dyn Front>>,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) passwords: Option<Arc<Passwords>>,
    pub(super) log: Option<Arc<dyn AccessLog>>,
    pub(super) metrics: Metrics,
    /// Told when somebody waits for a connection: idle ones make room.
    pub(super) room: Notify,
}

/// What one request needs: the site, and the connection that it came on.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) site: Arc<Site>,
    pub(super) peer: Arc<Peer>,
}

impl std::ops::Deref for Shared {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Site {
    /// The content let us down: the operator hears why, and it is counted.
    pub(super) fn content_failed(&self, why: String) {
        count(&self.metrics.content_errors);
        self.progress.warn(why);
    }

    /// `http` or `https`.
    pub(super) const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// A listener that serves nothing yet, so that its address can be made known before it does.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    limits: Limits,
    front: Option<Arc<dyn Front>>,
    tls: Option<Arc<Tls>>,
    passwords: Option<Arc<Passwords>>,
    log: Option<Arc<dyn AccessLog>>,
}

impl Server {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on.
    pub async fn bind(address: SocketAddr, limits: Limits) -> Result<Self, SeedError> {
        let listen = |source| SeedError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { listener, address, limits, front: None, tls: None, passwords: None, log: None })
    }

    /// Serves the pages of `front` beside images and Git.
    #[must_use]
    pub fn with_front(mut self, front: Arc<dyn Front>) -> Self {
        self.front = Some(front);
        self
    }

    /// Speaks TLS alone.
    #[must_use]
    pub fn with_tls(mut self, tls: Arc<Tls>) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Asks for passwords, for everything but `/healthz`.
    #[must_use]
    pub fn with_passwords(mut self, passwords: Arc<Passwords>) -> Self {
        self.passwords = Some(passwords);
        self
    }

    /// Tells `log` about each request.
    #[must_use]
    pub fn with_log(mut self, log: Arc<dyn AccessLog>) -> Self {
        self.log = Some(log);
        self
    }

    /// Where the server listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS`, or `https://ADDRESS`: what runtimes, Git clients and the gate are told. A
    /// server that listens on every address is reached on this machine by the loopback one.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("{}://{address}", if self.tls.is_some() { "https" } else { "http" })
    }

    /// Serves `content` until `stop` is done, then lets open requests end for a while.
    ///
    /// # Errors
    ///
    /// When the content cannot be read at all; checked once at the start.
    pub async fn run(
        self,
        content: Arc<dyn Content>,
        progress: Arc<dyn Progress>,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), SeedError> {
        content.snapshot().map_err(SeedError::Content)?;
        let Self { listener, limits, front, tls, passwords, log, .. } = self;
        let site = Arc::new(Site {
            content,
            progress,
            packs: Arc::new(Semaphore::new(limits.packs.max(1))),
            requests: Arc::new(Semaphore::new(limits.requests.max(1))),
            front,
            tls,
            passwords,
            log,
            metrics: Metrics::default(),
            room: Notify::new(),
            limits,
        });
        let places = Arc::new(Semaphore::new(site.limits.connections.max(1)));
        let peers = Arc::new(Peers::default());
        let (stopping, stopped) = watch::channel(());
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = async {
                let place = place(&site, &places).await;
                (listener.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                () = &mut stop => break,
                accepted = accepted => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, or a peer that left at once: neither ends the server,
                    // and neither is worth a busy loop.
                    site.progress.warn(format!("cannot accept a connection: {error}"));
                    site.room.notify_waiters();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(seat) = Peers::enter(&peers, address.ip(), site.limits.peer_connections) else {
                turn_away(&site, &stream);
                continue;
            };
            let held = Held { _place: place, _seat: seat, site: Arc::clone(&site) };
            count(&site.metrics.accepted);
            count(&site.metrics.open);
            tokio::spawn(connection::converse(Arc::clone(&site), stream, address, stopped.clone(), held));
        }
        drop(listener);
        drop(stopped);
        let _ = stopping.send(());
        let _ = tokio::time::timeout(site.limits.grace, stopping.closed()).await;
        Ok(())
    }
}

/// A place for a connection. While there is none, idle connections are asked to make room.
async fn place(site: &Site, places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    loop {
        let place = Arc::clone(places).acquire_owned();
        match tokio::time::timeout(Duration::from_millis(250), place).await {
            Ok(place) => return place.ok(),
            Err(_) => site.room.notify_waiters(),
        }
    }
}

/// Says why, where that can be said without waiting, and closes.
fn turn_away(site: &Site, stream: &TcpStream) {
    // One line a power of ten: a peer that comes again and again must not fill the log.
    let before = site.metrics.turned_away.fetch_add(1, Ordering::Relaxed);
    let told = (before + 1).checked_ilog10().is_some_and(|digits| 10_u64.pow(digits) == before + 1);
    if told && let Ok(address) = stream.peer_addr() {
        site.progress.warn(format!(
            "turned away a connection of `{}`, which has {} already ({} so far)",
            address.ip(),
            site.limits.peer_connections,
            before + 1
        ));
    }
    if site.tls.is_none() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let _ = stream.try_write(answer);
    }
}

/// What a connection holds as long as it lives.
pub(super) struct Held {
    _place: Option<OwnedSemaphorePermit>,
    _seat: Seat,
    site: Arc<Site>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let open: &AtomicU64 = &self.site.metrics.open;
        open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many connections each peer has.
#[derive(Default)]
struct Peers(Mutex<HashMap<IpAddr, usize>>);

/// One connection of a peer.
struct Seat(Option<(Arc<Peers>, IpAddr)>);

impl Peers {
    fn enter(peers: &Arc<Self>, address: IpAddr, most: usize) -> Option<Seat> {
        let address = address.to_canonical();
        if address.is_loopback() {
            return Some(Seat(None));
        }
        // Who has one IPv6 address has a whole /64.
        let key = match address {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
            address @ IpAddr::V4(_) => address,
        };
        let mut map = peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = map.entry(key).or_default();
        if *number >= most.max(1) {
            return None;
        }
        *number += 1;
        Some(Seat(Some((Arc::clone(peers), key))))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((peers, key)) = self.0.take() else { return };
        let mut map = peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = map.get_mut(&key) {
            *number -= 1;
            if *number == 0 {
                map.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_so_many_connections_and_no_more() {
        let peers = Arc::new(Peers::default());
        let enter = |address: &str| Peers::enter(&peers, address.parse().unwrap(), 2);
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        let _other = enter("192.0.2.2").unwrap();
        drop(first);
        let _third = enter("192.0.2.1").unwrap();
        let own: Vec<_> = (0..5).map(|_| enter("127.0.0.1")).collect();
        assert!(own.iter().all(Option::is_some));
        let wide: Vec<_> = (1..4).map(|at| enter(&format!("2001:db8::{at}:1"))).collect();
        assert_eq!(wide.iter().filter(|seat| seat.is_some()).count(), 2);
        assert!(enter("2001:db8:0:1::1").is_some());
        drop(wide);
        assert_eq!(peers.0.lock().unwrap().len(), 2);
    }
}
