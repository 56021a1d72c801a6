//! What clients may hold of a server, and how it starts and ends.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetpack::seed::{Limits, Server as Library, StoreContent};
use fleetpack::store::Store;

use crate::support::command::{fleetpack, run};
use crate::support::depot::Server;
use crate::support::http::{connect, get, raw, request};
use crate::support::liar::Notes;
use crate::support::served::{BULK_SIZE, Site};

/// How long a server with short limits may take to let go of a client.
const SOON: Duration = Duration::from_secs(20);

/// Whether the server closes `stream` soon; what comes before that is thrown away.
fn closes(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut buffer = [0; 4096];
    let begin = Instant::now();
    while begin.elapsed() < SOON {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
    false
}

/// A server of `store` with `limits`, for as long as the runtime lives.
fn start(runtime: &tokio::runtime::Runtime, store: &std::path::Path, limits: Limits) -> String {
    let content = Arc::new(StoreContent::new(Store::open_read_only(store).unwrap()));
    let server = runtime.block_on(Library::bind("127.0.0.1:0".parse().unwrap(), limits)).unwrap();
    let address = server.address().to_string();
    runtime.spawn(server.run(content, Arc::new(Notes::default()), std::future::pending()));
    address
}

#[test]
fn clients_that_do_nothing_are_left() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path());
    let archive = site.build("v1", &[]);
    let server = site.serve();
    site.seed(&archive);
    drop(server);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let short = Duration::from_millis(700);
    let limits = Limits {
        connections: 3,
        head: short,
        stall: short,
        packs: 1,
        turn: short,
        grace: short,
        ..Limits::default()
    };
    let host = &start(&runtime, &folder.path().join("store"), limits);

    // 1. Nothing is said; 2. the head of a request never ends; 3. nothing follows an answer.
    assert!(closes(&mut connect(host)), "a client that says nothing");
    let mut slow = connect(host);
    slow.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-").unwrap();
    assert!(closes(&mut slow), "a head that never ends");
    let mut idle = connect(host);
    idle.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(closes(&mut idle), "nothing after an answer");
    // 4. The body of a request never ends.
    let mut slow = connect(host);
    slow.write_all(
        b"POST /git/shop.git/git-upload-pack HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\
          Content-Type: application/x-git-upload-pack-request\r\n\r\n0032want",
    )
    .unwrap();
    assert!(closes(&mut slow), "a body that never ends");

    // 5. An answer that nobody takes: the connection ends, and others get its place. More clients
    //    than there are places, so that the last ones are served only once the first are let go.
    let manifest = get(host, "/v2/shop/bulk/manifests/1.0", &[]).json();
    let layers = manifest["layers"].as_array().unwrap();
    let layer = layers.iter().max_by_key(|layer| layer["size"].as_u64()).unwrap()["digest"].as_str().unwrap();
    let stuck: Vec<_> = (0..3)
        .map(|_| {
            let mut stream = connect(host);
            write!(stream, "GET /v2/shop/bulk/blobs/{layer} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream
        })
        .collect();
    let begin = Instant::now();
    assert_eq!(get(host, "/healthz", &[]).status, 200);
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    let mut cut = 0;
    for mut stream in stuck {
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got);
        cut += usize::from(got.len() < BULK_SIZE);
    }
    assert!(cut > 0, "the one that gave up its place had no whole answer");

    // 6. A client that reads slowly but steadily is none of these.
    let mut steady = connect(host);
    write!(steady, "GET /v2/shop/bulk/blobs/{layer} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut buffer = vec![0; 2 << 20];
    let mut got = 0;
    loop {
        let count = steady.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        got += count;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(got > BULK_SIZE, "{got}");
}

#[test]
fn idle_clients_make_room_and_a_head_has_its_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    drop(Store::open_or_create(&store, "test").unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let long = Duration::from_mins(10);
    let limits = Limits { connections: 3, head: long, stall: long, ..Limits::default() };
    let host = &start(&runtime, &store, limits);
    // Connections that are kept, and lie idle: none of them is closed for that.
    let mut idle: Vec<_> = (0..3).map(|_| connect(host)).collect();
    for stream in &mut idle {
        stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
    }
    // Another client does not wait ten minutes for one of their places.
    let begin = Instant::now();
    assert_eq!(get(host, "/healthz", &[]).status, 200);
    assert!(begin.elapsed() < Duration::from_mins(1), "{:?}", begin.elapsed());
    assert!(idle.into_iter().any(|mut stream| closes(&mut stream)));

    // A head that is too long, by one header or by their number, is refused and not stored.
    let long = "x".repeat(60 << 10);
    let refused = request(host, "GET", "/v2/", &[("X-Long", &long)], b"");
    assert_eq!(refused.status, 431);
    let many: Vec<(String, String)> = (0..200).map(|at| (format!("X-{at}"), String::new())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(request(host, "GET", "/v2/", &many, b"").status, 431);
    // Two requests at once on one connection have two answers, in their order, and a body that no
    // answer is waiting for is not read without end.
    let both = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answers = String::from_utf8(raw(host, both)).unwrap();
    assert!(answers.find("ok\n").unwrap() < answers.find("fleetpack_build_info").unwrap(), "{answers}");
    let endless = b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nx";
    assert!(raw(host, endless).starts_with(b"HTTP/1.1 405"));
}

#[test]
fn memory_stays_small_with_many_pulls_and_a_stop_lets_them_end() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path());
    let archive = site.build("v1", &[]);
    let server = site.serve();
    site.seed(&archive);
    let host = server.host().to_owned();
    let manifest = get(&host, "/v2/shop/bulk/manifests/1.0", &[]).json();
    let layers = manifest["layers"].as_array().unwrap();
    let layer = layers.iter().max_by_key(|layer| layer["size"].as_u64()).unwrap()["digest"].as_str().unwrap();
    let ask = || {
        let mut stream = connect(&host);
        write!(stream, "GET /v2/shop/bulk/blobs/{layer} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        stream
    };
    let whole =
        |mut stream: TcpStream| std::io::copy(&mut stream, &mut std::io::sink()).unwrap() > BULK_SIZE as u64;
    let before = server.peak_memory();
    let streams: Vec<_> = (0..32).map(|_| ask()).collect();
    // All of them wait for their readers now, each with what it holds.
    std::thread::sleep(Duration::from_millis(500));
    let each = (server.peak_memory() - before) / 32;
    assert!(each < 4 << 20, "{each} bytes a connection");
    assert!(streams.into_iter().all(whole));

    // A stop lets those end that are under way, and lets nobody new in.
    let running = ask();
    let mut first = [0; 1];
    running.peek(&mut first).unwrap();
    let reader = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(1));
        whole(running)
    });
    let (code, _) = server.stop();
    assert_eq!(code, Some(0));
    assert!(reader.join().unwrap(), "the pull that was under way is whole");
    assert!(TcpStream::connect(&host).is_err());

    // One that nobody reads does not hold the stop for ever.
    let server = site.serve();
    let host = server.host().to_owned();
    let mut stuck = connect(&host);
    write!(stuck, "GET /v2/shop/bulk/blobs/{layer} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    stuck.peek(&mut first).unwrap();
    let (code, took) = server.stop();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(40), "{took:?}");
}

#[test]
fn the_store_says_who_serves_it() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let start = |name: &str| {
        let mut command = fleetpack(home);
        command.current_dir(home).args(["serve", "--listen", "127.0.0.1:0", "--store", "store"]);
        Server::start(&mut command, &home.join(name))
    };
    let record = home.join("store/serve.json");
    let read = || std::fs::read_to_string(&record).unwrap_or_default();
    let one = start("one.log");
    assert!(read().contains(&one.endpoint));
    // The last one wins, and the first one leaves its record alone.
    let two = start("two.log");
    assert!(read().contains(&two.endpoint));
    assert_eq!(one.stop().0, Some(0));
    assert!(read().contains(&two.endpoint));
    let address = two.host().to_owned();
    let mut command = fleetpack(home);
    command.current_dir(home).args(["serve", "--store", "store", "--listen", &address]);
    run(&mut command).refused(1, &["cannot listen on", &address, "--listen"]);
    assert!(read().contains(&two.endpoint), "who cannot listen records nothing");
    assert_eq!(two.stop().0, Some(0));
    assert!(!record.exists(), "nobody serves it any more");
}
