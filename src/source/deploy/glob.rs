//! Patterns of file names, as Argo CD reads them.

/// How far a star goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stars {
    /// `*` takes everything, separators too; `{a,b}` is a choice (gobwas' glob without separators,
    /// which Argo CD uses for `directory.include` and `.exclude`).
    Everything,
    /// `*` stops at `/`, `**` as a whole component takes any number of them, and `{a,b}` is a choice
    /// (doublestar, one of Argo CD's two ways of matching files of a repository).
    Component,
    /// `*` stops at `/`, however many there are, and braces are braces (Go's `path.Match`, which Argo CD
    /// uses for folders of a repository).
    Single,
    /// `*` takes everything and braces are braces (Git's own patterns, the other way of matching files).
    Greedy,
}

/// The most choices that a pattern may spell out.
const CHOICES: usize = 256;

/// Whether `text` matches `pattern`; `None` where the pattern is not one.
pub fn matches(pattern: &str, text: &str, stars: Stars) -> Option<bool> {
    if pattern.len() > 1_024 {
        return None;
    }
    let mut choices = Vec::new();
    match stars {
        Stars::Everything | Stars::Component => spell_out(pattern, &mut choices)?,
        Stars::Single | Stars::Greedy => choices.push(pattern.to_owned()),
    }
    let text: Vec<char> = text.chars().collect();
    let mut any = false;
    for choice in choices {
        any |= one(&parse(&choice, stars)?, &text, stars);
    }
    Some(any)
}

/// Spells out the choices in braces.
fn spell_out(pattern: &str, out: &mut Vec<String>) -> Option<()> {
    let mut queue = vec![pattern.to_owned()];
    while let Some(pattern) = queue.pop() {
        let Some(open) = unescaped(&pattern, '{') else {
            if unescaped(&pattern, '}').is_some() {
                return None;
            }
            out.push(pattern);
            if out.len() > CHOICES {
                return None;
            }
            continue;
        };
        let (mut depth, mut start, mut end, mut parts) = (0, open + 1, None, Vec::new());
        for (at, c) in pattern[open..].char_indices().map(|(at, c)| (at + open, c)) {
            match c {
                '{' => depth += 1,
                '}' => {
                    depth -= 1;
                    if depth == 0 {
                        parts.push(&pattern[start..at]);
                        end = Some(at);
                        break;
                    }
                }
                ',' if depth == 1 => {
                    parts.push(&pattern[start..at]);
                    start = at + 1;
                }
                _ => {}
            }
        }
        let end = end?;
        if queue.len() + parts.len() > CHOICES {
            return None;
        }
        for part in parts.iter().rev() {
            queue.push(format!("{}{part}{}", &pattern[..open], &pattern[end + 1..]));
        }
    }
    Some(())
}

fn unescaped(text: &str, wanted: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if !escaped && c == wanted {
            return Some(at);
        }
        escaped = !escaped && c == '\\';
    }
    None
}

enum Token {
    Char(char),
    One,
    Any,
    /// `**/`: any number of components; `**` at the end: everything.
    Deep,
    Class {
        not: bool,
        ranges: Vec<(char, char)>,
    },
}

fn parse(pattern: &str, stars: Stars) -> Option<Vec<Token>> {
    let chars: Vec<char> = pattern.chars().collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        match chars[at] {
            '*' if chars.get(at + 1) == Some(&'*') => {
                let begins = at == 0 || chars[at - 1] == '/';
                while chars.get(at + 1) == Some(&'*') {
                    at += 1;
                }
                match (stars, chars.get(at + 1)) {
                    (Stars::Component, Some('/')) if begins => {
                        at += 1;
                        out.push(Token::Deep);
                    }
                    (Stars::Component, None) if begins => out.push(Token::Deep),
                    _ => out.push(Token::Any),
                }
            }
            '*' => out.push(Token::Any),
            '?' => out.push(Token::One),
            '\\' => {
                at += 1;
                out.push(Token::Char(*chars.get(at)?));
            }
            '[' => {
                at += 1;
                let not = matches!(chars.get(at), Some('^' | '!'));
                at += usize::from(not);
                let mut ranges = Vec::new();
                while *chars.get(at)? != ']' || ranges.is_empty() {
                    let low = chars[at];
                    let high = match (chars.get(at + 1), chars.get(at + 2)) {
                        (Some('-'), Some(high)) if *high != ']' => {
                            at += 2;
                            *high
                        }
                        _ => low,
                    };
                    ranges.push((low, high));
                    at += 1;
                }
                out.push(Token::Class { not, ranges });
            }
            c => out.push(Token::Char(c)),
        }
        at += 1;
    }
    Some(out)
}

