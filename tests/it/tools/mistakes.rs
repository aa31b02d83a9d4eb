//! Mistakes of plugin authors: what each command says about one, where it points, and that the mend it names
//! works. Other mistakes are in the tests of the part that notices them: `tools::author`, `plugins::folder`,
//! `plugins::grants`, `plugins::promised`.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use gateway_tests::{Gateway, Tool, eventually, gateway_binary, target_folder, wasm};
use serde_json::json;

use super::author::{LONG, plugin};

/// An author at work: a folder with one plugin, made by `plugin new`.
struct Author(tempfile::TempDir);

impl Author {
    /// With the plugin `polite`.
    async fn new() -> Self {
        let author = Self(tempfile::tempdir().unwrap());
        author.succeeds(&["new", "polite"], "Made the plugin polite").await;
        author
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Puts `to` into the place of `from`, which is there once.
    fn change(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert_eq!(text.matches(from).count(), 1, "{from:?} in {name}:\n{text}");
        self.write(name, text.replace(from, to));
    }

    async fn says(&self, arguments: &[&str], code: i32, says: &[&str]) -> String {
        let (ended, text) = plugin(self.0.path(), arguments).await;
        assert_eq!(ended, code, "{arguments:?}: {text}");
        for words in says {
            assert!(text.contains(words), "{arguments:?} does not say {words:?}:\n{text}");
        }
        text
    }

    async fn succeeds(&self, arguments: &[&str], says: &str) {
        self.says(arguments, 0, &[says]).await;
    }
}

/// A mistake in a file of the crate. The right text is what the author wrote first, and the mend.
struct Case {
    file: &'static str,
    right: &'static str,
    wrong: &'static str,
    /// What `plugin build` says, and its exit code.
    says: &'static [&'static str],
    code: i32,
    /// A text on the line that it points to.
    at: Option<&'static str>,
}

const IN_THE_CRATE: [Case; 10] = [
    // `#[settings]` is forgotten.
    Case {
        file: "src/lib.rs",
        right: "#[settings]\nstruct Settings",
        wrong: "struct Settings",
        says: &[
            "`Settings` cannot be read from the settings file of a plugin",
            "put `#[settings]` above the definition of `Settings`",
        ],
        code: 1,
        at: Some("type Config = Settings;"),
    },
    // It is forgotten on a type inside of the settings.
    Case {
        file: "src/lib.rs",
        right: "#[settings]\nstruct Settings {\n",
        wrong: "enum Mode {\n    Loud,\n}\n\n#[settings]\nstruct Settings {\n    mode: Mode,\n",
        says: &[
            "`Mode` cannot be read from the settings file of a plugin",
            "put `#[settings]` above the definition of `Mode`",
        ],
        code: 1,
        at: Some("mode: Mode"),
    },
    // `#[plugin]` is forgotten: this compiles.
    Case {
        file: "src/lib.rs",
        right: "#[plugin(self_test = \"self-test.json\")]",
        wrong: "",
        says: &["polite.wasm: ", "put `#[plugin]` above `impl Plugin for ...`"],
        code: 4,
        at: None,
    },
    // The block implements nothing.
    Case {
        file: "src/lib.rs",
        right: "impl Plugin for Polite {",
        wrong: "impl Polite {",
        says: &["#[plugin] belongs on an `impl Plugin for ..` block"],
        code: 1,
        at: Some("impl Polite {"),
    },
    // The name of the hook is misspelt.
    Case {
        file: "src/lib.rs",
        right: "fn on_message(",
        wrong: "fn on_mesage(",
        says: &["a plugin has no hook `on_mesage`: the nearest is `on_message`", "on_deliver"],
        code: 1,
        at: Some("fn on_mesage("),
    },
    // A function of the author's own stands among the hooks.
    Case {
        file: "src/lib.rs",
        right: "    /// Runs for every command of the kinds above.",
        wrong: "    fn is_rude(&self) {}\n\n    /// Runs for every command of the kinds above.",
        says: &["no hook `is_rude`: a function of your own belongs in an `impl` block of the type"],
        code: 1,
        at: Some("fn is_rude("),
    },
    // The hook has another signature.
    Case {
        file: "src/lib.rs",
        right: "event: &Message<'_>",
        wrong: "event: Message<'_>",
        says: &[
            "method `on_message` has an incompatible type for trait",
            "expected signature `fn(&mut Polite, &gateway_plugin_sdk::Message<'_>)",
            "change the parameter type to match the trait",
        ],
        code: 1,
        at: Some("event: Message<'_>"),
    },
    // An option of the attribute does not exist.
    Case {
        file: "src/lib.rs",
        right: "#[plugin(self_test = ",
        wrong: "#[plugin(test = ",
        says: &["#[plugin] takes `environment`, `http` and `upstreams`", "`self_test`, a file"],
        code: 1,
        at: Some("#[plugin(test = "),
    },
    // The library is one for Rust programs.
    Case {
        file: "Cargo.toml",
        right: "crate-type = [\"cdylib\"]",
        wrong: "",
        says: &["polite/Cargo.toml describes no plugin", "add `crate-type = [\"cdylib\"]` under [lib]"],
        code: 1,
        at: None,
    },
    // The crate is inside a workspace that does not list it.
    Case {
        file: "Cargo.toml",
        right: "[workspace]",
        wrong: "",
        says: &[
            "current package believes it's in a workspace when it's not",
            "add an empty `[workspace]` table",
        ],
        code: 1,
        at: None,
    },
];

