//! Plugins that mean harm: each is bounded, its client gets an answer in time, the others notice next to
//! nothing, and the gateway serves on.

use std::time::{Duration, Instant};

use gateway_tests::{Gateway, RawClient, wasm, within};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

const CONFIG: &str = "raw.enabled = true\nclient.anonymous = true\n";

/// Clients that have nothing to do with it, on both workers, each with a message at every beat.
const OTHERS: usize = 8;
const BEAT: Duration = Duration::from_millis(5);

/// How long they are watched before an attack, and while it goes on: longer where a call may take its whole
/// deadline.
const BEFORE: Duration = Duration::from_secs(1);
const CHEAP: Duration = Duration::from_millis(1500);
const COSTLY: Duration = Duration::from_secs(3);

/// Between one attack and the next of the same attacker, who does not give up.
const PAUSE: Duration = Duration::from_millis(20);

/// Below this the time of an answer is the machine's: clients, workers and what loads plugins share two
/// cores, where a thread waits for another to use up its slice.
const NOISE: Duration = Duration::from_millis(1);

/// Something else may run on the machine, and then the others wait for that. Harm would be done every time.
const ATTEMPTS: usize = 6;

/// After so many failures a plugin is left alone, a missed deadline counting as two.
const FAILURES_MAX: u64 = 5;

/// More than an attack may take from the gateway's memory, in KiB: one instance with its limit, and something
/// around it.
const MEMORY: u64 = 64 << 10;

/// How long an attacker may wait for an answer: the deadline of the plugin, and what the others need.
const ANSWER: Duration = Duration::from_millis(500);

/// Room for an answer that is larger than anything.
const GENEROUS: &str = "memory = '1GiB'\n";
/// Enough time to use up the memory.
const NARROW: &str = "memory = '4MiB'\ndeadline = '200ms'\n";
/// For what ends by itself in some milliseconds, and later on a busy machine.
const PATIENT: &str = "deadline = '100ms'\n";

/// Hook, way, limits, and what the failures count as; empty if the gateway just goes on.
const WAYS: [(&str, &str, &str, &str); 24] = [
    ("on-connect", "trap", "", "trap"),
    ("on-connect", "loop", "", "deadline"),
    ("on-connect", "recurse", PATIENT, "trap"),
    ("on-connect", "grow", NARROW, "memory"),
    ("on-connect", "print", "", "deadline"),
    ("on-connect", "answer", GENEROUS, "deadline"),
    ("on-connect", "items", GENEROUS, "deadline"),
    ("on-connect", "publish", "", "deadline"),
    ("on-connect", "calls", "", "deadline"),
    ("on-message", "trap", "", "trap"),
    ("on-message", "loop", "", "deadline"),
    ("on-message", "recurse", PATIENT, "trap"),
    ("on-message", "grow", NARROW, "memory"),
    ("on-message", "print", "", "deadline"),
    ("on-message", "log", "", "deadline"),
    ("on-message", "answer", GENEROUS, "deadline"),
    ("on-message", "items", GENEROUS, "deadline"),
    ("on-message", "publish", "", "deadline"),
    ("on-message", "calls", "", "deadline"),
    ("on-disconnect", "trap", "", "trap"),
    ("on-disconnect", "loop", "", "deadline"),
    ("on-disconnect", "recurse", PATIENT, "trap"),
    ("on-disconnect", "grow", NARROW, "memory"),
    ("on-disconnect", "print", "", "deadline"),
];

fn settings(hook: &str, way: &str, limits: &str) -> String {
    format!(
        "failure = 'open'\n[config]\nhook = '{hook}'\nway = '{way}'\n[grants]\neffects = ['publish']\n[limits]\n{limits}"
    )
}

/// Clients that talk all the time, and how long each answer took.
struct Others(JoinSet<(RawClient, Vec<Duration>)>);

impl Others {
    async fn connect(gateway: &Gateway) -> Vec<RawClient> {
        let mut clients = Vec::new();
        for _ in 0..OTHERS {
            clients.push(RawClient::connect(gateway).await);
        }
        clients
    }

    fn talk(clients: Vec<RawClient>, watched: Duration) -> Self {
        let mut talks = JoinSet::new();
        for mut client in clients {
            talks.spawn(async move {
                let mut beat = interval(BEAT);
                beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let (begun, mut times) = (Instant::now(), Vec::new());
                while begun.elapsed() < watched {
                    beat.tick().await;
                    let asked = Instant::now();
                    assert_eq!(client.ask("fine").await, "fine");
                    times.push(asked.elapsed());
                }
                (client, times)
            });
        }
        Self(talks)
    }

    /// The clients, and the time that one answer in a hundred took longer than.
    async fn p99(mut self) -> (Vec<RawClient>, Duration) {
        let (mut clients, mut all) = (Vec::new(), Vec::new());
        while let Some(talk) = self.0.join_next().await {
            let (client, times) = talk.expect("everyone is served");
            clients.push(client);
            all.extend(times);
        }
        all.sort();
        (clients, all[all.len() * 99 / 100])
    }
}

