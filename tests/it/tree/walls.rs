//! The walls between modules, checked by reading the source. What each says stands in
//! `gateway/ARCHITECTURE.md`.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

struct Source {
    /// Below `gateway/src`, such as `connection/core.rs`.
    path: String,
    /// Without comments and without tests.
    code: String,
}

fn gateway_src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/src")
}

fn sources() -> Vec<Source> {
    let root = gateway_src();
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of the source") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                if !path.ends_with("tests") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("tests.rs")
            {
                let text = fs::read_to_string(&path).expect("text");
                let path = path.strip_prefix(&root).expect("below the root").display().to_string();
                sources.push(Source { path, code: code_of(&text) });
            }
        }
    }
    assert!(sources.len() > 50, "the source was found");
    sources
}

/// The code as a compiler reads it, on one line: without comments, without what is there for tests only, and
/// with `""` for every literal.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let tokens: TokenStream = text.parse().expect("the source is made of tokens");
    write(tokens, &mut code);
    code
}

fn write(tokens: TokenStream, code: &mut String) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut rest = &tokens[..];
    while let Some((token, after)) = rest.split_first() {
        if let Some(item) = after_cfg_test(rest) {
            rest = after_item(item);
            continue;
        }
        rest = after;
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                code.push_str(open);
                write(group.stream(), code);
                code.push_str(close);
            }
            TokenTree::Ident(word) => {
                if code.ends_with(|last: char| last.is_alphanumeric() || last == '_') {
                    code.push(' ');
                }
                code.push_str(&word.to_string());
            }
            TokenTree::Punct(mark) => code.push(mark.as_char()),
            TokenTree::Literal(_) => code.push_str("\"\""),
        }
    }
}

/// What an attribute `#[cfg(test)]` at the beginning of these tokens is about. None if there is no such
/// attribute.
fn after_cfg_test(tokens: &[TokenTree]) -> Option<&[TokenTree]> {
    let (attribute, rest) = attribute(tokens)?;
    // Without blanks, as no two words of it need one.
    (attribute.stream().to_string().split_whitespace().collect::<String>() == "cfg(test)").then_some(rest)
}

/// An outer attribute and what follows it.
fn attribute(tokens: &[TokenTree]) -> Option<(&Group, &[TokenTree])> {
    match tokens {
        [TokenTree::Punct(mark), TokenTree::Group(group), rest @ ..]
            if mark.as_char() == '#' && group.delimiter() == Delimiter::Bracket =>
        {
            Some((group, rest))
        }
        _ => None,
    }
}

/// What follows an item, or a field, an arm or a statement. Where its end is not clear, too little is left
/// out.
fn after_item(mut tokens: &[TokenTree]) -> &[TokenTree] {
    while let Some((_, rest)) = attribute(tokens) {
        tokens = rest;
    }
    const ITEMS: [&str; 16] = [
        "fn",
        "mod",
        "use",
        "impl",
        "struct",
        "enum",
        "const",
        "static",
        "trait",
        "type",
        "extern",
        "unsafe",
        "async",
        "union",
        "macro_rules",
        "let",
    ];
    let word = |token: &TokenTree| {
        matches!(token, TokenTree::Ident(word) if word != "pub").then(|| token.to_string())
    };
    let is_item = tokens.iter().find_map(word).is_some_and(|word| ITEMS.contains(&word.as_str()));
    let ends = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(mark) => mark.as_char() == ';' || !is_item && mark.as_char() == ',',
        _ => false,
    };
    let end = tokens.iter().position(ends).map_or(tokens.len(), |at| at + 1);
    &tokens[end..]
}

/// Whether a word stands in code as the name of a crate or module.
fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let part_of_a_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !part_of_a_name(before) && !part_of_a_name(after)
    })
}

/// Only files whose path begins with one of `allowed` may name `word`.
fn check(word: &str, allowed: &[&str]) {
    let sources = sources();
    let outside: Vec<_> = sources
        .iter()
        .filter(|source| {
            names(&source.code, word) && !allowed.iter().any(|prefix| source.path.starts_with(prefix))
        })
        .map(|source| &source.path)
        .collect();
    assert!(outside.is_empty(), "`{word}` belongs to {allowed:?} and stands in {outside:?}");
    let inside = sources.iter().any(|source| names(&source.code, word));
    assert!(inside || allowed.is_empty(), "`{word}` is named nowhere: this check has become empty");
}

/// No file whose path begins with one of `pure` may name `word`.
fn forbid(pure: &[&str], words: &[&str]) {
    let sources = sources();
    let mut checked = 0;
    for source in sources.iter().filter(|source| pure.iter().any(|prefix| source.path.starts_with(prefix))) {
        checked += 1;
        for word in words {
            assert!(!names(&source.code, word), "{} must not name `{word}`", source.path);
        }
    }
    assert!(checked >= pure.len(), "{pure:?} is empty");
}

