//! A message meets three plugins.

use gateway::plugin::chain::Chain;
use gateway::plugin::event::Kind;
use gateway::plugin::verdict::Decision;

use crate::Scale;
use crate::fixture::{Plugins, SMALL, message};
use crate::measure::{Case, Measure, compare, ns_per_call};
use crate::native::{self, Decide, Native};
use crate::table::Table;

/// `auth-jwt`, which has the gateway look up in the attributes of the connection what a token permits.
const AUTH: &str = r#"
[config]
secret = "a secret of thirty-two bytes or more"
permissions = "claims"
"#;

/// `rate-limit`, per connection, never reached.
const LIMIT: &str = r#"
[grants]
buckets = true
key-value = true

[[config.limits]]
name = "messages"
limit = 1_000_000_000
period = "1s"
key = "connection"
"#;

/// `router`, publishing to a room beside the channel.
const ROUTE: &str = r#"
[[config.rules]]
kind = "publish"
channel = "chat:*"
fan_out = ["room:r42"]
"#;

/// `router`, reading the payload and publishing to the room that it names.
const ROUTE_BY_FIELD: &str = r#"
[[config.rules]]
kind = "publish"
channel = "chat:*"
fan_out = ["room:{payload.room}"]
"#;

pub(crate) fn run(scale: &Scale) -> anyhow::Result<Table> {
    let plugins = Plugins::new()?;
    let native = |decides: &[Decide]| -> anyhow::Result<Chain> {
        let links = decides.iter().map(|decide| plugins.in_chain("native", Native::factory(*decide)));
        Ok(Chain::new(1, links.collect::<Result<_, _>>()?))
    };
    let wasm = |links: &[(&str, &str)]| -> anyhow::Result<Chain> {
        let links = links.iter().map(|(name, settings)| plugins.link(name, settings));
        Ok(Chain::new(1, links.collect::<Result<_, _>>()?))
    };
    let against = "native plugins, same chain";
    let shipped = |rules| wasm(&[("auth-jwt", AUTH), ("rate-limit", LIMIT), ("router", rules)]);
    let cases = vec![
        Case {
            name: format!("permitted? within limits? route by channel; {SMALL} B"),
            unit: "ns",
            gateway: ask(scale, shipped(ROUTE)?, true),
            against,
            baseline: ask(scale, native(&[native::permitted, native::within_limits, native::route])?, true),
        },
        Case {
            name: format!("permitted? within limits? route by a field; {SMALL} B"),
            unit: "ns",
            gateway: ask(scale, shipped(ROUTE_BY_FIELD)?, true),
            against,
            baseline: ask(
                scale,
                native(&[native::permitted, native::within_limits, native::route_by_field])?,
                true,
            ),
        },
        Case {
            name: format!("next, next, next; {SMALL} B"),
            unit: "ns",
            gateway: ask(
                scale,
                wasm(&[("guest-no-sdk", ""), ("guest-no-sdk", ""), ("guest-no-sdk", "")])?,
                false,
            ),
            against,
            baseline: ask(scale, native(&[native::next, native::next, native::next])?, false),
        },
    ];
    let rows = compare(scale.rounds, cases)?;
    let notes = vec![
        "auth-jwt: the gateway looks up what a claim permits, the plugin is called about the rest; rate-limit counts per".to_owned(),
        "connection; router publishes to `room:r42`, or to `room:{payload.room}`, for which it reads the JSON".to_owned(),
        "the last case is guest-no-sdk three times".to_owned(),
    ];
    Ok(Table::compared("a published message meets three plugins (`Chain::on_message`)", notes, &rows))
}

fn ask<'a>(scale: &Scale, mut chain: Chain, routed: bool) -> Measure<'a> {
    let mut message = message(Kind::Publish, SMALL);
    let mut effects = Vec::new();
    let decision = chain.on_message(&mut message, &mut effects);
    let as_expected = match &decision {
        Decision::Route { targets, .. } => routed && targets[0].as_str() == "room:r42",
        other => !routed && matches!(other, Decision::Undecided(_)),
    };
    assert!(as_expected, "the plugins do something else than what is measured: {decision:?}");
    ns_per_call(scale.batch, move || chain.on_message(&mut message, &mut effects))
}
