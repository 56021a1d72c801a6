//! `fleetpack serve`.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::environment::{self, variable};
use super::serve_log::{LogFormat, ServeLog};
use super::settings::{self, StoreArgs};
use super::ui::{Failure, Ui};
use crate::model::Progress;
use crate::ops;
use crate::ops::notify::Notifier;
use crate::ops::serve::{AccessLog, Limits, ServerName, Tls};
use crate::ops::serve_unit::{UnitOptions, unit};

/// Serve images and Git from the store, or straight from an archive, read-only.
///
/// Images: OCI distribution pull under `/v2/`. Git: smart HTTP under `/git/NAME.git`. `/healthz` says
/// whether the content can be read, `/metrics` has figures for Prometheus. A release that is applied
/// while it runs is seen without a restart. Prints its URL once it answers, and ends on SIGTERM or
/// Ctrl-C, after requests that are under way have ended.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5050")]
    listen: SocketAddr,
    #[command(flatten)]
    store: StoreArgs,
    /// Serve this archive instead of the store; each blob is verified when it is first read.
    #[arg(long, value_name = "ARCHIVE", requires = "key")]
    archive: Option<PathBuf>,
    /// Public key that must have signed the archive; may be given several times.
    #[arg(long, short, value_name = "PUB", value_delimiter = ',')]
    key: Vec<PathBuf>,
    /// Name or address by which nodes reach this server; may be given several times. The first one
    /// is recorded as the site's endpoint, all of them stand in a self-signed site's certificate.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    server_name: Vec<ServerName>,
    /// Speak TLS with this certificate: PEM, the server's own first, then those between it and the
    /// authority. Read again when it changes, and on SIGHUP.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate: PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Speak TLS with a certificate of the site's own authority, which is made in the store on first
    /// use. Nodes are to trust `STORE/serve/ca.crt`.
    #[arg(long, conflicts_with_all = ["tls_cert", "archive"])]
    tls_self_signed: bool,
    /// Ask for a name and a password, those of this htpasswd file (bcrypt: `htpasswd -B`). For
    /// everything but `/healthz`. Read again when it changes, and on SIGHUP.
    #[arg(long, value_name = "FILE")]
    htpasswd: Option<PathBuf>,
    /// Let passwords cross a network in the clear: something in front of this server speaks TLS.
    #[arg(long, requires = "htpasswd")]
    plaintext_passwords: bool,
    /// Connections at a time; more wait.
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections, value_parser = at_least_one)]
    max_connections: usize,
    /// Connections of one address at a time; more are turned away. Loopback is not counted.
    #[arg(long, value_name = "N", default_value_t = Limits::default().peer_connections, value_parser = at_least_one)]
    max_connections_per_address: usize,
    /// How long a request's head may take, and a connection lie idle.
    #[arg(long, value_name = "D", default_value = "30s", value_parser = settings::duration)]
    idle_timeout: Duration,
    /// How long a client may take nothing, or next to nothing, of an answer.
    #[arg(long, value_name = "D", default_value = "2m", value_parser = settings::duration)]
    stall_timeout: Duration,
    /// How long requests that are under way may go on after a stop is asked for.
    #[arg(long, value_name = "D", default_value = "10s", value_parser = settings::duration)]
    grace: Duration,
    /// Write a line for each request to stderr, and warnings in the same format [default: warnings
    /// alone, as text].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Print a systemd unit that serves with these very options, and end.
    #[arg(long)]
    print_systemd_unit: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=1_000_000).contains(number));
    number.ok_or_else(|| format!("`{text}` is not a number from 1 to 1000000"))
}