#[test]
fn one_module_names_the_websocket_library() {
    check("tokio_tungstenite", &["transport/websocket.rs"]);
}

#[test]
fn one_codec_names_the_protobuf_library() {
    check("prost", &["protocol/centrifuge/protobuf"]);
}

#[test]
fn one_module_names_the_compression_library() {
    check("flate2", &["protocol/deflate.rs"]);
}

#[test]
fn only_the_edges_know_which_framing_a_connection_has() {
    check("Framing", &["protocol.rs", "protocol/framing", "transport/handshake"]);
}

#[test]
fn http_stays_at_the_edges() {
    check("hyper", &["transport/handshake", "admin", "egress"]);
    check("hyper_util", &["transport/handshake", "admin", "egress"]);
}

#[test]
fn one_module_names_the_library_of_http_2() {
    check("h2", &["transport/handshake/http2"]);
}

#[test]
fn one_module_makes_connections_and_judges_certificates() {
    check("TcpStream::connect", &["egress/connect.rs"]);
    check("ToSocketAddrs", &["egress/names.rs"]);
    // That of tokio takes a thread that nobody counts.
    check("lookup_host", &[]);
    check("rustls", &["egress/tls.rs", "transport/tls"]);
    check("tokio_rustls", &["egress/connect.rs", "egress/tls.rs"]);
    check("aead", &["transport/tls/ciphers.rs"]);
    check("x509_parser", &["transport/tls"]);
}

#[test]
fn wasmtime_stays_in_wasm() {
    check("wasmtime", &["wasm"]);
    check("wasmtime_wasi", &["wasm"]);
    check("wit_component", &["wasm"]);
    check("wasm_encoder", &["wasm"]);
}

#[test]
fn the_client_of_redis_stays_in_its_backplane() {
    // The word `redis` alone is also the name of a table of the configuration and of the module itself.
    for word in ["redis::aio", "MultiplexedConnection", "RedisError", "AsyncConnectionConfig", "Cmd"] {
        check(word, &["backplane/redis/", "consumer/redis_stream.rs"]);
    }
}

#[test]
fn the_clients_of_other_queues_stay_in_their_consumers() {
    check("async_nats", &["consumer/nats.rs"]);
    check("tokio_postgres", &["consumer/postgres"]);
}

#[test]
fn notify_stays_in_watch() {
    // The configuration has a value of that name.
    check("notify", &["watch", "config/resolve.rs"]);
}

#[test]
fn the_protocol_and_the_core_are_pure() {
    let words =
        &["tokio", "wasmtime", "redis", "hyper", "Instant", "SystemTime", "async", "await", "fs", "net"];
    forbid(&["protocol", "connection/core", "connection/heartbeat.rs", "connection/effect.rs"], words);
}

#[test]
fn the_session_and_the_hub_never_wait() {
    forbid(
        &["connection/session", "connection/worker_state.rs", "hub", "plugin/chain"],
        &["await", "async", "sleep"],
    );
    // Who encodes for one subscriber encodes a thousand times.
    forbid(&["hub"], &["codec", "encode_reply", "serde_json"]);
}

#[test]
fn only_the_clock_reads_clocks_on_the_path_of_a_message() {
    let path = &["protocol", "connection", "hub", "backplane", "outbound.rs", "worker.rs", "accept"];
    forbid(path, &["SystemTime", "elapsed"]);
    check("UNIX_EPOCH", &["clock.rs", "admin", "demo", "plugin/registry", "upstream/deliver.rs", "wasm"]);
}

#[test]
fn events_are_written_where_nobody_waits_for_the_disk() {
    let others = [
        "events.rs",
        "upstream/queue.rs",
        "upstream/batch.rs",
        "upstream/handover.rs",
        "upstream/deliver.rs",
    ];
    forbid(&others, &["fs", "File"]);
}

#[test]
fn nothing_is_unbounded() {
    for word in ["unbounded_channel", "UnboundedSender", "unbounded"] {
        check(word, &[]);
    }
}

#[test]
fn nothing_is_printed_where_printing_can_fail() {
    // The macros panic if it does. `telemetry` has the way to standard error, `command` that to standard
    // output.
    for word in ["print", "println", "eprint", "eprintln", "dbg"] {
        let sources = sources();
        let users = sources.iter().filter(|source| source.code.contains(&format!("{word}!(")));
        let users: Vec<_> = users.map(|source| &source.path).collect();
        assert!(users.is_empty(), "`{word}!` stands in {users:?}");
    }
    check("io::stderr", &["telemetry"]);
}

