//! Streams and histories that begin anew, because an older server or other rules do not count any more.

use super::*;

#[tokio::test]
async fn streams_begin_anew_once_when_older_ones_do_not_count_any_more_whoever_knows_it_first() {
    let mut bench = Bench::new().await;
    let first = bench.publish("1", KEPT).await;
    bench.server = "first/7";
    let anew = bench.publish("2", KEPT).await;
    assert_ne!(anew.epoch, first.epoch);
    assert_eq!(anew.offset, 1);
    for (server, offset) in [("first", 2), ("first/3", 3), ("first/7", 4)] {
        bench.server = server;
        let goes_on = bench.publish("x", KEPT).await;
        assert_eq!(
            (goes_on.offset, &goes_on.epoch),
            (offset, &anew.epoch),
            "{server} has not heard of it yet"
        );
        assert_eq!(bench.recover(Some((offset, &anew.epoch)), 9).await.0, Some(vec![]));
    }
    for server in ["first/8", "other/7", "third"] {
        bench.server = server;
        assert_eq!(bench.publish("y", KEPT).await.offset, 1, "{server}");
    }
}

#[tokio::test]
async fn what_is_still_published_to_an_ended_stream_is_not_missed_by_those_who_have_left_it() {
    let mut bench = Bench::new().await;
    bench.ask(&["SET", "t:anchor", "random"]).await;
    bench.publish("1", KEPT).await;
    bench.server = "first/7";
    let (_, left) = bench.recover(None, 9).await;
    assert_eq!((bench.recover(Some((0, &left.epoch)), 9).await.0, left.offset), (Some(vec![]), 0));
    bench.server = "first";
    assert_eq!(bench.publish("of a gateway that does not know it yet", KEPT).await.offset, 2);
    bench.server = "first/7";
    assert_eq!(bench.recover(Some((0, &left.epoch)), 9).await.0, None, "it has missed that one");
    let (_, told) = bench.recover(None, 9).await;
    assert_eq!(bench.publish("of the next stream", KEPT).await.offset, 1);
    assert_eq!(bench.recover(Some((0, &left.epoch)), 9).await.0, None, "it has missed that one");
    assert_eq!(bench.recover(Some((0, &told.epoch)), 9).await.0, Some(vec![1]));
}

#[tokio::test]
async fn what_was_published_at_another_server_is_not_published_again() {
    let mut bench = Bench::new().await;
    let publish = |key: &str| {
        let idempotency = Some(Idempotency { key: key.into(), ttl: Duration::from_secs(60) });
        let conditions = Some(Box::new(PublishConditions { idempotency, version: None }));
        let body = wire::body(b"1", true, None, None);
        What::Publish {
            channel: news(),
            body,
            retention: KEPT,
            patterns: false,
            skip_history: false,
            conditions,
        }
    };
    let mut run = async |key: &str, elsewhere: bool| {
        let what = publish(key);
        let mut command = what.command(&bench.keys, &bench.scripts, "first", "t:anchor", "e");
        if elsewhere {
            command.arg(1);
        }
        let reply = bench.connection.send_packed_command(&command).await.unwrap();
        match what.read(reply).unwrap() {
            Response::Published(Ok(published)) => (published.top.offset, published.repeat),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(run("a", true).await, (0, Some(Repeat::Lost)), "this server never had it");
    assert_eq!(run("a", false).await, (1, Some(Repeat::Unsure)), "who knows the server decides");
    assert_eq!(run("a", true).await, (1, None), "it has it");
    assert_eq!(run("b", false).await, (2, Some(Repeat::Unsure)));
}

/// The reply of a server to a gateway: since when its streams count, whether it has replaced another one, and
/// the other gateways.
async fn meets(
    bench: &mut Bench,
    node: &str,
    server: &str,
    age: &str,
    moved: &str,
) -> (u64, bool, Vec<String>) {
    let script = include_str!("../lua/meeting.lua");
    let said = format!("{{\"name\":\"{node}\"}}");
    let words = ["EVAL", script, "1", "t:servers", node, server, &said, "3000", age, moved, "60000"];
    let Value::Array(parts) = bench.ask(&words).await else { panic!() };
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        other => panic!("{other:?}"),
    };
    let Value::Array(others) = &parts[3] else { panic!() };
    let name = |other: &Value| match other {
        Value::Array(parts) => text(&parts[0]),
        other => panic!("{other:?}"),
    };
    (text(&parts[0]).parse().unwrap(), !text(&parts[1]).is_empty(), others.iter().map(name).collect())
}

#[tokio::test]
async fn who_has_published_elsewhere_after_others_came_makes_streams_begin_anew() {
    let mut bench = Bench::new().await;
    assert_eq!(meets(&mut bench, "a", "x", "", "0").await, (0, false, vec![]), "the first server of all");
    assert_eq!(meets(&mut bench, "b", "x", "", "0").await, (0, false, vec!["a".to_owned()]));
    // Another server, to which `a` comes first.
    assert_eq!(meets(&mut bench, "a", "y", "5", "1").await, (0, true, vec!["b".to_owned()]));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let in_time = meets(&mut bench, "b", "y", "10000", "1").await;
    assert_eq!((in_time.0, in_time.1), (0, true), "what it has published was published before `a` had come");
    let (late, ..) = meets(&mut bench, "c", "y", "10", "1").await;
    assert!(late > 0, "it has published at the server before when `a` was here");
    assert_eq!(meets(&mut bench, "a", "y", "", "0").await.0, late, "all hear of it");
    assert!(meets(&mut bench, "b", "y", "0", "1").await.0 > late);
}

#[tokio::test]
async fn a_history_that_is_taken_up_again_is_another_one() {
    let mut bench = Bench::new().await;
    let beat = async |bench: &mut Bench, description: &str, keeping: &str| {
        let script = include_str!("../lua/beat.lua");
        let keys = ["t:leases", "t:dead", "t:rules"];
        let words = [
            "EVAL",
            script,
            "3",
            keys[0],
            keys[1],
            keys[2],
            "n",
            "lease",
            "60000",
            "0",
            description,
            keeping,
        ];
        bench.ask(&words).await;
        let mut get = async |field: &str| match bench.ask(&["HGET", "t:rules", field]).await {
            Value::BulkString(bytes) => String::from_utf8(bytes).unwrap(),
            other => panic!("{other:?}"),
        };
        (get("era news").await, get("revision").await)
    };
    let (era, first) = beat(&mut bench, "{1}", "news chat").await;
    assert_eq!(era, "on");
    assert_eq!(beat(&mut bench, "{1}", "news").await, (era, first.clone()), "nothing has changed");
    let end = include_str!("../lua/end_agreement.lua");
    assert_eq!(bench.ask(&["EVAL", end, "1", "t:rules", "7", "news"]).await, Value::Nil, "another revision");
    let ended = bench.ask(&["EVAL", end, "1", "t:rules", &first, "news"]).await;
    let Value::BulkString(second) = ended else { panic!("{ended:?}") };
    assert!(String::from_utf8(second).unwrap().parse::<u64>().unwrap() > first.parse().unwrap());
    let (era, _) = beat(&mut bench, "{1}", "news").await;
    assert!(era.strip_prefix("on ").is_some_and(|since| since.parse::<u64>().is_ok()), "{era}");
    assert_eq!(bench.ask(&["HGET", "t:rules", "era chat"]).await, Value::BulkString(b"on".to_vec()));
}
