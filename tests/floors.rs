//! The house holds: imports point down only, each package has one door, `unsafe` stays in the cellars, no file grows
//! beyond what one can read. Reads the sources; a message names file and line.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The floors of a crate, from the roof to the cellar; those in one row stand side by side.
struct House {
    source: &'static str,
    floors: &'static [&'static [&'static str]],
    /// On no floor: everybody may use them.
    everywhere: &'static [&'static str],
    /// Files that are on no floor themselves.
    exempt: &'static [&'static str],
}

const HOUSES: [House; 2] = [
    House {
        source: "src",
        floors: &[
            &["main"],
            &["cli"],
            &["control"],
            &["pool", "actor", "map", "supervise"],
            &["supervisor"],
            &["process", "keeper", "program"],
            &["queue", "connection", "handle", "memory"],
            &["sync"],
            &["reactor"],
            &["sys"],
        ],
        everywhere: &["error", "exit", "Exit", "cause", "cpu", "cpu_count", "cpu_limit"],
        // Words that all floors share; what they say of signals and processors is theirs to look up.
        exempt: &["lib.rs", "main.rs", "error.rs", "exit.rs", "cause.rs", "cpu.rs"],
    },
    House {
        source: "worker/src",
        floors: &[
            &[
                "entry", "keeper", "serve", "chunk", "outlet", "task", "panic", "current", "drill", "bytes",
                "host", "method",
            ],
            &["ipc", "wire"],
            &["sys"],
        ],
        everywhere: &[],
        exempt: &["lib.rs"],
    },
];

/// A source file as the compiler sees it outside tests: no comments, no strings, nothing from the first `#[cfg(test)]` on.
struct Source {
    /// From the root of the repository.
    path: PathBuf,
    /// From the crate's `src`.
    inner: PathBuf,
    lines: usize,
    code: String,
}

impl Source {
    fn line_of(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }

    /// The module's path within its crate.
    fn module(&self) -> Vec<String> {
        let mut path: Vec<String> =
            self.inner.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if matches!(path.last().map(String::as_str), Some("mod" | "lib")) {
            path.pop();
        }
        path
    }

    fn is_in(&self, dir: &str) -> bool {
        self.inner.starts_with(dir)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(house: &House) -> Vec<Source> {
    let base = root().join(house.source);
    let (mut found, mut dirs) = (Vec::new(), vec![base.clone()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let is_test = path.file_stem().unwrap().to_str().unwrap().ends_with("tests");
                let code = if is_test { String::new() } else { code(&text) };
                found.push(Source {
                    inner: path.strip_prefix(&base).unwrap().into(),
                    path: path.strip_prefix(root()).unwrap().into(),
                    lines: text.lines().count(),
                    code,
                });
            }
        }
    }
    assert!(found.len() > 5, "{} has sources", house.source);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Blanks out comments, strings and characters, and cuts the tests off; lines stay where they are.
fn code(text: &str) -> String {
    let text = text.split_once("#[cfg(test)]").map_or(text, |(before, _)| before);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            string(rest)
        } else if first == 'r' && raw_string(rest).is_some() && !ends_in_word(&out) {
            raw_string(rest).unwrap()
        } else if first == '\'' {
            character(rest)
        } else {
            0
        };
        if skipped == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.extend(rest[..skipped].chars().map(|c| if c == '\n' { c } else { ' ' }));
            rest = &rest[skipped..];
        }
    }
    out
}

fn ends_in_word(text: &str) -> bool {
    text.ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

fn raw_string(text: &str) -> Option<usize> {
    let body = text.strip_prefix('r')?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = 1 + hashes + 1;
    Some(text[start..].find(&end).map_or(text.len(), |at| start + at + end.len()))
}

/// A character's length, or 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[2..].find('\'').map_or(0, |at| at + 3),
        Some(_) => chars.next().filter(|&(_, c)| c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// Where `word` stands by itself.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        !code[..at].ends_with(is_part) && !code[at + word.len()..].starts_with(is_part)
    })
}

