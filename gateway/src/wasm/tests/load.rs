//! Tests refusals and their messages.

use super::guest::{self, answers, guest, guest_of, with_section};
use super::support::{component, load, loader, module, start};
use crate::plugin::interests::Hooks;
use crate::plugin::load::{LoadCode, LoadError};

fn text(wat: &str) -> Vec<u8> {
    wat::parse_str(wat).unwrap()
}

#[track_caller]
fn check(refused: Result<impl Sized, LoadError>, code: LoadCode, words: &[&str]) {
    let Err(error) = refused else { panic!("{code} expected, but it loads") };
    assert_eq!(error.code(), code, "{error}");
    for word in words {
        assert!(error.message().contains(word), "{word:?} in: {error}");
    }
}

#[test]
fn what_is_not_webassembly_is_named() {
    use LoadCode::{Empty, Malformed, NotWasm, Precompiled, Truncated};
    let precompiled = loader().compiler.engine.precompile_component(&text("(component)")).unwrap();
    for (bytes, code, words) in [
        (&b""[..], Empty, "is empty; copy it again"),
        (b"<!DOCTYPE html><html>", NotWasm, "is an HTML or XML page"),
        (b"\n <?xml", NotWasm, "is an HTML or XML page"),
        (b"(module)", NotWasm, "is WebAssembly as text"),
        (b"\x1f\x8b\x08\x00", NotWasm, "is a compressed archive"),
        (b"PK\x03\x04", NotWasm, "is a compressed archive"),
        (b"\x7fELF\x02\x01\x01\x00\x00\x00", NotWasm, "is a native program"),
        (&[0; 200], NotWasm, "begins with zeros only"),
        (b"hello there", NotWasm, "begins with 68656c6c6f207468 instead of 0061736d"),
        (b"\0asm", Truncated, "ends within the first eight bytes"),
        (b"\0asm\x01\0", Truncated, "ends within the first eight bytes"),
        (b"\0asm\x02\0\0\0", Malformed, "of a version that this gateway does not know"),
        (&precompiled, Precompiled, "was compiled for one machine already"),
    ] {
        check(load(bytes, ""), code, &[words]);
    }
}

#[test]
fn a_file_that_ends_early_is_not_even_compiled() {
    for whole in [module("echo.wasm"), component("echo.wasm")] {
        for part in [9, whole.len() / 4, whole.len() / 2, whole.len() - 1] {
            check(load(&whole[..part], ""), LoadCode::Truncated, &["ends too early, at byte"]);
        }
    }
}

#[test]
fn a_damaged_file_is_refused() {
    let mut damaged = module("echo.wasm");
    // The id of the first section.
    damaged[8] = 0x7f;
    check(load(&damaged, ""), LoadCode::Malformed, &["is damaged WebAssembly", "copy or build it again"]);

    // A valid module whose code is invalid.
    let mut damaged = text("(module (func (result i32) (i32.const 1)))");
    let length = damaged.len();
    damaged[length - 3] = 0x42;
    let damaged = with_section(damaged, "component-type:x", b"");
    check(load(&damaged, ""), LoadCode::Malformed, &["type mismatch"]);

    // Valid, but without a function that it declares.
    let wrong = guest("export gateway:plugin/on-message@0.1.0;", "", "");
    check(load(&wrong, ""), LoadCode::InterfaceMismatch, &["cannot be made a component", "on-message"]);
}

