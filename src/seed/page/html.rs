//! The page as HTML. Every text from a release or the ledger goes through [`Text`]: names, versions
//! and errors are outside input.

use std::fmt::{self, Write as _};

use jiff::Timestamp;

use super::{Done, Kept, ReleaseLine, Site};

const STYLE: &str = include_str!("page.css");
/// Images that are shown at once; more are behind a summary that opens without a script.
const SHOWN: usize = 200;
/// Characters of an error.
const ERROR: usize = 2000;

/// Text in HTML, in an element or a quoted attribute.
struct Text<T>(T);

impl<T: fmt::Display> fmt::Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.to_string().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // Control characters and what turns the direction of text round.
                c if (c.is_control() && c != '\n')
                    || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
                {
                    f.write_char('\u{fffd}')?;
                }
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A moment, in UTC.
struct Moment(Timestamp);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(time) = self;
        write!(
            f,
            "<time datetime=\"{}\">{} UTC</time>",
            time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            time.strftime("%Y-%m-%d %H:%M")
        )
    }
}

/// Bytes as people read them.
fn bytes(count: u64) -> String {
    let units = [("GB", 1_000_000_000_u64), ("MB", 1_000_000), ("kB", 1_000)];
    match units.iter().find(|(_, unit)| count >= *unit) {
        Some((name, unit)) => {
            let tenths = count / (unit / 10);
            if tenths >= 1000 {
                format!("{} {name}", tenths / 10)
            } else {
                format!("{}.{} {name}", tenths / 10, tenths % 10)
            }
        }
        None => format!("{count} bytes"),
    }
}

/// The whole page.
pub(super) fn page(site: &Site, now: Timestamp) -> String {
    let mut out = String::with_capacity(16 << 10);
    // Writing to a string does not fail.
    let _ = write(&mut out, site, now);
    out
}

fn write(out: &mut String, site: &Site, now: Timestamp) -> fmt::Result {
    let title = match site.lines.as_slice() {
        [one] => format!("{} at this site", one.name),
        _ => "Releases at this site".to_owned(),
    };
    let title = Text(title);
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header><h1>{title}</h1>\n<p>As the {} knows it, {}",
        site.source,
        Moment(now)
    )?;
    write!(out, ". {} kept", bytes(site.used))?;
    if let Some(free) = site.free {
        write!(out, ", {} free", bytes(free))?;
    }
    out.push_str(".</p></header>\n");
    if site.lines.is_empty() {
        out.push_str(
            "<section><h2>No release yet</h2><p>The first <code>fleetpack apply</code> brings one.</p></section>\n",
        );
    }
    for line in &site.lines {
        release_line(out, line, site.source)?;
    }
    writeln!(
        out,
        "<footer>{}. The same as JSON: <a href=\"/status.json\">/status.json</a></footer>\n</main>\n</body>\n</html>",
        Text(site.generator)
    )
}

fn release_line(out: &mut String, line: &ReleaseLine, source: &str) -> fmt::Result {
    let shown = line.active.or(line.served);
    let main = line.releases.iter().find(|kept| Some(kept.release) == shown).or(line.releases.first());
    write!(out, "<section>\n<h2>{}", Text(&line.name))?;
    if let Some(main) = main {
        write!(out, " {}", Text(&main.version))?;
    }
    out.push_str("</h2>\n");
    state(out, line, source)?;
    if let Some(main) = main {
        facts(out, main)?;
        images(out, main)?;
    }
    others(out, line, main)?;
    history(out, &line.history)?;
    out.push_str("</section>\n");
    Ok(())
}

/// In words and with a sign, never by colour alone.
fn state(out: &mut String, line: &ReleaseLine, source: &str) -> fmt::Result {
    let (class, sign, word) = match line.state {
        "healthy" => ("good", "\u{2713}", "Healthy"),
        "failed" => ("bad", "\u{2717}", "The last attempt failed"),
        "unfinished" => ("bad", "\u{2026}", "An attempt runs, or was cut"),
        _ => ("open", "\u{25cb}", "Served"),
    };
    write!(out, "<div class=\"state {class}\"><b>{sign} {word}</b> <span>")?;
    match (line.state, line.recorded) {
        ("healthy", Some(time)) => {
            write!(
                out,
                "as recorded when it was applied, {}; <code>fleetpack status</code> asks the cluster",
                Moment(time)
            )?;
        }
        ("failed", Some(time)) => {
            write!(out, "{}", Moment(time))?;
            if line.active.is_some() {
                out.push_str("; shown below is the release that last became healthy");
            }
        }
        ("unfinished", Some(time)) => {
            write!(out, "it began {}; one that was cut is finished by the same command", Moment(time))?;
        }
        _ if source == "archive" => out.push_str("straight from an archive"),
        _ => out.push_str("no cluster was touched from here"),
    }
    if let Some(error) = &line.error {
        let error: String = error.chars().take(ERROR).collect();
        write!(out, "<br>{}", Text(error).to_string().replace('\n', "<br>"))?;
    }
    out.push_str("</span></div>\n");
    Ok(())
}

