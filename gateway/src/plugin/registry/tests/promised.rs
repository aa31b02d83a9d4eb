//! Tests the files that are in the folder at the start: the gateway is expected to serve with them.

use super::*;

fn closed(bench: &Bench) -> Vec<String> {
    bench.registry.closed().iter().map(|place| format!("{} {}", place.file, place.error.code)).collect()
}

/// A file with these settings.
fn with_settings(file: &str, settings: &'static str) -> PluginFile {
    PluginFile { settings: Some(Ok(Bytes::from_static(settings.as_bytes()))), ..found(file) }
}

fn left_out(file: &str, meant: Meant) -> LeftOut {
    let error = LoadError::new(LoadCode::Misnamed, "is none");
    LeftOut { file: file.into(), meant, error, settings: None, fresh: false }
}

fn contents(files: &str, left_out: Vec<LeftOut>) -> Contents {
    Contents { found: files.split_whitespace().map(found).collect(), left_out }
}

#[tokio::test]
async fn a_plugin_that_cannot_be_loaded_at_a_start_closes_its_place_until_it_can() {
    let bench = Bench::new();
    bench.apply("10-a=A 20-b=bad 30-c=C").await;
    assert_eq!((bench.trace(), closed(&bench)), ("closed".into(), vec!["20-b.wasm not-wasm".into()]));
    bench.apply("10-a=A 20-b=late 30-c=C").await;
    assert_eq!((bench.trace(), closed(&bench)), ("closed".into(), vec!["20-b.wasm instantiate".into()]));
    bench.apply("10-a=A 40-b=bad 30-c=C").await;
    assert_eq!(
        (bench.trace(), closed(&bench)),
        ("closed".into(), vec!["40-b.wasm not-wasm".into()]),
        "renamed"
    );
    bench.apply("10-a=A 20-b=B 30-c=C").await;
    assert_eq!((bench.trace(), closed(&bench)), ("A B C".into(), vec![]));
    bench.apply("10-a=A 20-b=bad 30-c=C 40-d=bad").await;
    assert_eq!((bench.trace(), closed(&bench)), ("A B C".into(), vec![]), "later drops change nothing");
}

#[tokio::test]
async fn another_name_opens_nothing() {
    for (renamed, expected) in
        [("20-other=bad", "20-other.wasm not-wasm"), ("20-b.v2=bad", "20-b.v2.wasm invalid-name")]
    {
        let bench = Bench::new();
        bench.apply("10-a=A 20-b=bad").await;
        bench.apply(&format!("10-a=A {renamed}")).await;
        assert_eq!((bench.trace(), closed(&bench)), ("closed".into(), vec![expected.into()]));
        bench.apply(&format!("10-a=A {renamed}")).await;
        assert_eq!(bench.trace(), "closed", "also at the next look");
        bench.apply("10-a=A").await;
        assert_eq!((bench.trace(), closed(&bench)), ("A".into(), vec![]), "taken out");
    }
    let bench = Bench::new();
    bench.apply("10-a=A 20-b=bad").await;
    bench.registry.apply(contents("10-a=A", vec![left_out("20-other.WASM", Meant::Misnamed)])).await;
    assert_eq!(bench.trace(), "closed");
    // A file that was there and closed no place does not close one because another place is closed.
    let bench = Bench::new();
    bench.apply("10-a=A").await;
    bench.apply("10-a=A 20-b=bad").await;
    bench.apply("10-a=A 20-b=bad 30-c=bad").await;
    assert_eq!((bench.trace(), closed(&bench)), ("A".into(), vec![]));
}

#[tokio::test]
async fn taking_it_out_opens_its_place() {
    let bench = Bench::new();
    bench.apply("10-a=A 20-b=bad").await;
    bench.apply("10-a=A").await;
    assert_eq!((bench.trace(), closed(&bench)), ("A".into(), vec![]));
}

#[tokio::test]
async fn half_a_file_keeps_a_place_closed() {
    let bench = Bench::new();
    bench.apply("a=bad").await;
    bench.registry.apply(vec![PluginFile { fresh: true, ..found("a=bad") }]).await;
    assert_eq!(bench.trace(), "closed");
}