#[tokio::test]
async fn build_names_the_mend_of_a_mistake_in_the_crate() {
    let author = Author::new().await;
    // A workspace that came later, for the last of them.
    author.write("Cargo.toml", "[workspace]\nresolver = \"3\"\n");
    for Case { file, right, wrong, says, code, at } in IN_THE_CRATE {
        let file = format!("polite/{file}");
        let good = author.read(&file);
        author.change(&file, right, wrong);
        let text = author.says(&["build", "polite"], code, says).await;
        if let Some(at) = at {
            let line = author.read(&file).lines().position(|line| line.contains(at)).expect(at) + 1;
            assert!(
                text.contains(&format!("src/lib.rs:{line}:")),
                "it does not point to line {line}: {text}"
            );
        }
        author.write(&file, good);
        author.succeeds(&["build", "polite"], "polite.wasm\n").await;
    }
}

#[tokio::test]
async fn run_points_to_the_line_of_a_panic_and_shows_what_a_plugin_prints() {
    let author = Author::new().await;
    let (right, wrong) =
        ("match event.text() {", "println!(\"words: {}\", self.words[7]);\n        match event.text() {");
    author.change("polite/src/lib.rs", right, wrong);
    author
        .says(
            &["build", "polite", "--into", "polite"],
            4,
            &["not dropped: ", "self-test", "index out of bounds"],
        )
        .await;
    author.succeeds(&["build", "polite", "--into", "polite", "--unchecked"], "dropped as ").await;
    let run = ["run", "polite/50-polite.wasm", "--events", "polite/events.jsonl"];
    let line =
        author.read("polite/src/lib.rs").lines().position(|line| line.contains("words[7]")).unwrap() + 1;
    let place = format!("src/lib.rs:{line}:");
    author
        .says(&run, 0, &["-> failed", &place, "index out of bounds: the len is 2 but the index is 7"])
        .await;

    author.change("polite/src/lib.rs", "words[7]", "words[0]");
    author.succeeds(&["build", "polite", "--into", "polite"], "dropped as ").await;
    author.says(&run, 0, &["-> next", "-> deny", "log     INFO words: darn"]).await;
}

#[tokio::test]
async fn words_of_ones_own_do_not_break_the_events_of_a_new_plugin() {
    let author = Author::new().await;
    author.change("polite/polite.toml", "[\"darn\", \"heck\"]", "[\"hello\"]");
    author.succeeds(&["build", "polite", "--into", "polite"], "dropped as ").await;
    let run = ["run", "polite/50-polite.wasm", "--events", "polite/events.jsonl"];
    author.says(&run, 0, &["2 events, 0 with expectations"]).await;
}

