//! Figures about a running server, in the Prometheus text format (version 0.0.4).
//!
//! Labels have few values each: routes and status codes, never names or paths from a request.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::content::Active;

/// Upper bounds of the durations, in milliseconds.
const BOUNDS: [u64; 11] = [1, 5, 10, 50, 100, 500, 1_000, 5_000, 30_000, 120_000, 600_000];

/// What a request was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Route {
    Base,
    Catalog,
    Tags,
    Manifest,
    Blob,
    Referrers,
    GitRefs,
    GitPack,
    GitLfs,
    Health,
    Metrics,
    Other,
}

impl Route {
    const ALL: [Self; 12] = [
        Self::Base,
        Self::Catalog,
        Self::Tags,
        Self::Manifest,
        Self::Blob,
        Self::Referrers,
        Self::GitRefs,
        Self::GitPack,
        Self::GitLfs,
        Self::Health,
        Self::Metrics,
        Self::Other,
    ];

    /// What the path looks like; whether it leads anywhere is not asked.
    pub(super) fn of(path: &str) -> Self {
        if let Some(rest) = path.strip_prefix("/v2").filter(|rest| rest.is_empty() || rest.starts_with('/')) {
            let has = |part: &str| rest.contains(part);
            return match rest {
                "" | "/" => Self::Base,
                "/_catalog" => Self::Catalog,
                _ if has("/manifests/") => Self::Manifest,
                _ if has("/blobs/") => Self::Blob,
                _ if has("/referrers/") => Self::Referrers,
                _ if rest.ends_with("/tags/list") => Self::Tags,
                _ => Self::Other,
            };
        }
        match path {
            "/healthz" => Self::Health,
            "/metrics" => Self::Metrics,
            _ if !path.starts_with("/git/") => Self::Other,
            _ if path.contains("/info/lfs/") => Self::GitLfs,
            _ if path.ends_with("/git-upload-pack") => Self::GitPack,
            _ => Self::GitRefs,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Catalog => "catalog",
            Self::Tags => "tags",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Referrers => "referrers",
            Self::GitRefs => "git_refs",
            Self::GitPack => "git_pack",
            Self::GitLfs => "git_lfs",
            Self::Health => "health",
            Self::Metrics => "metrics",
            Self::Other => "other",
        }
    }
}