/// Walks the table of prefixes: no backtracking, so no pattern is slow.
fn one(tokens: &[Token], text: &[char], stars: Stars) -> bool {
    let separates = |c: char| matches!(stars, Stars::Component | Stars::Single) && c == '/';
    let mut row = vec![false; text.len() + 1];
    row[0] = true;
    for (index, token) in tokens.iter().enumerate() {
        let mut next = vec![false; text.len() + 1];
        match token {
            Token::Any => {
                let mut on = false;
                for at in 0..=text.len() {
                    on = row[at] || (on && at > 0 && !separates(text[at - 1]));
                    next[at] = on;
                }
            }
            Token::Deep => {
                let last = index + 1 == tokens.len();
                let mut on = false;
                for at in 0..=text.len() {
                    on |= row[at];
                    next[at] = row[at] || (on && (last || (at > 0 && text[at - 1] == '/')));
                }
            }
            single => {
                for at in 0..text.len() {
                    let c = text[at];
                    let fits = match single {
                        Token::Char(wanted) => c == *wanted,
                        Token::Class { not, ranges } => {
                            !separates(c)
                                && ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *not
                        }
                        _ => !separates(c),
                    };
                    next[at + 1] = row[at] && fits;
                }
            }
        }
        row = next;
    }
    row[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_directories() {
        for (pattern, text, want) in [
            ("*.yaml", "a.yaml", true),
            ("*.yaml", "sub/a.yaml", true),
            ("{*.yml,config.json}", "config.json", true),
            ("{*.yml,config.json}", "other.json", false),
            ("{a,{b,c}}/x", "c/x", true),
            ("some-[ab]?", "some-b1", true),
            ("some-[!ab]*", "some-b1", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, text, Stars::Everything), Some(want), "{pattern} {text}");
        }
    }

    #[test]
    fn patterns_of_paths() {
        for (pattern, text, want) in [
            ("apps/*", "apps/web", true),
            ("apps/*", "apps/web/deep", false),
            ("*", "apps", true),
            ("*/*", "apps", false),
            ("apps/**/config.json", "apps/config.json", true),
            ("apps/**/config.json", "apps/a/b/config.json", true),
            ("apps/**/config.json", "apps/a/b/xconfig.json", false),
            ("apps/**", "apps/a/b", true),
            ("**/x", "x", true),
            ("a?c", "a/c", false),
            ("a[!b]c", "a/c", false),
        ] {
            assert_eq!(matches(pattern, text, Stars::Component), Some(want), "{pattern} {text}");
        }
        for bad in ["[a", "{a", "a}", "a\\", &"{a,b}".repeat(20)] {
            assert_eq!(matches(bad, "a", Stars::Component), None, "{bad}");
        }
        for (pattern, text, single, greedy) in [
            ("apps/*", "apps/a/b", false, true),
            ("apps/**", "apps/a/b", false, true),
            ("apps/**/c", "apps/c", false, false),
            ("{a,b}", "{a,b}", true, true),
            ("{a,b}", "a", false, false),
        ] {
            assert_eq!(matches(pattern, text, Stars::Single), Some(single), "{pattern} {text}");
            assert_eq!(matches(pattern, text, Stars::Greedy), Some(greedy), "{pattern} {text}");
        }
        let slow = format!("{}b", "*a".repeat(200));
        assert_eq!(matches(&slow, &"a".repeat(4_000), Stars::Everything), Some(false));
    }
}
