//! A link of a given speed before a server on loopback: what a registry is to those who do not sit
//! beside it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Bytes that are let through together.
const PIECE: usize = 64 << 10;

/// Listens until the process ends.
pub struct Link {
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl Link {
    /// Leads to `target`; all connections together get `speed` bytes a second from it.
    pub fn new(target: &str, speed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let target = target.to_owned();
        let free = Arc::new(Mutex::new(Instant::now()));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&target) else { return };
                let (mut asks, mut asked) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut asks, &mut asked);
                    let _ = asked.shutdown(Shutdown::Write);
                });
                let free = Arc::clone(&free);
                std::thread::spawn(move || pour(server, client, &free, speed));
            }
        });
        Self { address }
    }
}

/// Hands on what comes, when its turn on the link has come.
fn pour(mut from: TcpStream, mut to: TcpStream, free: &Mutex<Instant>, speed: u64) {
    let mut buffer = vec![0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let turn = {
            let mut free = free.lock().unwrap();
            *free = (*free).max(Instant::now()) + Duration::from_nanos(count as u64 * 1_000_000_000 / speed);
            *free
        };
        std::thread::sleep(turn.saturating_duration_since(Instant::now()));
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
