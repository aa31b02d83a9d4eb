//! The script in Redis counts as the gateway's own meters do.

use gateway_plugin_state::{Algorithm, Meter, MeterState, Rule};
use gateway_tests::Redis;

const SCRIPT: &str = include_str!("../../../../gateway/src/backplane/redis/lua/limits.lua");
const TIME: &str = "redis.call('TIME')";

/// Numbers that look like any, from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// The script with a time that is given instead of read: the last argument.
fn script() -> String {
    assert!(SCRIPT.contains(TIME), "the script reads the time of the server");
    SCRIPT.replace(TIME, "{math.floor(ARGV[#ARGV] / 1000), ARGV[#ARGV] % 1000 * 1000}")
}

async fn report(
    redis: &Redis,
    rule: &Rule,
    key: &str,
    node: &str,
    total: u64,
    known: u64,
    now: u64,
) -> MeterState {
    let numbers =
        [rule.algorithm() as u64, rule.limit(), rule.period(), rule.forgets_after(), total, known, now];
    let numbers = numbers.map(|number| number.to_string());
    let script = script();
    let mut command = vec!["EVAL", &script, "1", key, node];
    command.extend(numbers.iter().map(String::as_str));
    let answer = redis.ask(&command).await.list()[0].text();
    let numbers: Vec<u64> = answer.split(' ').map(|number| number.parse().unwrap()).collect();
    let [used, before, age] = numbers[..] else { panic!("{answer}") };
    MeterState { used, before, age }
}

#[tokio::test]
async fn the_script_counts_as_the_meters_of_gateways_do() {
    let redis = Redis::start().await;
    let mut dice = Dice(7);
    for algorithm in Algorithm::ALL {
        for (limit, period) in [(1, 1_000), (10, 1_000), (7, 333), (1_000, 60_000), (4_000_000, 86_400_000)] {
            let rule = Rule::new(algorithm as u32, limit, period, 0).unwrap();
            let key = format!("{algorithm:?}/{limit}/{period}");
            let (mut meter, mut now, mut totals) = (Meter::default(), 1_700_000_000_000, [(0, 0); 3]);
            for step in 0..60 {
                // Now and then longer than anything is remembered; the clock of a server may be set back.
                now += match dice.below(8) {
                    0 => dice.below(3 * period),
                    _ => dice.below(period / 3 + 1),
                };
                let node = dice.below(3) as usize;
                let (total, known) = &mut totals[node];
                let fresh = if dice.below(4) == 0 { 0 } else { dice.below(limit + 2) };
                *total += fresh;
                let state = report(&redis, &rule, &key, &format!("n{node}"), *total, *known, now).await;
                if dice.below(3) > 0 {
                    *known = *total;
                }
                meter.charge(&rule, fresh, now);
                assert_eq!(state, meter.state(&rule, now), "{key}, step {step}: {fresh} at {now}");
            }
        }
    }
}

#[tokio::test]
async fn gateways_that_have_gone_do_not_pile_up() {
    let redis = Redis::start().await;
    let rule = Rule::new(3, 1_000_000, 600_000, 0).unwrap();
    let now = 1_700_000_000_000;
    for node in 0..1_100_u64 {
        report(&redis, &rule, "k", &format!("n{node}"), 1, 0, now).await;
    }
    let state = report(&redis, &rule, "k", "n0", 3, 1, now).await;
    assert_eq!(state.used, 1_102, "what they have taken stays");
    assert!(redis.ask(&["HLEN", "k"]).await.number() < 1_010);
}