#[test]
fn wire_types_derive_serde_and_domain_types_do_not() {
    check(
        "Deserialize",
        &[
            "protocol/centrifuge/json/decode.rs",
            "admin",
            "ask",
            "wasm",
            "config",
            "consumer/entry.rs",
            "plugin/settings",
            "demo",
            "plugin/registry/archive.rs",
            "plugin_tools",
            "upstream/record.rs",
        ],
    );
}

#[test]
fn subsystems_meet_only_where_the_gateway_is_put_together() {
    // A worker's parts know the plugin chain as a trait; who makes it is decided in one place.
    let sources = sources();
    let users = sources.iter().filter(|source| source.code.contains("crate::wasm"));
    for user in users {
        let wiring =
            ["gateway", "wasm", "command", "testing"].iter().any(|prefix| user.path.starts_with(prefix));
        assert!(wiring, "{} must not know how plugins are run", user.path);
    }
}

/// Modules by level, the lowest last, as a page of `gateway/` lists them.
fn levels(page: &str) -> Vec<Vec<String>> {
    let page = fs::read_to_string(gateway_src().join("..").join(page)).expect("the page");
    let (_, list) = page.split_once("```levels\n").expect("the list");
    let (list, _) = list.split_once("```").expect("the end of the list");
    // What follows two blanks is said about the level.
    let names =
        |line: &str| line.split("  ").next().unwrap_or_default().split(' ').map(str::to_owned).collect();
    list.lines().map(names).collect()
}

/// Fails if a module uses one that is on no lower level. Each use is a file, its module, and the other
/// module. Returns their number.
fn check_levels(levels: &[Vec<String>], page: &str, uses: &[(String, String, String)]) -> usize {
    let level = |module: &str| {
        let level = levels.iter().position(|level| level.iter().any(|name| name == module));
        level.unwrap_or_else(|| panic!("{page} lists no level of the module `{module}`"))
    };
    for (file, module, other) in uses {
        assert!(
            level(module) < level(other),
            "{file} uses `{other}`, which is on no lower level: move what both need down"
        );
    }
    uses.len()
}

/// The modules beside `module` that some code names.
fn used(code: &str) -> impl Iterator<Item = String> {
    code.split("crate::").skip(1).map(|rest| {
        assert!(!rest.starts_with('{'), "one `use crate::` for each module, so that the walls can read it");
        rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
    })
}

#[test]
fn modules_use_only_modules_on_lower_levels() {
    let levels = levels("ARCHITECTURE.md");
    let mut uses = Vec::new();
    for source in sources() {
        let module = source.path.split(['/', '.']).next().expect("a name").to_owned();
        if ["lib", "main"].contains(&&*module) {
            continue;
        }
        let others = used(&source.code).filter(|other| *other != module);
        uses.extend(others.map(|other| (source.path.clone(), module.clone(), other)));
    }
    let checked = check_levels(&levels, "ARCHITECTURE.md", &uses);
    assert!(checked > 300, "{checked} uses were found");
    for module in levels.iter().flatten() {
        let files = [format!("{module}.rs"), format!("{module}/mod.rs")];
        assert!(files.iter().any(|file| gateway_src().join(file).exists()), "there is no module `{module}`");
    }
}

/// The paths of a `use` from here on: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(code: &str) -> Vec<String> {
    let end = code.find(|letter: char| !letter.is_alphanumeric() && !"_:".contains(letter));
    let (path, rest) = code.split_at(end.unwrap_or(code.len()));
    let Some(list) = rest.strip_prefix('{').filter(|_| path.is_empty() || path.ends_with("::")) else {
        return vec![path.to_owned()];
    };
    let (mut depth, mut part, mut all) = (0, 0, Vec::new());
    for (at, letter) in list.char_indices() {
        let ends = depth == 0 && ",}".contains(letter);
        if ends {
            all.extend(paths(&list[part..at]).into_iter().map(|inner| format!("{path}{inner}")));
            part = at + 1;
        }
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            _ => (),
        }
    }
    all
}