#[derive(Default)]
struct OfRoute {
    bytes: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// The figures.
#[derive(Default)]
pub(super) struct Metrics {
    requests: Mutex<BTreeMap<(Route, u16), u64>>,
    routes: [OfRoute; Route::ALL.len()],
    /// Connections that are open.
    pub(super) open: AtomicU64,
    /// Connections that were taken.
    pub(super) accepted: AtomicU64,
    /// Connections that were turned away because their peer had too many.
    pub(super) turned_away: AtomicU64,
    /// TLS handshakes that failed.
    pub(super) handshakes: AtomicU64,
    /// Connections that ended because their client took nothing or said nothing.
    pub(super) stalled: AtomicU64,
    /// Requests that are being answered.
    pub(super) in_flight: AtomicU64,
    /// Answers that ended before they were whole.
    pub(super) cut: AtomicU64,
    /// Times at which the content could not be read.
    pub(super) content_errors: AtomicU64,
    /// When the certificate ends, in seconds since 1970; 0 without one.
    pub(super) certificate_end: AtomicU64,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Metrics {
    /// A request has ended.
    pub(super) fn ended(&self, route: Route, status: u16, bytes: u64, took: Duration) {
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry((route, status)).or_default() +=
            1;
        let of = &self.routes[route as usize];
        of.bytes.fetch_add(bytes, Ordering::Relaxed);
        of.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let bucket = BOUNDS.iter().position(|bound| took <= Duration::from_millis(*bound));
        count(&of.buckets[bucket.unwrap_or(BOUNDS.len())]);
    }

    /// All of them as text. `process` are figures about the process, ready to print.
    pub(super) fn render(&self, active: &[Active], process: &Process) -> String {
        let mut out = String::with_capacity(8 << 10);
        let version = env!("CARGO_PKG_VERSION");
        head(&mut out, "fleetpack_build_info", "gauge", "The program that runs.");
        line(&mut out, "fleetpack_build_info", &[("version", version)], 1);
        head(
            &mut out,
            "fleetpack_release_active",
            "gauge",
            "The release of each line that runs, by the ledger.",
        );
        for Active { name, version, digest } in active {
            let (name, digest) = (name.to_string(), digest.to_string());
            let labels = [("name", &*name), ("version", version), ("digest", &digest)];
            line(&mut out, "fleetpack_release_active", &labels, 1);
        }
        head(&mut out, "fleetpack_http_requests_total", "counter", "Requests that have ended.");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for ((route, status), number) in &requests {
            let status = status.to_string();
            let labels = [("route", route.name()), ("code", &*status)];
            line(&mut out, "fleetpack_http_requests_total", &labels, *number);
        }
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let asked =
            || Route::ALL.into_iter().filter(|route| requests.keys().any(|(other, _)| other == route));
        head(&mut out, "fleetpack_http_sent_bytes_total", "counter", "Bytes of the bodies of answers.");
        for route in asked() {
            let sent = load(&self.routes[route as usize].bytes);
            line(&mut out, "fleetpack_http_sent_bytes_total", &[("route", route.name())], sent);
        }
        let name = "fleetpack_http_request_duration_seconds";
        head(&mut out, name, "histogram", "From a request's head to the end of its answer.");
        for route in asked() {
            self.histogram(&mut out, name, route);
        }
        for (name, kind, help, value) in [
            ("fleetpack_connections", "gauge", "Connections that are open.", &self.open),
            ("fleetpack_connections_total", "counter", "Connections that were taken.", &self.accepted),
            (
                "fleetpack_connections_refused_total",
                "counter",
                "Connections of peers that had too many.",
                &self.turned_away,
            ),
            (
                "fleetpack_connections_stalled_total",
                "counter",
                "Connections whose client took or said nothing.",
                &self.stalled,
            ),
            (
                "fleetpack_tls_handshake_errors_total",
                "counter",
                "TLS handshakes that failed.",
                &self.handshakes,
            ),
            (
                "fleetpack_http_requests_in_flight",
                "gauge",
                "Requests that are being answered.",
                &self.in_flight,
            ),
            (
                "fleetpack_http_answers_cut_total",
                "counter",
                "Answers that ended before they were whole.",
                &self.cut,
            ),
            (
                "fleetpack_content_errors_total",
                "counter",
                "Times the store or archive could not be read.",
                &self.content_errors,
            ),
        ] {
            head(&mut out, name, kind, help);
            line(&mut out, name, &[], load(value));
        }
        let end = load(&self.certificate_end);
        if end > 0 {
            let name = "fleetpack_tls_certificate_end_timestamp_seconds";
            head(&mut out, name, "gauge", "When the certificate ends.");
            line(&mut out, name, &[], end);
        }
        process.render(&mut out);
        out
    }

    fn histogram(&self, out: &mut String, name: &str, route: Route) {
        let of = &self.routes[route as usize];
        let mut below = 0;
        let bucket = format!("{name}_bucket");
        for (at, counter) in of.buckets.iter().enumerate() {
            below += counter.load(Ordering::Relaxed);
            let bound = BOUNDS.get(at).map_or_else(|| "+Inf".to_owned(), |bound| thousandths(*bound));
            line(out, &bucket, &[("route", route.name()), ("le", &*bound)], below);
        }
        let micros = of.micros.load(Ordering::Relaxed);
        let _ = writeln!(
            out,
            "{name}_sum{{route=\"{}\"}} {}.{:06}",
            route.name(),
            micros / 1_000_000,
            micros % 1_000_000
        );
        line(out, &format!("{name}_count"), &[("route", route.name())], below);
    }
}

/// `1500` as `1.5`.
fn thousandths(number: u64) -> String {
    let text = format!("{}.{:03}", number / 1000, number % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing into a string never fails, here and below.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: u64) {
    out.push_str(name);
    for (at, (key, text)) in labels.iter().enumerate() {
        out.push(if at == 0 { '{' } else { ',' });
        let _ = write!(out, "{key}=\"");
        for c in text.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    if !labels.is_empty() {
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
}

/// Figures about this process, under the names that client libraries of Prometheus give them.
pub(super) struct Process {
    resident: Option<u64>,
    virtual_size: Option<u64>,
    threads: Option<u64>,
    cpu: Option<Duration>,
    descriptors: Option<u64>,
}

impl Process {
    /// Reads them from `/proc`; what cannot be read is left out. Blocking.
    pub(super) fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Self {
            resident: field("VmRSS:").map(|kib| kib << 10),
            virtual_size: field("VmSize:").map(|kib| kib << 10),
            threads: field("Threads:"),
            cpu: Duration::try_from(usage).ok(),
            descriptors: std::fs::read_dir("/proc/self/fd").ok().map(|found| found.count() as u64),
        }
    }

    fn render(&self, out: &mut String) {
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory.", self.resident),
            ("process_virtual_memory_bytes", "Virtual memory.", self.virtual_size),
            ("process_threads", "Threads.", self.threads),
            ("process_open_fds", "Open descriptors.", self.descriptors),
        ] {
            if let Some(value) = value {
                head(out, name, "gauge", help);
                line(out, name, &[], value);
            }
        }
        if let Some(cpu) = self.cpu {
            head(out, "process_cpu_seconds_total", "counter", "Time of processors, user and system.");
            let _ = writeln!(out, "process_cpu_seconds_total {}.{:06}", cpu.as_secs(), cpu.subsec_micros());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        for (path, route) in [
            ("/v2", Route::Base),
            ("/v2/", Route::Base),
            ("/v2/_catalog", Route::Catalog),
            ("/v2/a/b/manifests/1", Route::Manifest),
            ("/v2/a/b/blobs/sha256:x", Route::Blob),
            ("/v2/a/referrers/sha256:x", Route::Referrers),
            ("/v2/a/tags/list", Route::Tags),
            ("/v2x/", Route::Other),
            ("/git/a.git/info/refs", Route::GitRefs),
            ("/git/a.git/git-upload-pack", Route::GitPack),
            ("/git/a.git/info/lfs/objects/batch", Route::GitLfs),
            ("/healthz", Route::Health),
            ("/metrics", Route::Metrics),
            ("/", Route::Other),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
        for (at, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, at);
        }
    }

    #[test]
    fn text() {
        let metrics = Metrics::default();
        metrics.ended(Route::Blob, 200, 70, Duration::from_millis(7));
        metrics.ended(Route::Blob, 200, 30, Duration::from_mins(50));
        let active = Active {
            name: "shop".parse().unwrap(),
            version: "1 \"x\"\\\n".to_owned(),
            digest: crate::model::Digest::of(b"x"),
        };
        let text = metrics.render(&[active], &Process::read());
        for want in [
            "fleetpack_http_requests_total{route=\"blob\",code=\"200\"} 2\n",
            "fleetpack_http_sent_bytes_total{route=\"blob\"} 100\n",
            "_bucket{route=\"blob\",le=\"0.005\"} 0\n",
            "_bucket{route=\"blob\",le=\"0.01\"} 1\n",
            "_bucket{route=\"blob\",le=\"600\"} 1\n",
            "_bucket{route=\"blob\",le=\"+Inf\"} 2\n",
            "_sum{route=\"blob\"} 3000.007000\n",
            "_count{route=\"blob\"} 2\n",
            "version=\"1 \\\"x\\\"\\\\\\n\"",
            "process_resident_memory_bytes ",
            "fleetpack_connections 0\n",
        ] {
            assert!(text.contains(want), "{want} in:\n{text}");
        }
        assert!(!text.contains("manifest"));
    }
}
