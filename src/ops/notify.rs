//! The service manager's socket (`sd_notify(3)`): what it hears of a server's state.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where to say what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notifier {
    socket: PathBuf,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As `NOTIFY_SOCKET` and `WATCHDOG_USEC` say: `socket` is a path, or a name in the abstract
    /// space behind `@`.
    #[must_use]
    pub const fn new(socket: PathBuf, watchdog: Option<Duration>) -> Self {
        Self { socket, watchdog }
    }

    /// How often the server has to show that it lives: twice as often as it is expected.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.map(|every| (every / 2).max(Duration::from_millis(100)))
    }

    /// Sends `state`: `READY=1`, `STOPPING=1`, `WATCHDOG=1`.
    ///
    /// # Errors
    ///
    /// When nobody takes it.
    pub fn tell(&self, state: &str) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        match self.socket.as_os_str().as_bytes().strip_prefix(b"@") {
            Some(name) => {
                let address = SocketAddr::from_abstract_name(name)?;
                socket.send_to_addr(state.as_bytes(), &address)?;
            }
            None => {
                socket.send_to(state.as_bytes(), Path::new(&self.socket))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_it_by_path_and_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("fleetpack-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        for (manager, socket) in [
            (UnixDatagram::bind(&path).unwrap(), path.clone()),
            (UnixDatagram::bind_addr(&address).unwrap(), PathBuf::from(format!("@{name}"))),
        ] {
            let notifier = Notifier::new(socket, Some(Duration::from_secs(10)));
            notifier.tell("READY=1").unwrap();
            let mut buffer = [0; 16];
            let length = manager.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1");
            assert_eq!(notifier.watchdog(), Some(Duration::from_secs(5)));
        }
        assert!(Notifier::new(folder.path().join("nobody"), None).tell("READY=1").is_err());
    }
}