#[tokio::test]
async fn what_is_missing_is_said_before_a_build() {
    let author = Author::new().await;
    // Without Rust.
    let without = |path: &Path| {
        let tool = Tool::new(gateway_binary()).arg("plugin").arg("build").folder(author.path("polite"));
        tool.env("PATH", path).env("CARGO", "cargo").output(LONG)
    };
    let output = without(&author.path("nothing")).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("failed to run cargo") && text.contains("install Rust from https://rustup.rs"),
        "{text}"
    );

    // With a Rust of the distribution, which has no target for WebAssembly, and without rustup.
    fs::create_dir(author.path("bin")).unwrap();
    let which = |program| Tool::new("rustup").arg("which").arg(program).folder(author.path("")).run(LONG);
    let (cargo, rustc) = (which("cargo").await, which("rustc").await);
    std::os::unix::fs::symlink(cargo.trim(), author.path("bin/cargo")).unwrap();
    let answers =
        format!("case \"$*\" in *target-libdir*) echo /nonexistent;; *) exec {} \"$@\";; esac", rustc.trim());
    author.write("bin/rustc", format!("#!/bin/sh\n{answers}\n"));
    fs::set_permissions(author.path("bin/rustc"), fs::Permissions::from_mode(0o755)).unwrap();
    let output = without(&author.path("bin")).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("failed to add the Rust target wasm32-wasip1"), "{text}");
    assert!(text.contains("`rustup target add wasm32-wasip1`"), "{text}");

    // A folder that is no plugin but holds some.
    author.write("Cargo.toml", "[workspace]\nresolver = \"3\"\nexclude = [\"polite\"]\n");
    author
        .says(&["build"], 1, &["is a workspace and no plugin: name the folder of one of its plugins"])
        .await;
    // A plugin folder in which the name is taken twice.
    fs::create_dir(author.path("plugins")).unwrap();
    for file in ["10-polite.wasm", "60-polite.wasm"] {
        fs::copy(wasm("echo"), author.path("plugins").join(file)).unwrap();
    }
    let build = ["build", "polite", "--into", "plugins"];
    let twice = "two plugins named polite, 10-polite.wasm and 60-polite.wasm: remove or rename one of them";
    author.says(&build, 1, &[twice]).await;
    fs::remove_file(author.path("plugins/60-polite.wasm")).unwrap();
    author.succeeds(&build, "dropped as plugins/10-polite.wasm").await;
    // The folder of the crate in the place of the file.
    author.says(&["check", "polite"], 1, &["polite is a folder: name the .wasm file"]).await;
    author.succeeds(&["check", "plugins/10-polite.wasm", "--settings", "polite/polite.toml"], "ok: ").await;
}

#[tokio::test]
async fn a_drop_that_the_gateway_may_not_read_is_answered_soon() {
    let author = Author::new().await;
    let mut gateway = Gateway::with("").start().await;
    // From here on its configuration has the port that it listens on.
    gateway.restart().await;
    let folder = gateway.folder().path().to_owned();
    let into = folder.to_str().unwrap();
    let mode = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o777);
    let said = format!("in a folder that every user may write to; run: chmod o-w {into}");
    author.says(&["build", "polite", "--into", into], 4, &["the gateway refuses polite", &said]).await;
    mode(0o755);
    author.succeeds(&["build", "polite", "--into", into], "live, generation ").await;
}

/// Mistakes in a settings file: the author's, what is said, and the mend.
const IN_SETTINGS: [(&str, &[&str], &str); 9] = [
    // The table of the plugin's own settings is forgotten.
    (
        "version = '1'",
        &["version: is not a known key", "settings of the plugin itself belong under [config]"],
        "[config]\nversion = '1'",
    ),
    // It is misspelt.
    (
        "[confg]\nversion = '1'",
        &["confg: is not a known key; the nearest is `config`"],
        "[config]\nversion = '1'",
    ),
    // A key of the plugin is misspelt.
    ("[config]\nverson = '1'", &["unknown field `verson`, expected", "`version`"], "[config]\nversion = '1'"),
    // Its value has another type.
    (
        "[config]\nversion = 1",
        &["`version`: invalid type: integer `1`, expected a string"],
        "[config]\nversion = '1'",
    ),
    // A limit is misspelt.
    (
        "[config]\nversion = '1'\n[limits]\ndeadlin = '5ms'",
        &["limits.deadlin: is not a known key; the nearest is `deadline`"],
        "[config]\nversion = '1'\n[limits]\ndeadline = '5ms'",
    ),
    // A duration has no unit.
    (
        "[config]\nversion = '1'\n[limits]\ndeadline = 5",
        &["limits.deadline: is 5; expected a text like \"5ms\""],
        "[config]\nversion = '1'\n[limits]\ndeadline = '5ms'",
    ),
    // An effect is misspelt.
    (
        "[config]\nversion = '1'\n[grants]\neffects = ['publsh']",
        &["grants.effects[0]: is \"publsh\"; expected one of \"publish\""],
        "[config]\nversion = '1'\n[grants]\neffects = ['publish']",
    ),
    // An origin is the address of a page.
    (
        "[config]\nversion = '1'\n[grants]\nhttp = ['https://issuer.example/keys']",
        &["grants.http[0]: is \"https://issuer.example/keys\"; expected"],
        "[config]\nversion = '1'\n[grants]\nhttp = ['https://issuer.example']",
    ),
    // A quote is missing.
    ("[config]\nversion = '1", &["is not TOML: line 2, column "], "[config]\nversion = '1'"),
];