/// One attack, from the connect to the end. Returns the longest wait for an answer.
async fn attack(gateway: &Gateway, hook: &str) -> Duration {
    let asked = Instant::now();
    let mut attacker = RawClient::connect_with(gateway, "attack").await;
    // An answer to anything shows that the client was admitted, and the chain goes on behind the plugin.
    attacker.send(if hook == "on-message" { "attack" } else { "hello" }).await;
    // A refusal closes the connection: an answer as well.
    let _ = attacker.next("an answer to an attack").await;
    let took = asked.elapsed();
    attacker.close().await;
    took
}

/// How often the plugin has failed for this cause; for none, whatever it was.
async fn failures(gateway: &Gateway, cause: &str) -> u64 {
    let plugins = gateway.post("/api/plugins", &json!({})).await.ok();
    let causes = plugins["result"]["plugins"][0]["counts"]["failures"].as_object().unwrap().clone();
    let counts = causes.iter().filter(|(name, _)| cause.is_empty() || *name == cause);
    counts.map(|(_, count)| count.as_u64().unwrap()).sum()
}

/// Attacks for as long as the others are watched. Returns the longest wait of the attacker for an answer, and
/// the others'.
async fn harm(
    gateway: &Gateway,
    hook: &str,
    others: Vec<RawClient>,
    watched: Duration,
) -> (Vec<RawClient>, Duration, Duration) {
    let (begun, talks) = (Instant::now(), Others::talk(others, watched));
    let mut longest = Duration::ZERO;
    while begun.elapsed() < watched {
        longest = longest.max(attack(gateway, hook).await);
        sleep(PAUSE).await;
    }
    let (others, during) = talks.p99().await;
    (others, longest, during)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn harm_stays_with_the_client_who_asked_for_it() {
    println!(
        "{:<14}{:<9}{:>10}{:>12}{:>12}{:>12}  counted",
        "hook", "way", "answer", "p99 before", "p99 during", "memory"
    );
    let gateway = Gateway::with(CONFIG)
        .plugin("10-hostile", "guest-hostile", &settings("none", "none", ""))
        // Not cut off itself, however busy the machine is.
        .plugin("90-echo", "echo", "limits.deadline = '1s'\n")
        .start()
        .await;
    let mut others = Others::connect(&gateway).await;
    for (hook, way, limits, counted) in WAYS {
        let mine = format!("{hook} {way}");
        gateway.swap(|folder| folder.settings("10-hostile", &settings(hook, way, limits))).await;
        let mut unharmed = false;
        for _ in 0..ATTEMPTS {
            let failed = failures(&gateway, counted).await;
            let (before, longest, during);
            (others, before) = Others::talk(others, BEFORE).p99().await;
            let memory = gateway.memory();
            let watched = if counted == "deadline" { COSTLY } else { CHEAP };
            (others, longest, during) = harm(&gateway, hook, others, watched).await;

            let grown = gateway.memory().saturating_sub(memory);
            let failed = failures(&gateway, counted).await - failed;
            println!(
                "{hook:<14}{way:<9}{longest:>10.1?}{before:>12.2?}{during:>12.2?}{grown:>8} KiB  {failed} {counted}",
            );
            assert!(grown < MEMORY, "{mine}: {grown} KiB more memory");
            assert_eq!(failed > 0, !counted.is_empty(), "{mine}: {failed}");
            assert!(failed <= FAILURES_MAX, "{mine}: called on and on, {failed} times");
            for other in &mut others {
                assert_eq!(other.ask("still here").await, "still here", "{mine}");
            }
            let newcomer = RawClient::connect(&gateway).await.ask("new").await;
            assert_eq!(newcomer, "new", "{mine}: newcomers are served");

            unharmed = longest < ANSWER && during < (before * 2).max(NOISE);
            if unharmed {
                break;
            }
            let again = json!({"name": "hostile", "state": "auto"});
            gateway.post("/api/plugin_breaker", &again).await.ok();
        }
        assert!(
            unharmed,
            "{mine}: {ATTEMPTS} times the attacker waited longer than {ANSWER:?}, or one in a hundred of the others' \
             answers took twice as long as before"
        );
    }
}

#[tokio::test]
async fn a_plugin_that_does_harm_in_configure_never_gets_into_the_chain() {
    let gateway = Gateway::with(CONFIG).plugin("90-echo", "echo", "").start().await;
    let mut client = RawClient::connect(&gateway).await;
    for way in ["trap", "loop", "recurse", "grow", "print", "log", "answer"] {
        let limits = if way == "answer" { "memory = '1GiB'\n" } else { "configure_deadline = '200ms'\n" };
        let dropped = Instant::now();
        let mark = gateway.log().mark();
        gateway.folder().plugin("10-hostile", &wasm("guest-hostile"), &settings("configure", way, limits));
        // Whoever is connected is served meanwhile.
        within("the refusal", async {
            while !gateway.log().since(mark).iter().any(|line| line.says(&["plugin refused"])) {
                assert_eq!(client.ask("meanwhile").await, "meanwhile", "{way}");
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let line = gateway.log().wait_since(mark, &["plugin refused"]).await;
        println!("configure {way}: refused after {:.0?}: {}", dropped.elapsed(), line.message);
        assert!(line.message.len() < 2000, "{way}: a sentence and not a novel: {}", line.message.len());
        assert_eq!(line.field("code"), "configure", "{way}: {}", line.text);
    }
    assert_eq!(client.ask("x").await, "x");
}
