//! The headline promise: rules change a hundred times under a thousand busy connections, and nobody notices
//! anything but the new rules.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use gateway_tests::{Gateway, RawClient, within, within_time};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep;

const CONNECTIONS: usize = 1_000;
const SWAPS: u32 = 100;
/// What one connection has in flight at a time.
const BURST: u64 = 4;
const PAUSE: Duration = Duration::from_millis(200);
/// After this many swaps the gateway has all the memory it needs.
const WARM: usize = 20;

const CONFIG: &str = "
    raw.enabled = true
    client.anonymous = true
    limits.connections_per_address_max = 2000
";

fn settings(name: &str, version: u32) -> String {
    format!("[config]\nname = '{name}'\nversion = '{version}'\n")
}

/// The versions of both links that a message met: first `one`, then `two`, each once.
fn chain_of(question: &str, answer: &str) -> Option<(u32, u32)> {
    let rest = answer.strip_prefix(question)?.strip_prefix("|one")?;
    let (one, two) = rest.split_once("|two")?;
    Some((one.parse().ok()?, two.parse().ok()?))
}

/// What all connections see together.
#[derive(Default)]
struct Seen {
    stop: Cell<bool>,
    answers: Cell<u64>,
    chains: RefCell<HashSet<(u32, u32)>>,
    /// When each version answered somebody for the first time.
    first: RefCell<Vec<Option<Instant>>>,
}

impl Seen {
    fn answer(&self, chain: (u32, u32)) {
        self.answers.set(self.answers.get() + 1);
        if self.chains.borrow_mut().insert(chain) && chain.0 == chain.1 {
            self.first.borrow_mut()[chain.0 as usize] = Some(Instant::now());
        }
    }
}

/// One client: sends, gets exactly one answer for each message and in order, never from older rules than
/// before.
async fn traffic(mut client: RawClient, number: usize, seen: Rc<Seen>) {
    sleep(PAUSE.mul_f64(number as f64 / CONNECTIONS as f64)).await;
    let mut newest = (0, 0);
    let mut next = 0;
    while !seen.stop.get() {
        let questions: Vec<_> = (next..next + BURST).map(|n| format!("{number}-{n}")).collect();
        next += BURST;
        for question in &questions {
            client.send(question).await;
        }
        for question in &questions {
            let answer = client.text().await;
            let chain = chain_of(question, &answer).unwrap_or_else(|| panic!("{question} -> {answer}"));
            assert!(chain.0 >= newest.0 && chain.1 >= newest.1, "{answer} after {newest:?}");
            newest = chain;
            seen.answer(chain);
        }
        sleep(PAUSE).await;
    }
    // Nothing is left over: the answer to a close comes next.
    client.close().await;
}

/// Changes both links at once and returns the chains that were live in between: normally only the new one.
async fn change_rules(gateway: &Gateway, probe: &mut RawClient, version: u32) -> Vec<(u32, u32)> {
    let mut mark = gateway.log().mark();
    gateway.folder().settings("10-one", &settings("one", version));
    gateway.folder().settings("20-two", &settings("two", version));
    let mut live = Vec::new();
    while live.last() != Some(&(version, version)) {
        gateway.log().wait_since(mark, &["plugin chain swapped"]).await;
        mark = gateway.log().mark();
        let answer = probe.ask("probe").await;
        live.push(chain_of("probe", &answer).unwrap());
    }
    live
}

#[tokio::test]
async fn a_hundred_swaps_under_a_thousand_connections_lose_and_mix_nothing() {
    let gateway = Gateway::with(CONFIG)
        .plugin("10-one", "guest-append-name", &settings("one", 1))
        .plugin("20-two", "guest-append-name", &settings("two", 1))
        .plugin("90-echo", "echo", "")
        .start()
        .await;
    let seen = Rc::new(Seen::default());
    *seen.first.borrow_mut() = vec![None; SWAPS as usize + 2];
    LocalSet::new()
        .run_until(within_time(Duration::from_secs(240), "the whole test", storm(gateway, seen)))
        .await;
}

async fn storm(gateway: Gateway, seen: Rc<Seen>) {
    let mut connections = JoinSet::new();
    for number in 0..CONNECTIONS {
        connections.spawn_local(traffic(RawClient::connect(&gateway).await, number, seen.clone()));
    }
    let mut probe = RawClient::connect(&gateway).await;
    within("all connections to be busy", async {
        while seen.answers.get() < CONNECTIONS as u64 * BURST {
            sleep(PAUSE).await;
        }
    })
    .await;

    let mut legal = HashSet::from([(1, 1)]);
    let mut live = Vec::new();
    let mut memory = Vec::new();
    let (begun, answered) = (Instant::now(), seen.answers.get());
    for version in 2..SWAPS + 2 {
        let dropped = Instant::now();
        legal.extend(change_rules(&gateway, &mut probe, version).await);
        within("the new rules to answer", async {
            while seen.first.borrow()[version as usize].is_none() {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        live.push(seen.first.borrow()[version as usize].unwrap() - dropped);
        memory.push(gateway.memory());
    }
    let (took, answered) = (begun.elapsed(), seen.answers.get() - answered);

    seen.stop.set(true);
    while let Some(ended) = within("all connections to finish", connections.join_next()).await {
        ended.expect("every message was answered once, by one chain");
    }
    let mixed: Vec<_> = seen.chains.borrow().difference(&legal).copied().collect();
    assert!(mixed.is_empty(), "answers of chains that never were: {mixed:?}");
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_connections_closed_total{cause=\"client\"}"), CONNECTIONS as f64);
    assert_eq!(metrics.get("gateway_connections"), 1.0, "only the probe is left");

    live.sort();
    let (first, last) =
        (memory[WARM - 5..WARM].iter().max().unwrap(), memory[memory.len() - 5..].iter().max().unwrap());
    println!(
        "{SWAPS} swaps in {took:.1?} ({:.1}/s) under {answered} messages ({:.0}/s) on {CONNECTIONS} connections",
        f64::from(SWAPS) / took.as_secs_f64(),
        answered as f64 / took.as_secs_f64(),
    );
    println!(
        "from the drop to the first answer: p50 {:.0?}, max {:.0?}",
        live[live.len() / 2],
        live[live.len() - 1]
    );
    println!("memory: {first} KiB after {WARM} swaps, {last} KiB after {SWAPS}");
    assert!(*last as f64 <= *first as f64 * 1.1, "memory grows with every swap: {memory:?}");
    assert!(live[live.len() / 2] < Duration::from_secs(1), "{live:?}");
}