impl Args {
    /// Serves until told to stop.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        if self.print_systemd_unit {
            ui.raw(unit(&self.unit()?).as_bytes());
            return Ok(ExitCode::SUCCESS);
        }
        let log = self.log_format.map(|format| Arc::new(ServeLog::new(format, Arc::clone(ui))));
        let progress: Arc<dyn Progress> = match &log {
            Some(log) => log.clone(),
            None => ui.clone(),
        };
        let watchdog = variable("WATCHDOG_USEC").and_then(|text| text.to_str()?.parse().ok());
        let watchdog = watchdog.map(Duration::from_micros);
        let options = ops::serve::Options {
            listen: self.listen,
            content: match self.archive {
                Some(archive) => ops::serve::From::Archive { archive, keys: self.key },
                None => ops::serve::From::Store(self.store.path()),
            },
            names: self.server_name,
            tls: match (self.tls_cert, self.tls_key) {
                (Some(certificate), Some(key)) => Tls::Files { certificate, key },
                _ if self.tls_self_signed => Tls::SelfSigned,
                _ => Tls::None,
            },
            passwords: self.htpasswd,
            plaintext_passwords: self.plaintext_passwords,
            limits: Limits {
                connections: self.max_connections,
                peer_connections: self.max_connections_per_address,
                head: self.idle_timeout.max(Duration::from_secs(1)),
                stall: self.stall_timeout.max(Duration::from_secs(1)),
                grace: self.grace,
                ..Limits::default()
            },
            log: log.map(|log| log as Arc<dyn AccessLog>),
            notify: variable("NOTIFY_SOCKET").map(|socket| Notifier::new(socket.into(), watchdog)),
        };
        let ready = |endpoint: &str| ui.data(endpoint);
        settings::serving_runtime()?.block_on(ops::serve::serve(options, progress, ready))?;
        Ok(ExitCode::SUCCESS)
    }

    /// What a unit for these options depends on.
    fn unit(self) -> Result<UnitOptions, Failure> {
        let program = std::env::current_exe().map_err(|error| {
            Failure::usage(format!("cannot tell where this program lies: {error}"), "run it by its path")
        })?;
        let folder = environment::working_folder();
        let mut command = vec![program.display().to_string(), "serve".to_owned()];
        let mut reads = Vec::new();
        let file = |command: &mut Vec<String>, flag: &str, path: &Path| {
            let path = folder.join(path);
            command.push(format!("{flag}={}", path.display()));
            path
        };
        command.push(format!("--listen={}", self.listen));
        let store = match &self.archive {
            Some(archive) => {
                reads.push(file(&mut command, "--archive", archive));
                for key in &self.key {
                    reads.push(file(&mut command, "--key", key));
                }
                None
            }
            None => Some(file(&mut command, "--store", &self.store.path())),
        };
        command.extend(self.server_name.iter().map(|name| format!("--server-name={name}")));
        for (flag, path) in
            [("--tls-cert", &self.tls_cert), ("--tls-key", &self.tls_key), ("--htpasswd", &self.htpasswd)]
        {
            if let Some(path) = path {
                reads.push(file(&mut command, flag, path));
            }
        }
        for (flag, given) in
            [("--tls-self-signed", self.tls_self_signed), ("--plaintext-passwords", self.plaintext_passwords)]
        {
            if given {
                command.push(flag.to_owned());
            }
        }
        let usual = Limits::default();
        for (flag, given, usual) in [
            ("--max-connections", self.max_connections, usual.connections),
            ("--max-connections-per-address", self.max_connections_per_address, usual.peer_connections),
        ] {
            if given != usual {
                command.push(format!("{flag}={given}"));
            }
        }
        for (flag, given, usual) in [
            ("--idle-timeout", self.idle_timeout, usual.head),
            ("--stall-timeout", self.stall_timeout, usual.stall),
            ("--grace", self.grace, usual.grace),
        ] {
            if given != usual {
                command.push(format!("{flag}={}s", given.as_secs()));
            }
        }
        if let Some(format) = self.log_format {
            command.push(format!("--log-format={format}"));
        }
        let owner = store.as_ref().and_then(|store| std::fs::metadata(store).ok());
        Ok(UnitOptions {
            command,
            store,
            reads,
            owner: owner.map(|data| data.uid()).filter(|owner| *owner != 0),
            port: self.listen.port(),
            grace: self.grace,
        })
    }
}