#[tokio::test]
async fn settings_that_can_be_read_may_leave_the_place_open() {
    for (settings, expected) in [
        ("failure = 'open'", "B"),
        ("failure = 'closed'", "closed"),
        ("failure = 'open'\nx = 1", "closed"),
        ("[", "closed"),
    ] {
        let bench = Bench::new();
        bench.registry.apply(vec![with_settings("a=bad", settings), found("b=B")]).await;
        assert_eq!(bench.trace(), expected, "{settings}");
    }
    let bench = Bench::new();
    let unreadable = Some(Err(LoadError::new(LoadCode::Unreadable, "cannot be read")));
    bench.registry.apply(vec![PluginFile { settings: unreadable, ..found("a=A") }]).await;
    assert_eq!(closed(&bench), ["a.wasm unreadable"]);
    assert!(
        bench.registry.closed()[0].error.message.contains("has settings in a.toml, which cannot be read")
    );
}

#[tokio::test]
async fn whatever_keeps_a_file_from_being_loaded_closes() {
    let bench = Bench::new();
    bench.apply("10-a=A 20-a=A 30-b=publishes 40-c=lies 50-d.x=D 60-e=panic").await;
    let expected = [
        "20-a.wasm duplicate-name",
        "30-b.wasm not-granted",
        "40-c.wasm self-test",
        "50-d.x.wasm invalid-name",
        "60-e.wasm compile",
    ];
    assert_eq!(closed(&bench), expected);
    let bench = Bench::new();
    let Bench { registry, workers, loader } = bench;
    let bench = Bench { registry: registry.with_plugins_max(1), workers, loader };
    bench.apply("a=A b=B").await;
    assert_eq!(closed(&bench), ["b.wasm too-many"]);
}

#[tokio::test]
async fn what_was_meant_to_be_a_plugin_closes_too() {
    for (file, meant, settings, expected) in [
        ("20-b.wasm", Meant::Plugin, None, "closed"),
        ("20-b.WASM", Meant::Misnamed, None, "closed"),
        ("20-b.toml", Meant::Settings, Some(""), "closed"),
        ("old/", Meant::Folder, None, "A"),
        ("20-b.wasm", Meant::Plugin, Some("failure = 'open'"), "A"),
        ("20-b.WASM", Meant::Misnamed, Some("failure = 'open'"), "A"),
        ("20-b.toml", Meant::Settings, Some("failure = 'open'"), "A"),
        ("20-b.wasm", Meant::Plugin, Some("failure = 'open"), "closed"),
    ] {
        let settings = settings.map(|text| Ok(Bytes::from_static(text.as_bytes())));
        let left = LeftOut { settings, ..left_out(file, meant) };
        let bench = Bench::new();
        bench.registry.apply(contents("10-a=A", vec![left.clone()])).await;
        assert_eq!(bench.trace(), expected, "{file} at a start");
        let bench = Bench::new();
        bench.apply("10-a=A").await;
        bench.registry.apply(contents("10-a=A", vec![left])).await;
        assert_eq!(bench.trace(), "A", "{file} later");
        assert_eq!(&*bench.registry.left_out()[0].file, file);
    }
    let bench = Bench::new();
    bench.registry.apply(contents("", vec![left_out("rules/", Meant::Folder)])).await;
    assert_eq!(bench.trace(), "closed", "with nothing else in the folder");
}

#[tokio::test]
async fn a_plugin_whose_file_is_there_and_unusable_goes_on() {
    let bench = Bench::new();
    bench.apply("10-a=A 20-b=B").await;
    bench.registry.apply(contents("20-b=B", vec![left_out("10-a.wasm", Meant::Plugin)])).await;
    assert_eq!(bench.trace(), "A B");
    // Its settings alone do not keep it: they often stay in the folder after a plugin is removed.
    bench.registry.apply(contents("20-b=B", vec![left_out("10-a.toml", Meant::Settings)])).await;
    assert_eq!(bench.trace(), "B");
}