#[test]
fn a_core_module_must_describe_its_interface() {
    let refused =
        |bytes: &[u8], words: &[&str]| check(load(bytes, ""), LoadCode::CoreModuleWithoutInterface, words);
    let plain = text("(module)");
    refused(&plain, &["not built with gateway-plugin-sdk", "no component-type section", "`#[plugin]` above"]);
    refused(&text(r#"(module (func (export "_start")))"#), &["is a program and not a plugin", "cdylib"]);
    refused(&text(r#"(module (func (export "proxy_abi_version_0_2_1")))"#), &["is a proxy-wasm filter"]);
    let stripped = with_section(plain, "gateway-plugin", br#"{"sdk":"0.1.0"}"#);
    refused(&stripped, &["component-type section was removed", "keep custom sections"]);
}

#[test]
fn a_module_that_needs_another_host_is_refused() {
    let imports = r#"(import "env" "clock" (func))"#;
    let code = r#"(func (export "gateway:plugin/on-message@0.1.0#call")
                   (param i64 i32 i32 i32) (result i32) unreachable)"#;
    let foreign = guest("export gateway:plugin/on-message@0.1.0;", imports, code);
    check(load(&foreign, ""), LoadCode::InterfaceMismatch, &["cannot be made a component", "env"]);
}

#[test]
fn a_component_without_a_hook_is_refused() {
    let words = [
        "exports none of the hooks configure, on-connect, on-message, on-deliver, on-disconnect, on-timer",
        "implement at least one",
    ];
    check(load(&text("(component)"), ""), LoadCode::NoHooks, &words);
    let other_world = guest("export run: func();", "", r#"(func (export "run"))"#);
    check(load(&other_world, ""), LoadCode::NoHooks, &words);
}

#[test]
fn another_interface_version_is_named_with_what_is_missing() {
    let wit = guest::WIT.replace("gateway:plugin@0.1.0", "gateway:plugin@0.9.0");
    let code = r#"(func (export "gateway:plugin/on-message@0.9.0#call")
                   (param i64 i32 i32 i32) (result i32) (call $now) unreachable)"#;
    let imports = r#"(import "gateway:plugin/context@0.9.0" "now" (func $clock (result i64)))"#;
    let code = code.replace("(call $now)", "(drop (call $clock))");
    let world = "import gateway:plugin/context@0.9.0; export gateway:plugin/on-message@0.9.0;";
    let newer = guest_of(&wit, world, imports, &code);
    let words =
        ["was built for interface 0.9.0; this gateway offers 0.1; missing: ", "gateway:plugin/context@0.9.0"];
    check(load(&newer, ""), LoadCode::InterfaceMismatch, &words);

    let stamp = br#"{"name":"x","version":"2","sdk":"0.9.3","interface":"0.9"}"#;
    let stamped = with_section(newer, "gateway-plugin", stamp);
    let words = ["was built with plugin-sdk 0.9.3 for interface 0.9; this gateway offers 0.1", "rebuild it"];
    check(load(&stamped, ""), LoadCode::InterfaceMismatch, &words);
}

#[test]
fn what_a_later_0_1_has_more_is_named() {
    let wit = guest::WIT.replace("gateway:plugin@0.1.0", "gateway:plugin@0.1.7");
    let world = "import gateway:plugin/kv@0.1.7; export gateway:plugin/on-message@0.1.7;";
    let imports = r#"(import "gateway:plugin/kv@0.1.7" "size" (func $size (result i64)))"#;
    let code = r#"(func (export "gateway:plugin/on-message@0.1.7#call")
                   (param i64 i32 i32 i32) (result i32) (drop (call $size)) unreachable)"#;
    let with_interface = format!("{wit} interface kv {{ size: func() -> u64; }}");
    let newer = guest_of(&with_interface, world, imports, code);
    let words = ["needs gateway:plugin/kv@0.1.7", "run a newer gateway"];
    check(load(&newer, ""), LoadCode::InterfaceMismatch, &words);

    let with_function = wit.replace("interface context {", "interface context { size: func() -> u64;");
    let newer = guest_of(
        &with_function,
        &world.replace("kv", "context"),
        &imports.replace("/kv@", "/context@"),
        code,
    );
    check(
        load(&newer, ""),
        LoadCode::InterfaceMismatch,
        &[
            "needs the function `size` of gateway:plugin/context@0.1.7, which interface 0.1 of this gateway does not have",
        ],
    );
}

#[test]
fn a_later_0_1_that_needs_nothing_new_loads() {
    let wit = guest::WIT.replace("gateway:plugin@0.1.0", "gateway:plugin@0.1.7");
    let code = r#"(func (export "gateway:plugin/on-disconnect@0.1.7#call") (param i64 i32 i32 i32 i64))"#;
    let newer = guest_of(&wit, "export gateway:plugin/on-disconnect@0.1.7;", "", code);
    let hooks = Hooks { on_disconnect: true, ..Hooks::default() };
    assert_eq!(load(&newer, "").unwrap().about().hooks, hooks);
    start(&newer, "").map(|_| ()).unwrap();
}

#[test]
fn a_hook_with_other_types_is_refused_before_the_first_event() {
    let wit = guest::WIT.replace("code: u32, reason: string, duration: u64", "code: u32");
    let code = r#"(func (export "gateway:plugin/on-disconnect@0.1.0#call") (param i64 i32))"#;
    let other = guest_of(&wit, "export gateway:plugin/on-disconnect@0.1.0;", "", code);
    let words = ["exports the hook on-disconnect with other parameters or another result than interface 0.1"];
    check(start(&other, ""), LoadCode::InterfaceMismatch, &words);
    let stamped = with_section(other, "gateway-plugin", br#"{"sdk":"0.1.9"}"#);
    let words = ["it was built with plugin-sdk 0.1.9", "rebuild it with a plugin-sdk for 0.1"];
    check(start(&stamped, ""), LoadCode::InterfaceMismatch, &words);
}

#[test]
fn a_host_function_with_another_signature_is_named() {
    let wit = guest::WIT.replace("    binary: func() -> bool;", "    binary: func() -> u64;");
    let world = "import gateway:plugin/context@0.1.0; export gateway:plugin/on-message@0.1.0;";
    let imports = r#"(import "gateway:plugin/context@0.1.0" "binary" (func $binary (result i64)))"#;
    let code = r#"(func (export "gateway:plugin/on-message@0.1.0#call")
                   (param i64 i32 i32 i32) (result i32) (drop (call $binary)) unreachable)"#;
    let other = guest_of(&wit, world, imports, code);
    let words = [
        "calls `binary` of gateway:plugin/context@0.1.0 with other parameters or another result",
        "rebuild it",
    ];
    check(load(&other, ""), LoadCode::InterfaceMismatch, &words);
}

#[test]
fn what_reaches_out_of_the_plugin_is_not_offered() {
    let importing = |interface: &str| {
        text(&format!(
            r#"(component
                 (import "{interface}" (instance (export "f" (func))))
                 (instance $hook)
                 (export "gateway:plugin/on-message@0.1.0" (instance $hook)))"#
        ))
    };
    for (interface, words) in [
        ("wasi:http/outgoing-handler@0.2.0", "plugins have no network"),
        ("wasi:cli/stdin@0.3.0", "plugins have clocks, random numbers, output"),
        ("acme:db/query@1.0.0", "plugins have clocks, random numbers, output"),
    ] {
        let message = format!("imports {interface}, which is not offered: ");
        check(load(&importing(interface), ""), LoadCode::ImportNotOffered, &[&message, words]);
    }
}

#[test]
fn a_plugin_that_imports_sockets_loads_and_fails_when_it_calls_them() {
    // As the C library of another language imports them, with a name that no world of WASI has. `use` brings
    // a resource of another interface in.
    let wit = format!(
        "{}
        package wasi:io@0.2.0 {{ interface poll {{ resource pollable {{ ready: func() -> bool; }} }} }}
        package wasi:sockets@0.2.0 {{
            interface raw {{
                use wasi:io/poll@0.2.0.{{pollable}};
                resource raw-socket {{ subscribe: func() -> pollable; }}
                create: func() -> raw-socket;
            }}
        }}",
        guest::WIT
    );
    let world = "import wasi:sockets/raw@0.2.0; export gateway:plugin/on-disconnect@0.1.0;";
    let imports = r#"(import "wasi:sockets/raw@0.2.0" "create" (func $create (result i32)))
                     (import "wasi:sockets/raw@0.2.0" "[method]raw-socket.subscribe" (func (param i32) (result i32)))"#;
    let hook = r#"(func (export "gateway:plugin/on-disconnect@0.1.0#call") (param i64 i32 i32 i32 i64))"#;
    load(&guest_of(&wit, world, imports, hook), "").unwrap();
    let calls = "(start $start) (func $start (drop (call $create)))";
    let calls = guest_of(&wit, world, imports, &format!("{hook} {calls}"));
    check(start(&calls, ""), LoadCode::Instantiate, &["plugins have no network", "gateway:plugin/http"]);
}

#[test]
fn a_plugin_that_does_not_start_is_refused_with_the_limit_it_hit() {
    let hook = r#"(func (export "gateway:plugin/on-disconnect@0.1.0#call") (param i64 i32 i32 i32 i64))"#;
    let world = "export gateway:plugin/on-disconnect@0.1.0;";
    let spins = guest(world, "", &format!("{hook} (start $spin) (func $spin (loop (br 0)))"));
    let limits = "[limits]\nconfigure_deadline = \"20ms\"\nmemory = \"1MiB\"";
    check(
        start(&spins, limits),
        LoadCode::Instantiate,
        &["took longer than 20ms (limits.configure_deadline)"],
    );
    let grow = "(func $grow (br_if 0 (i32.ne (memory.grow (i32.const 100)) (i32.const -1))) unreachable)";
    let grows = guest(world, "", &format!("{hook} (start $grow) {grow}"));
    check(
        start(&grows, limits),
        LoadCode::Instantiate,
        &["wanted more than 1 MiB of memory (limits.memory)"],
    );
    // Needs more memory from the beginning.
    check(
        start(&module("echo.wasm"), limits),
        LoadCode::Instantiate,
        &["wanted more than 1 MiB of memory (limits.memory)"],
    );
    let traps = guest(world, "", &format!("{hook} (start $trap) (func $trap unreachable)"));
    check(start(&traps, limits), LoadCode::Instantiate, &["unreachable"]);
}

#[test]
fn configure_decides_whether_the_settings_are_good() {
    let version_echo = module("guest_version_echo.wasm");
    let words = ["refuses its settings: version 2 was told to fail"];
    check(start(&version_echo, "[config]\nversion = \"2\"\nfail = true"), LoadCode::Configure, &words);
    check(start(&version_echo, ""), LoadCode::Configure, &["refuses its settings", "version"]);
    start(&version_echo, "[config]\nversion = \"2\"").map(|_| ()).unwrap();

    let configure = |body: &str| {
        let code = format!(
            r#"(func (export "gateway:plugin/configure@0.1.0#call") (param i32 i32) (result i32) {body})"#
        );
        guest("export gateway:plugin/configure@0.1.0;", "", &code)
    };
    let limits = "[limits]\nconfigure_deadline = \"20ms\"";
    let words = ["failed in its configure hook (took longer than 20ms (limits.configure_deadline))"];
    check(start(&configure("(loop (br 0)) unreachable"), limits), LoadCode::Configure, &words);
    check(start(&configure("unreachable"), limits), LoadCode::Configure, &["failed in its configure hook"]);
}

#[test]
fn a_plugin_says_what_it_is_in_either_form() {
    let scripted = load(&module("guest_scripted.wasm"), "").unwrap().about().requested.names();
    let orders = ["publish", "subscribe", "unsubscribe", "disconnect", "refresh"];
    let all = orders.map(|order| format!("effects.{order}"));
    assert_eq!(scripted, all, "what is done to others is granted with what is done to the own client");
    for wasm in [module("echo.wasm"), component("echo.wasm")] {
        let factory = load(&wasm, "").unwrap();
        let about = factory.about();
        assert_eq!(about.name.as_deref(), Some("echo"));
        assert!(about.version.is_some() && about.sdk.is_some(), "{about:?}");
        assert_eq!(about.hooks, Hooks { configure: true, on_message: true, ..Hooks::default() });
    }
    let foreign = load(&module("guest_no_sdk.wasm"), "").unwrap();
    assert_eq!((foreign.about().name.as_deref(), foreign.about().version.as_deref()), (None, None));
    assert_eq!(foreign.about().hooks, Hooks { on_message: true, ..Hooks::default() });
}

#[test]
fn a_plugin_asks_for_what_it_uses() {
    for wasm in [module("examples/lobby.wasm"), component("examples/lobby.wasm")] {
        let requested = load(&wasm, "").unwrap().about().requested.names();
        assert_eq!(requested, ["effects.publish", "effects.subscribe", "effects.set-attribute"]);
    }
    for wasm in [module("echo.wasm"), component("echo.wasm"), module("guest_trap.wasm")] {
        assert!(load(&wasm, "").unwrap().about().requested.is_empty());
    }
}

#[test]
fn names_that_the_author_stamped_in_are_asked_for() {
    let stamped = |stamp: &str| with_section(answers(0, &[], ""), "gateway-plugin", stamp.as_bytes());
    let stamp = r#"{"http":["https://A.example","https://a.example"],"upstreams":["o"],"environment":["X"]}"#;
    let requested = load(&stamped(stamp), "").unwrap().about().requested.names();
    assert_eq!(requested, ["http https://a.example", "upstream o", "environment X"]);
    let words = ["asks for the environment variable \"A=\\n\", which is not the name of one"];
    check(load(&stamped(r#"{"environment":["A=\n"]}"#), ""), LoadCode::Malformed, &words);
}

#[test]
fn other_settings_compile_nothing() {
    let wasm = answers(0, &[], "unique to this test");
    let first = load(&wasm, "").unwrap();
    let second = load(&wasm, "failure = \"open\"").unwrap();
    assert!(std::ptr::eq(first.about(), second.about()), "both use what was compiled once");
}