#[tokio::test]
async fn check_the_log_and_the_api_say_the_same_of_a_mistake_in_settings() {
    let gateway = Gateway::with("").start().await;
    let folder = gateway.folder().path().to_owned();
    let check = async || plugin(&folder, &["check", "50-a.wasm"]).await;
    gateway
        .swap(|folder| folder.plugin("50-a", &wasm("guest-version-echo"), "[config]\nversion = '0'"))
        .await;
    for (wrong, says, right) in IN_SETTINGS {
        let line = gateway.refusal(|folder| folder.settings("50-a", wrong)).await;
        let api = gateway.post("/api/plugins", &json!({})).await.ok();
        let sentence =
            api["result"]["plugins"][0]["error"]["sentence"].as_str().unwrap_or_default().to_owned();
        let (code, checked) = check().await;
        assert_eq!(code, 4, "{checked}");
        for text in [&line.message, &checked] {
            assert!(!sentence.is_empty() && text.contains(&sentence), "{sentence:?} is not in {text}");
        }
        for words in says {
            assert!(sentence.contains(words), "{words:?} is not in {sentence}");
        }
        gateway.folder().settings("50-a", right);
        eventually("the mend to be taken", async || {
            let api = gateway.post("/api/plugins", &json!({})).await.ok();
            let plugin = &api["result"]["plugins"][0];
            (plugin["state"] == "live" && plugin.get("error").is_none()).then_some(())
        })
        .await;
        assert_eq!(check().await.0, 0, "{right}");
    }
}

#[tokio::test]
async fn settings_with_another_number_than_their_plugin_are_named_with_the_right_name() {
    let gateway = Gateway::with("").start().await;
    let missing = gateway.refusal(|folder| folder.plugin("50-a", &wasm("guest-version-echo"), "")).await;
    assert!(missing.message.contains("missing field `version`"), "{}", missing.text);
    gateway.folder().settings("a", "[config]\nversion = '1'");
    let line =
        gateway.log().wait(&["a.toml", "rename it to 50-a.toml to have the settings of 50-a.wasm"]).await;
    let api = gateway.post("/api/plugins", &json!({})).await.ok();
    let sentence = api["result"]["left_out"][0]["sentence"].as_str().unwrap();
    assert!(line.text.contains(sentence), "{sentence}: {}", line.text);
    gateway.swap(|folder| folder.rename("a.toml", "50-a.toml")).await;
}