#[tokio::test]
async fn a_name_stands_in_the_chain_once() {
    let bench = Bench::new();
    let two = || vec![left_out("10-a.wasm", Meant::Plugin), left_out("20-a.wasm", Meant::Plugin)];
    bench.registry.apply(contents("", two())).await;
    assert_eq!(closed(&bench), ["10-a.wasm misnamed"]);
    bench.apply("10-a=A").await;
    bench.registry.apply(contents("", two())).await;
    assert_eq!((bench.trace(), bench.registry.status().len()), ("A".into(), 1));

    let Bench { registry, workers, loader } = Bench::new();
    let bench = Bench { registry: registry.with_required(["a".into()]), workers, loader };
    bench.apply("10-a=A 20-b=bad").await;
    let misnamed = || vec![left_out("10-a.WASM", Meant::Misnamed), left_out("10-a.toml", Meant::Settings)];
    bench.registry.apply(contents("20-b=bad", misnamed())).await;
    assert_eq!(closed(&bench), ["20-b.wasm not-wasm"]);
    bench.registry.apply(contents("20-b=B", misnamed())).await;
    assert_eq!((bench.trace(), bench.status()[0].as_str()), ("A B".into(), "10-a.wasm a removed-kept"));
}

#[tokio::test]
async fn a_plugin_that_is_missing_is_taken_out_with_its_settings() {
    let bench = Bench::new();
    bench.apply("10-a=A 20-b=bad+s").await;
    let settings = LeftOut { fresh: true, ..left_out("20-b.toml", Meant::Settings) };
    bench.registry.apply(contents("10-a=A", vec![settings])).await;
    assert_eq!(closed(&bench), ["20-b.toml misnamed"]);
    assert_eq!(bench.registry.left_out(), [], "not yet worth a word");
    bench.apply("10-a=A").await;
    assert_eq!(bench.trace(), "A");
}

#[tokio::test]
async fn required_plugins_are_missed_and_outlive_their_files() {
    let Bench { registry, workers, loader } = Bench::new();
    let required: [Box<str>; 3] = ["a".into(), "b".into(), "c".into()];
    let bench = Bench { registry: registry.with_required(required), workers, loader };
    assert!(!bench.registry.has_begun());
    bench.apply("10-a=A 20-b=bad").await;
    assert!(bench.registry.has_begun());
    let missing = bench.registry.missing();
    let missing: Vec<_> =
        missing.iter().map(|(name, place)| (&**name, place.as_ref().map(|place| place.error.code))).collect();
    assert_eq!(missing, [("b", Some(LoadCode::NotWasm)), ("c", None)]);
    bench.apply("10-a=A 20-b=B 30-c=C").await;
    assert_eq!(bench.registry.missing(), []);
    bench.apply("10-a=A").await;
    assert_eq!((bench.trace(), bench.registry.missing()), ("A B C".into(), vec![]));
}

#[tokio::test]
async fn what_had_no_room_at_the_start_is_tried_again() {
    let bench = Bench::new();
    bench.loader.full.store(true, SeqCst);
    bench.apply("a=A b=bad").await;
    assert_eq!(closed(&bench), ["a.wasm instantiate", "b.wasm not-wasm"]);
    bench.loader.full.store(false, SeqCst);
    assert!(bench.registry.tend().await.is_some());
    assert_eq!(closed(&bench), ["b.wasm not-wasm"]);
    assert!(bench.registry.tend().await.is_none(), "bytes that are bad stay bad");
}

#[tokio::test]
async fn what_is_kept_of_a_plugin_that_has_gone_is_forgotten_after_a_time() {
    let bench = Bench::new();
    bench.apply("a=A b=B").await;
    bench.apply("b=B").await;
    bench.registry.tend().await;
    assert_eq!(bench.registry.states().len(), 2, "it may come back");
    let long_ago = SystemTime::now() - 2 * STATE_KEPT;
    bench.registry.state.lock().await.gone.insert("a".into(), long_ago);
    bench.registry.tend().await;
    assert_eq!(bench.registry.states().len(), 1);
    assert_eq!(bench.status(), ["b.wasm b live"]);
}