/// The first names of what follows a path's beginning: one, or several in braces.
fn names(code: &str) -> Vec<&str> {
    let name = |text| -> &str {
        let text: &str = text;
        let text = text.trim_start();
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        &text[..end]
    };
    let Some(group) = code.trim_start().strip_prefix('{') else { return vec![name(code)] };
    let (mut all, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                all.push(name(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    all.retain(|name| !name.is_empty());
    all
}

/// Every name of this crate's root that a file reaches for: by `crate::`, or by enough `super::`.
fn reaches_for(source: &Source) -> Vec<(usize, String)> {
    let code = &source.code;
    let mut all = Vec::new();
    for at in words(code, "crate") {
        if let Some(rest) = code[at + 5..].strip_prefix("::") {
            all.extend(names(rest).into_iter().map(|name| (at, name.to_owned())));
        }
    }
    let ups = "super::".repeat(source.module().len());
    if !ups.is_empty() {
        let starts = code.match_indices(&ups).map(|(at, _)| at);
        for at in starts.filter(|&at| !ends_in_word(&code[..at]) && !code[..at].ends_with("super::")) {
            all.extend(names(&code[at + ups.len()..]).into_iter().map(|name| (at, name.to_owned())));
        }
    }
    all.retain(|(_, name)| !name.is_empty() && name != "self");
    all.sort();
    all
}

#[track_caller]
fn none(broken: &str) {
    assert!(broken.is_empty(), "\n{broken}");
}

#[test]
fn imports_point_down() {
    let mut broken = String::new();
    for house in &HOUSES {
        let floor_of = |name: &str| house.floors.iter().position(|floor| floor.contains(&name));
        for source in sources(house) {
            if house.exempt.iter().any(|file| source.inner == Path::new(file)) {
                continue;
            }
            let module = source.module();
            let Some(own) = floor_of(&module[0]) else {
                writeln!(
                    broken,
                    "{}: `{}` is on no floor; give it one in {}",
                    source.path.display(),
                    module[0],
                    file!()
                )
                .unwrap();
                continue;
            };
            for (at, name) in reaches_for(&source) {
                if house.everywhere.contains(&name.as_str()) {
                    continue;
                }
                let why = match floor_of(&name) {
                    Some(floor) if floor > own || house.floors[own].contains(&name.as_str()) => continue,
                    Some(_) => "which is above",
                    None => "which is on no floor: name the module it comes from",
                };
                let (path, line) = (source.path.display(), source.line_of(at));
                writeln!(broken, "{path}:{line}: `{}` imports `{name}`, {why}", module[0]).unwrap();
            }
        }
    }
    none(&broken);
}

#[test]
fn each_package_has_one_door() {
    // bincode in the codec, the system behind the cellars' doors, the operator's packages in his words.
    let doors: [(&str, &[&str]); 14] = [
        ("bincode", &["wire/codec.rs"]),
        ("libc", &["sys"]),
        ("nix", &["sys"]),
        ("clap", &["cli"]),
        ("clap_complete", &["cli"]),
        ("clap_mangen", &["cli"]),
        ("interprocess", &["connection/name.rs", "connection/host.rs", "control"]),
        ("hmac", &["wire/handshake.rs"]),
        ("sha2", &["wire/handshake.rs"]),
        ("getrandom", &["wire/handshake.rs"]),
        ("comfy_table", &["cli"]),
        ("indicatif", &["cli"]),
        ("plotters", &["cli"]),
        ("regex_lite", &["cli"]),
    ];
    let mut broken = String::new();
    for source in HOUSES.iter().flat_map(sources) {
        for (package, doors) in doors {
            if doors.iter().any(|door| source.is_in(door)) {
                continue;
            }
            for at in words(&source.code, package) {
                if source.code[at + package.len()..].starts_with("::") {
                    let (path, line) = (source.path.display(), source.line_of(at));
                    writeln!(broken, "{path}:{line}: `{package}` is used outside {doors:?}").unwrap();
                }
            }
        }
    }
    none(&broken);
}

#[test]
fn unsafe_stays_in_the_cellars() {
    let mut broken = String::new();
    for source in HOUSES.iter().flat_map(sources).filter(|source| !source.is_in("sys")) {
        for at in words(&source.code, "unsafe").chain(words(&source.code, "unsafe_code")) {
            let (path, line) = (source.path.display(), source.line_of(at));
            writeln!(broken, "{path}:{line}: `unsafe` outside sys/").unwrap();
        }
    }
    none(&broken);
}

#[test]
fn protocols_and_state_machines_have_their_picture_beside_them() {
    for dir in [
        "worker/src/wire",
        "worker/src/ipc",
        "worker/src/keeper",
        "src/actor",
        "src/connection",
        "src/map",
        "src/control",
        "src/pool",
        "src/queue",
        "src/supervisor",
        "src/sync",
    ] {
        let readme = root().join(dir).join("README.md");
        let text = std::fs::read_to_string(&readme).unwrap_or_default();
        assert!(text.lines().count() > 10, "{dir}/README.md says how it works");
    }
}

#[test]
fn no_file_is_too_long_to_read() {
    let mut broken = String::new();
    for source in HOUSES.iter().flat_map(sources).filter(|source| source.lines > 700) {
        writeln!(broken, "{}: {} lines; 400 is a smell, 700 the end", source.path.display(), source.lines)
            .unwrap();
    }
    none(&broken);
}

#[test]
fn the_worker_depends_on_nothing_of_the_parent() {
    let manifest = std::fs::read_to_string(root().join("worker/Cargo.toml")).unwrap();
    let depends = manifest.lines().any(|line| line.split(['=', '.', ' ']).next() == Some("procession"));
    assert!(!depends, "procession depends on procession-worker, never back");
}

#[test]
fn the_reader_of_sources_reads_them_right() {
    let text = r##"
        use crate::{a::B, c::{D, E}, f}; // crate::comment
        let x = "crate::string\" crate::more"; let y = r#"crate::"raw"#; let z = '"';
        fn f<'a>(s: &'a str) -> $crate::g { super::super::h::i() }
        /* crate::block */ let c = '\''; let d = crate::j;
        #[cfg(test)]
        mod tests { use crate::k; }
    "##;
    let source = Source { path: "x".into(), inner: "pool/x.rs".into(), lines: 0, code: code(text) };
    let found: Vec<String> = reaches_for(&source).into_iter().map(|(_, name)| name).collect();
    assert_eq!(found, ["a", "c", "f", "g", "h", "j"]);
    assert_eq!(source.line_of(source.code.find("super").unwrap()), 4);
    assert_eq!(words("unsafe_code unsafe {", "unsafe").count(), 1);
}