#[tokio::test]
async fn check_says_that_a_file_was_built_without_the_profile() {
    let place = tempfile::tempdir().unwrap();
    // As a build without `--release` leaves it, with a megabyte that describes the source.
    let mut bytes = fs::read(wasm("echo")).unwrap();
    let section = [&b"\x0b.debug_info"[..], &[0; 1 << 20]].concat();
    let mut length = section.len();
    bytes.push(0);
    while length > 0x7f {
        bytes.push(length as u8 & 0x7f | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(section);
    fs::write(place.path().join("echo.wasm"), bytes).unwrap();
    let (code, text) = plugin(place.path(), &["check", "echo.wasm"]).await;
    assert_eq!(code, 0, "{text}");
    let note = "1.0 MiB of it are debug information, which `gateway plugin build` leaves out";
    assert!(text.contains(note), "{text}");
    fs::copy(wasm("echo"), place.path().join("echo.wasm")).unwrap();
    let (_, text) = plugin(place.path(), &["check", "echo.wasm"]).await;
    assert!(!text.contains("debug information"), "{text}");
}

#[tokio::test]
async fn a_new_plugin_uses_the_workspace_around_it() {
    let author = Author(tempfile::tempdir().unwrap());
    let workspace = "# Mine.\n[workspace]\nresolver = \"3\"\nmembers = [\n    \"tool\", # first\n    \"rules/*\", # the rules\n]\nexclude = [\"apart\"]\n";
    author.write("Cargo.toml", workspace);
    fs::create_dir_all(author.path("tool/src")).unwrap();
    author.write("tool/Cargo.toml", "[package]\nname = \"tool\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    author.write("tool/src/lib.rs", "");
    // The target folder is where the configuration of cargo says.
    fs::create_dir(author.path(".cargo")).unwrap();
    let target = target_folder().join("authors");
    author.write(".cargo/config.toml", format!("[build]\ntarget-dir = {:?}\n", target.display().to_string()));
    let gateway = async |arguments: &[&str]| {
        let tool = Tool::new(gateway_binary()).arg("plugin").folder(author.path(""));
        let tool = arguments.iter().fold(tool, |tool, argument| tool.arg(argument));
        let output = tool.without("CARGO_TARGET_DIR").output(LONG).await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let listed = "it is a member of the workspace ";
    let said = gateway(&["new", "one", "--path", "rules/one", "--hook", "route"]).await;
    assert!(said.contains(listed), "{said}");
    assert_eq!(author.read("Cargo.toml"), workspace, "`members` matches it already");
    // A reader that has opened the file sees all of the old one.
    let mut opened = fs::File::open(author.path("Cargo.toml")).unwrap();
    let said = gateway(&["new", "two", "--hook", "limit"]).await;
    assert!(said.contains("it was added to the members of the workspace "), "{said}");
    let with_two = workspace.replace("# the rules\n", "# the rules\n    \"two\",\n");
    assert_eq!(author.read("Cargo.toml"), with_two);
    let mut seen = String::new();
    opened.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, workspace);
    let said = gateway(&["new", "three", "--path", "apart/three"]).await;
    assert!(!said.contains("workspace"), "the workspace excludes it: {said}");
    // A folder inside of a member is no member.
    let said = gateway(&["new", "four", "--path", "tool/four"]).await;
    assert!(said.contains("it was added"), "{said}");

    let members = async |folder: &str| {
        let cargo = Tool::new("cargo").arg("metadata").arg("--no-deps").arg("--format-version").arg("1");
        let text = cargo.folder(author.path(folder)).run(LONG).await;
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["packages"].as_array().unwrap().len()
    };
    for folder in ["", "tool", "rules/one", "two", "tool/four"] {
        assert_eq!(members(folder).await, 4, "{folder}");
    }
    assert_eq!(members("apart/three").await, 1);

    let built = gateway(&["build", "rules/one"]).await;
    let file = |name: &str| format!("{}/wasm32-wasip1/release/{name}.wasm\n", target.display());
    assert!(built.contains(&file("one")), "{built}");
    let built = gateway(&["build", "two"]).await;
    assert!(built.contains(&file("two")), "{built}");
    assert!(!built.contains("Compiling gateway-plugin-sdk"), "the SDK is built once: {built}");
    assert!(!built.contains("profiles for the non root package"), "{built}");
}

#[tokio::test]
async fn the_template_of_every_hook_is_tested_checked_and_run() {
    let author = Author(tempfile::tempdir().unwrap());
    author.write("Cargo.toml", "[workspace]\nresolver = \"3\"\n");
    let hooks = [
        ("door", "auth", "configure on-connect", "-> accept {\"attributes\":{\"admitted-by\":\"door\"}"),
        ("desk", "route", "configure on-message", "-> route {\"addresses\":[\"#ann\",\"chat:support\"]"),
        ("calm", "limit", "asks for    buckets", "-> next"),
        ("hush", "redact", "configure on-deliver", "-> replace {\"payload\":{\"text\":\"oh ***\"}"),
    ];
    for (name, hook, _, _) in hooks {
        author.succeeds(&["new", name, "--hook", hook], &format!("Made the plugin {name}")).await;
    }
    let tests = Tool::new("cargo").arg("test").arg("--quiet").arg("--workspace").folder(author.path(""));
    let printed = tests.env("CARGO_TARGET_DIR", target_folder().join("authors")).run(LONG).await;
    assert_eq!(printed.matches("3 passed").count(), hooks.len(), "{printed}");
    fs::create_dir(author.path("plugins")).unwrap();
    for (name, _, about, outcome) in hooks {
        // With its own settings, which grant what it needs.
        author.succeeds(&["build", name, "--into", "plugins"], "dropped as ").await;
        let file = format!("plugins/50-{name}.wasm");
        author
            .says(&["check", &file], 0, &[about, "self-test   holds: ", "ok: the gateway accepts it"])
            .await;
        author.succeeds(&["run", &file, "--events", &format!("{name}/events.jsonl")], outcome).await;
    }
    author
        .says(&["new", "other", "--hook", "deliver"], 2, &["[possible values: auth, route, limit, redact]"])
        .await;
}