fn facts(out: &mut String, kept: &Kept) -> fmt::Result {
    writeln!(out, "<dl>\n<dt>Commit</dt><dd><code>{}</code></dd>", Text(&kept.commit))?;
    writeln!(out, "<dt>Release</dt><dd><code>{}</code></dd>", Text(kept.release))?;
    writeln!(
        out,
        "<dt>Sequence</dt><dd>{}</dd>\n<dt>Made</dt><dd>{}</dd>",
        kept.sequence,
        Moment(kept.created)
    )?;
    if let Some(ingested) = kept.ingested {
        writeln!(out, "<dt>Came in</dt><dd>{}</dd>", Moment(ingested))?;
    }
    writeln!(
        out,
        "<dt>Holds</dt><dd>{} objects, {} images, {}</dd>\n</dl>",
        kept.objects,
        kept.images.len(),
        bytes(kept.size)
    )
}

fn images(out: &mut String, kept: &Kept) -> fmt::Result {
    let (first, more) = kept.images.split_at(kept.images.len().min(SHOWN));
    for (part, hidden) in [(first, false), (more, true)] {
        if part.is_empty() {
            continue;
        }
        if hidden {
            writeln!(out, "<details><summary>{} more images</summary>", part.len())?;
        }
        out.push_str(
            "<table><caption>Images</caption><thead><tr><th scope=\"col\">Reference</th>\
             <th scope=\"col\">Digest</th><th scope=\"col\">Platforms</th></tr></thead><tbody>\n",
        );
        for image in part {
            let digest = image.digest.to_string();
            writeln!(
                out,
                "<tr><th scope=\"row\"><code>{}</code></th><td data-label=\"Digest\"><code title=\"{}\">{}</code></td>\
                 <td data-label=\"Platforms\">{}</td></tr>",
                Text(&image.reference),
                Text(&digest),
                Text(image.digest.short()),
                if image.platforms.is_empty() {
                    "as it is".to_owned()
                } else {
                    Text(image.platforms.join(", ")).to_string()
                }
            )?;
        }
        out.push_str("</tbody></table>\n");
        if hidden {
            out.push_str("</details>\n");
        }
    }
    Ok(())
}

fn others(out: &mut String, line: &ReleaseLine, main: Option<&Kept>) -> fmt::Result {
    let others: Vec<&Kept> =
        line.releases.iter().filter(|kept| Some(kept.release) != main.map(|main| main.release)).collect();
    if others.is_empty() {
        return Ok(());
    }
    out.push_str(
        "<table><caption>Also kept</caption><thead><tr><th scope=\"col\">Version</th><th scope=\"col\">Release</th>\
         <th scope=\"col\">Commit</th><th scope=\"col\">Came in</th><th scope=\"col\" class=\"number\">Size</th></tr></thead><tbody>\n",
    );
    for kept in others {
        let commit: String = kept.commit.chars().take(12).collect();
        let ingested = kept.ingested.map_or(String::new(), |time| Moment(time).to_string());
        writeln!(
            out,
            "<tr><th scope=\"row\">{}{}</th><td data-label=\"Release\"><code>{}</code></td><td data-label=\"Commit\"><code>{}</code></td>\
             <td data-label=\"Came in\">{ingested}</td><td data-label=\"Size\" class=\"number\">{}</td></tr>",
            Text(&kept.version),
            if Some(kept.release) == line.served { " (served)" } else { "" },
            Text(kept.release.short()),
            Text(commit),
            bytes(kept.size)
        )?;
    }
    out.push_str("</tbody></table>\n");
    Ok(())
}

