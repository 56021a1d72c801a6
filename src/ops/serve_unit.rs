//! A systemd unit for `serve`, as closed as it can be: the server reads a store, listens, and does
//! nothing else.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the unit depends on.
#[derive(Debug, Clone)]
pub struct UnitOptions {
    /// The program and its arguments; paths are absolute.
    pub command: Vec<String>,
    /// The store, unless an archive is served.
    pub store: Option<PathBuf>,
    /// Files that are read: archive, keys, certificate, passwords.
    pub reads: Vec<PathBuf>,
    /// Who owns the store, where that is not root.
    pub owner: Option<u32>,
    /// The port that is listened on.
    pub port: u16,
    /// How long a stop may take.
    pub grace: Duration,
}

/// The text of the unit.
#[must_use]
pub fn unit(options: &UnitOptions) -> String {
    let UnitOptions { command, store, reads, owner, port, grace } = options;
    let paths = || store.iter().chain(reads);
    let below = |folders: &[&str]| paths().any(|path| folders.iter().any(|folder| path.starts_with(folder)));
    let mounts: Vec<String> = paths().map(|path| word(&path.to_string_lossy())).collect();
    let exec = command.iter().map(|part| argument(part)).collect::<Vec<_>>().join(" ");
    let capability = if *port != 0 && *port < 1024 { "CAP_NET_BIND_SERVICE" } else { "" };
    let mut out = String::new();
    // Writing into a string never fails.
    let _ = writeln!(
        out,
        "# Written by `fleetpack serve --print-systemd-unit`. Use it like this:\n\
         #     fleetpack serve … --print-systemd-unit > /etc/systemd/system/fleetpack.service\n\
         #     systemctl daemon-reload && systemctl enable --now fleetpack\n\
         [Unit]\nDescription=Images and Git of this site (fleetpack serve)\n\
         Documentation=man:fleetpack-serve(1)\nWants=network-online.target\n\
         After=network-online.target local-fs.target\nRequiresMountsFor={}\n\
         StartLimitIntervalSec=0\n\n\
         [Service]\nType=notify\nExecStart={exec}\nExecReload=/bin/kill -HUP $MAINPID\n\
         Restart=always\nRestartSec=2\nWatchdogSec=60\nTimeoutStopSec={}\nLimitNOFILE=65536",
        mounts.join(" "),
        grace.as_secs() + 10,
    );
    if let Some(owner) = owner {
        let _ = writeln!(out, "User={owner}");
    }
    match store {
        Some(store) if store == Path::new("/var/lib/fleetpack") && owner.is_none() => {
            let _ = writeln!(out, "StateDirectory=fleetpack\nStateDirectoryMode=0755");
        }
        Some(store) => {
            let _ = writeln!(out, "ReadWritePaths={}", word(&store.to_string_lossy()));
        }
        None => {}
    }
    let home = if below(&["/home", "/root", "/run/user"]) { "read-only" } else { "yes" };
    let temporary = if below(&["/tmp", "/var/tmp"]) { "no" } else { "yes" };
    let _ = write!(
        out,
        "\n# Nothing but the store can be written, nothing but the network reached.\n\
         ProtectSystem=strict\nProtectHome={home}\nPrivateTmp={temporary}\nPrivateDevices=yes\n\
         ProtectProc=invisible\nProcSubset=all\nProtectClock=yes\nProtectHostname=yes\n\
         ProtectKernelTunables=yes\nProtectKernelModules=yes\nProtectKernelLogs=yes\n\
         ProtectControlGroups=yes\nCapabilityBoundingSet={capability}\nAmbientCapabilities={}\n\
         NoNewPrivileges=yes\nRestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX\n\
         RestrictNamespaces=yes\nRestrictRealtime=yes\nRestrictSUIDSGID=yes\nLockPersonality=yes\n\
         MemoryDenyWriteExecute=yes\nRemoveIPC=yes\nKeyringMode=private\nDevicePolicy=closed\n\
         SystemCallArchitectures=native\nSystemCallFilter=@system-service\n\
         SystemCallFilter=~@privileged @resources\nSystemCallFilter=setrlimit prlimit64\n\
         SystemCallErrorNumber=EPERM\nUMask=0022\n\n\
         [Install]\nWantedBy=multi-user.target\n",
        if owner.is_some() { capability } else { "" },
    );
    out
}

/// A word of a setting: quoted where it must be, specifiers escaped (systemd.syntax(7)).
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@,[]".contains(c);
    if text.chars().all(plain) && !text.is_empty() {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '%' => quoted.push_str("%%"),
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A word of a command line, where `$` means something too.
fn argument(text: &str) -> String {
    word(&text.replace('$', "$$"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(store: &str, port: u16, owner: Option<u32>) -> UnitOptions {
        UnitOptions {
            command: vec!["/usr/bin/fleetpack".into(), "serve".into(), format!("--store={store}")],
            store: Some(store.into()),
            reads: vec!["/etc/fleetpack/server.crt".into()],
            owner,
            port,
            grace: Duration::from_secs(20),
        }
    }

    #[test]
    fn a_unit_allows_what_is_needed_and_no_more() {
        let usual = unit(&options("/var/lib/fleetpack", 5050, None));
        for want in [
            "ExecStart=/usr/bin/fleetpack serve --store=/var/lib/fleetpack\n",
            "StateDirectory=fleetpack\n",
            "ProtectHome=yes\n",
            "CapabilityBoundingSet=\n",
            "TimeoutStopSec=30\n",
            "RequiresMountsFor=/var/lib/fleetpack /etc/fleetpack/server.crt\n",
        ] {
            assert!(usual.contains(want), "{want} in:\n{usual}");
        }
        let other = unit(&options("/home/a b/$x%y", 443, Some(1000)));
        for want in [
            "\"--store=/home/a b/$$x%%y\"\n",
            "ReadWritePaths=\"/home/a b/$x%%y\"\n",
            "User=1000\n",
            "ProtectHome=read-only\n",
            "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n",
        ] {
            assert!(other.contains(want), "{want} in:\n{other}");
        }
    }
}
