//! Rate limits and values in the test kit: what the gateway keeps, with the same code.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use gateway_plugin_sdk::kit::{Kit, START};
use gateway_plugin_sdk::prelude::*;
use gateway_plugin_sdk::rate::{Bucket, Rate};
use gateway_plugin_sdk::{HostErrorKind, kv};

/// Does what the payload of a message says.
struct Keeper {
    per_user: Bucket,
    per_connection: Bucket,
}

#[settings]
struct Settings {
    limit: u64,
}

const SECOND: Duration = Duration::from_secs(1);

#[plugin]
impl Plugin for Keeper {
    type Config = Settings;

    fn configure(config: Settings, _: &mut Interests) -> Result<Self, String> {
        Ok(Self {
            per_user: Bucket::declare("per user", Rate::fixed_window(config.limit, SECOND))?,
            per_connection: Bucket::declare("per connection", Rate::token_bucket(1, SECOND))?,
        })
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        let taken = match event.text().unwrap() {
            "user" => self.per_user.take(event.user(), 1),
            "connection" => self.per_connection.take_for(event, 1),
            "whale" => self.per_user.take(event.user(), 1_000),
            "room" => {
                let room = self.per_user.room(event.user());
                return Verdict::reply_json(&json!([room.remaining, room.full_in.as_millis() as u64]));
            }
            "count" => return Verdict::reply_json(&kv::increment("count", 1, SECOND).unwrap()),
            "late" => {
                return Verdict::reply_json(&Bucket::declare("late", Rate::token_bucket(1, SECOND)).is_ok());
            }
            "boom" => {
                kv::set("trace", "was here", None).unwrap();
                panic!("boom");
            }
            name => {
                return Verdict::reply_json(&kv::get(name).map(|value| String::from_utf8(value).unwrap()));
            }
        };
        match taken {
            Ok(()) => Verdict::next(),
            Err(retry) => Verdict::deny(code::TOO_MANY_REQUESTS, retry.to_string()),
        }
    }
}

fn kit() -> Kit<Keeper> {
    Kit::new(json!({"limit": 2})).unwrap()
}

fn send(kit: &mut Kit<Keeper>, connection: &str, user: &str, what: &str) -> Verdict {
    kit.connection(connection).user(user).message(Kind::Rpc).payload(what).send().verdict
}

fn retry(millis: u64) -> Verdict {
    Verdict::deny(111, format!("retry after {millis} ms"))
}

#[test]
fn a_limit_belongs_to_a_key_and_ends_with_its_period() {
    let mut kit = kit();
    let seen = ["a", "a", "a", "b"].map(|user| send(&mut kit, "c", user, "user"));
    assert_eq!(seen, [Verdict::Next, Verdict::Next, retry(1000), Verdict::Next]);
    kit.advance(Duration::from_millis(300));
    assert_eq!(send(&mut kit, "c", "a", "user"), retry(700));
    assert_eq!(send(&mut kit, "c", "b", "room"), Verdict::reply("[1,700]"));
    kit.advance(Duration::from_millis(700));
    assert_eq!(send(&mut kit, "c", "a", "user"), Verdict::Next);
    assert_eq!(send(&mut kit, "c", "a", "whale"), Verdict::deny(111, "too much at once"));
}

#[test]
fn a_limit_of_a_connection_goes_with_it() {
    let mut kit = kit();
    let seen = ["c1", "c1", "c2"].map(|connection| send(&mut kit, connection, "a", "connection"));
    assert_eq!(seen, [Verdict::Next, retry(1000), Verdict::Next]);
    kit.connection("c1").disconnect(1000, "");
    assert_eq!(send(&mut kit, "c1", "a", "connection"), Verdict::Next);
}

#[test]
fn a_reload_finds_everything_again_unless_the_rate_is_another() {
    let mut kit = kit();
    assert_eq!([(); 2].map(|()| send(&mut kit, "c", "a", "user")), [Verdict::Next, Verdict::Next]);
    assert_eq!(send(&mut kit, "c", "a", "count"), Verdict::reply("1"));
    kit.reload(json!({"limit": 2})).unwrap();
    assert_eq!(send(&mut kit, "c", "a", "user"), retry(1000));
    assert_eq!(send(&mut kit, "c", "a", "count"), Verdict::reply("2"));
    let refused = kit.reload(json!({"limit": 0})).unwrap_err();
    assert_eq!(refused, "the limit is 0; expected 1 to 4294967295");
    assert_eq!(send(&mut kit, "c", "a", "user"), retry(1000), "the instance before goes on");
    kit.reload(json!({"limit": 3})).unwrap();
    assert_eq!(send(&mut kit, "c", "a", "user"), Verdict::Next);
}

#[test]
fn values_expire_by_the_clock_of_the_kit() {
    let mut kit = kit();
    for expected in ["1", "2"] {
        assert_eq!(send(&mut kit, "c", "a", "count"), Verdict::reply(expected));
    }
    kit.set_now(START + 1000);
    assert_eq!(send(&mut kit, "c", "a", "count"), Verdict::reply("1"));
}

#[test]
fn what_a_hook_that_panics_has_set_stays() {
    let mut kit = kit();
    assert!(catch_unwind(AssertUnwindSafe(|| send(&mut kit, "c", "a", "boom"))).is_err());
    assert_eq!(send(&mut kit, "c", "a", "trace"), Verdict::reply("\"was here\""));
    assert!(send(&mut kit, "c", "a", "late") == Verdict::reply("false"), "only in configure");
}

#[test]
fn what_the_gateway_does_not_keep_is_refused() {
    /// Tries everything in `configure`, where values are there already.
    struct Tries;

    impl Plugin for Tries {
        type Config = ();

        fn configure((): (), _: &mut Interests) -> Result<Self, String> {
            let kind = |refused: Result<(), gateway_plugin_sdk::HostError>| refused.unwrap_err().kind;
            assert_eq!(kind(kv::set(&"k".repeat(513), "", None)), HostErrorKind::TooLarge);
            assert_eq!(kind(kv::set("k", vec![0; 300 << 10], None)), HostErrorKind::TooManyBytes);
            assert_eq!(kv::add("k", "x", None), Ok(true));
            assert_eq!(kv::add("k", "y", None), Ok(false));
            assert_eq!(kv::get("k").as_deref(), Some(&b"x"[..]));
            assert_eq!(kind(kv::increment("k", 1, None).map(drop)), HostErrorKind::NotANumber);
            assert!(kv::delete("k") && !kv::delete("k"));
            let burst = Rate::fixed_window(1, SECOND).burst(3);
            assert_eq!(kind(Bucket::declare("a", burst).map(drop)), HostErrorKind::InvalidRule);
            for _ in 0..64 {
                Bucket::declare("a", Rate::leaky_bucket(1, SECOND)).unwrap();
            }
            let more = Bucket::declare("a", Rate::sliding_window(1, SECOND));
            assert_eq!(kind(more.map(drop)), HostErrorKind::TooManyEffects);
            Ok(Self)
        }
    }

    Kit::<Tries>::new(json!({})).unwrap();
}