fn history(out: &mut String, history: &[Done]) -> fmt::Result {
    if history.is_empty() {
        return Ok(());
    }
    out.push_str(
        "<table><caption>What was done, the latest first</caption><thead><tr><th scope=\"col\">When</th>\
         <th scope=\"col\">What</th><th scope=\"col\">Release</th><th scope=\"col\">Outcome</th></tr></thead><tbody>\n",
    );
    for done in history {
        let version = done
            .version
            .as_ref()
            .map_or_else(|| "left the store".to_owned(), |version| Text(version).to_string());
        write!(
            out,
            "<tr><td>{}</td><td data-label=\"What\">{}</td><td data-label=\"Release\">{version} <code>{}</code></td>\
             <td data-label=\"Outcome\">{}",
            Moment(done.time),
            Text(&done.action),
            Text(done.release.short()),
            done.outcome
        )?;
        if let Some(error) = &done.error {
            let error: String = error.lines().next().unwrap_or_default().chars().take(300).collect();
            write!(out, "<br><span class=\"soft\">{}</span>", Text(error))?;
        }
        out.push_str("</td></tr>\n");
    }
    out.push_str("</tbody></table>\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Image, site};
    use super::*;
    use crate::model::Digest;

    const HOSTILE: &str = "</span><script src=//evil.example/x.js>\"'&\u{202e}\u{1b}";

    fn full() -> Site {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let kept = |release, version: &str| Kept {
            release,
            version: version.parse().unwrap(),
            sequence: 7,
            commit: format!("{HOSTILE}c0ffee"),
            created: Timestamp::UNIX_EPOCH,
            ingested: Some(Timestamp::UNIX_EPOCH),
            size: 906_200_000,
            objects: 9,
            images: (0..SHOWN + 2)
                .map(|number| Image {
                    reference: format!("registry.example.com/{HOSTILE}:{number}"),
                    digest: one,
                    platforms: vec![HOSTILE.into()],
                })
                .collect(),
        };
        let done = |outcome, error: Option<&str>| Done {
            time: Timestamp::UNIX_EPOCH,
            action: HOSTILE.into(),
            release: two,
            version: None,
            outcome,
            error: error.map(str::to_owned),
        };
        let line = ReleaseLine {
            name: "shop".parse().unwrap(),
            state: "failed",
            recorded: Some(Timestamp::UNIX_EPOCH),
            error: Some(format!("{HOSTILE}\nsecond line")),
            active: Some(one),
            served: Some(two),
            releases: vec![kept(two, "2"), kept(one, "1.0")],
            history: vec![done("failed", Some(HOSTILE)), done("succeeded", None)],
        };
        site("store", 1_500, vec![line])
    }

    #[test]
    fn nothing_from_outside_is_obeyed_and_nothing_outside_is_asked_for() {
        let page = page(&full(), Timestamp::UNIX_EPOCH);
        assert!(
            page.contains(
                "&lt;/span&gt;&lt;script src=//evil.example/x.js&gt;&quot;&#39;&amp;\u{fffd}\u{fffd}"
            )
        );
        for harmful in [
            "<script",
            "src=\"",
            "http:",
            "https:",
            "url(",
            "@import",
            "\u{202e}",
            "\u{1b}",
            "onload",
            "javascript:",
        ] {
            assert!(!page.contains(harmful), "{harmful}");
        }
        // The only links are the icon without content and the page's own JSON.
        let links: Vec<&str> =
            page.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        assert_eq!(links, ["data:,", "/status.json"]);
    }

    #[test]
    fn elements_are_closed() {
        let page = page(&full(), Timestamp::UNIX_EPOCH);
        for element in [
            "main", "header", "section", "table", "thead", "tbody", "tr", "td", "th", "dl", "code",
            "details", "div", "span", "time", "footer", "caption",
        ] {
            let opened =
                page.matches(&format!("<{element}>")).count() + page.matches(&format!("<{element} ")).count();
            assert_eq!(opened, page.matches(&format!("</{element}>")).count(), "{element}");
            assert!(opened > 0, "{element}");
        }
        assert!(page.contains("2 more images"));
        assert!(page.contains("\u{2717} The last attempt failed"));
    }

    #[test]
    fn sizes_are_read_easily() {
        let sizes = [0, 999, 1_500, 906_200_000, 1_234_000_000, 250_000_000_000];
        assert_eq!(sizes.map(bytes), ["0 bytes", "999 bytes", "1.5 kB", "906 MB", "1.2 GB", "250 GB"]);
    }
}