/// Every file below `backplane/redis` is on a level of its own: there is no circle between files, nor between
/// folders.
#[test]
fn files_of_the_redis_backplane_use_only_files_on_lower_levels() {
    const ROOT: &str = "redis";
    let levels = levels("REDIS.md");
    let files: Vec<(String, Source)> = sources()
        .into_iter()
        .filter_map(|source| {
            let below = source.path.strip_prefix("backplane/redis")?.strip_suffix(".rs")?;
            let module = below.strip_prefix('/').map_or(ROOT, |module| module).to_owned();
            Some((module, source))
        })
        .collect();
    let is_module = |module: &str| files.iter().any(|(other, _)| other == module);
    // The longest beginning of a path that is a file; an item of the root otherwise.
    let module_of = |path: &str| {
        let mut module = path.trim_matches(':').replace("::", "/");
        while !is_module(&module) {
            module = module.rsplit_once('/').map_or(ROOT, |(folder, _)| folder).to_owned();
        }
        module
    };
    let mut uses = Vec::new();
    for (module, source) in &files {
        for relative in ["super::", "self::"] {
            assert!(
                !source.code.contains(relative),
                "{} has a path that begins with `{relative}`: write it from the crate's root, so that the \
                 walls can read it",
                source.path
            );
        }
        let named = source.code.split("crate::backplane::redis").skip(1).flat_map(paths);
        let named = named.map(|path| module_of(&path));
        // Its own folder, without a path.
        let folder = if module == ROOT { String::new() } else { format!("{module}/") };
        let inner = files.iter().filter_map(|(other, _)| {
            let child = other.strip_prefix(&folder).filter(|child| !child.contains('/') && *child != ROOT)?;
            begins_path(&source.code, child).then(|| other.clone())
        });
        let others = named.chain(inner).filter(|other| other != module);
        uses.extend(others.map(|other| (source.path.clone(), module.clone(), other)));
    }
    let checked = check_levels(&levels, "REDIS.md", &uses);
    assert!(checked > 150, "{checked} uses were found");
    for module in levels.iter().flatten() {
        assert!(is_module(module), "there is no file `{module}.rs` in `backplane/redis`");
    }
    // Folders stay together, so that none is above and below another one.
    let mut folders: Vec<&str> = levels.iter().flatten().map(|module| folder_of(module)).collect();
    folders.dedup();
    let count = folders.len();
    folders.sort_unstable();
    folders.dedup();
    assert_eq!(folders.len(), count, "the lines of a folder follow each other in REDIS.md");
}

/// Whether a path in some code begins with this name.
fn begins_path(code: &str, name: &str) -> bool {
    let is_inside = |before: char| before.is_alphanumeric() || "_:".contains(before);
    code.match_indices(&format!("{name}::")).any(|(at, _)| !code[..at].ends_with(is_inside))
}

/// The folder of a module; the module itself if it is in none.
fn folder_of(module: &str) -> &str {
    module.split('/').next().unwrap_or(module)
}

#[test]
fn paths_of_one_use_are_read() {
    assert_eq!(paths("::a::b;c"), ["::a::b"]);
    assert_eq!(paths("::a::{self,b::{c,d},E};f"), ["::a::self", "::a::b::c", "::a::b::d", "::a::E"]);
    assert_eq!(paths("::a::b(c)"), ["::a::b"]);
    assert!(begins_path("x(b::c)", "b") && !begins_path("a::b::c", "b") && !begins_path("ab::c", "b"));
}

#[test]
fn a_name_is_found_as_a_word() {
    assert!(names("use tokio::net;", "tokio"));
    assert!(!names("use tokio_tungstenite::x;", "tokio"));
    assert!(!names("use my_tokio::x;", "tokio"));
}

#[test]
fn code_is_what_is_compiled_for_production() {
    for (text, code) in [
        ("a // tokio\nb /* tokio /* tokio */ */ c", "a b c"),
        ("let url = \"http://x\"; tokio::spawn(x)", "let url=\"\";tokio::spawn(x)"),
        ("/// tokio\n//! tokio", "#[doc=\"\"]#![doc=\"\"]"),
        ("#[cfg(test)] mod tests { use tokio; } tokio", "tokio"),
        ("#[cfg(test)]\nmod tests;\nfn later() { tokio }", "fn later(){tokio}"),
        ("#[cfg(test)] #[path = \"x\"] pub(crate) fn f<A, B>() -> X { tokio } a", "a"),
        ("#[cfg(test)] use tokio::{a, b}; c", ";c"),
        ("impl X { #[cfg(test)] fn f() { tokio } fn g() { hyper } }", "impl X{fn g(){hyper}}"),
        ("struct X { #[cfg(test)] a: tokio, b: hyper }", "struct X{b:hyper}"),
        (
            "#[cfg(not(test))] mod x { tokio } #[cfg(all(test, unix))] hyper",
            "#[cfg(not(test))]mod x{tokio}#[cfg(all(test,unix))]hyper",
        ),
        ("let a = r#\"tokio // \"#; 'x': b; f::<'a>()", "let a=\"\";\"\":b;f::<'a>()"),
    ] {
        assert_eq!(code_of(text), code, "{text}");
    }
}
