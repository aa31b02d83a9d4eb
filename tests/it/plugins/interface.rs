//! The gateway and the SDK each have the numbers and names of the plugin interface: both must be those of the
//! WIT file.

use std::fmt::Debug;
use std::fs;

use gateway::plugin::event::Kind;
use gateway::plugin::verdict::{ConnectVerdict, DeliverVerdict, Refusal, Verdict};
use gateway::protocol::code::{Close, ReplyError};
use gateway_plugin_sdk::{self as sdk, HostErrorKind, code};

use crate::tools::readme::root;

fn wit() -> String {
    fs::read_to_string(root().join("plugin-sdk/wit/v0.1/gateway-plugin.wit")).expect("the interface")
}

/// The names of the cases of a variant, in order.
fn cases(wit: &str, variant: &str) -> Vec<String> {
    let (_, rest) = wit.split_once(&format!("variant {variant} {{")).expect("the variant");
    let (cases, _) = rest.split_once('}').expect("the end of the variant");
    let names = cases.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    names.map(|line| line.split(['(', ',']).next().unwrap_or_default().to_owned()).collect()
}

/// The name of a value's variant in the source.
fn name(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    text.chars().take_while(|letter| letter.is_alphanumeric()).collect::<String>().to_lowercase()
}

#[test]
fn a_kind_has_the_same_number_and_name_everywhere() {
    let wit = wit();
    let (_, numbers) = wit.split_once("can add kinds:\n").expect("the kinds");
    let (numbers, _) = numbers.split_once(".\n").expect("the end of the kinds");
    let numbers: Vec<_> = numbers.trim().trim_start_matches("/// ").split(", ").collect();
    let of_gateway = Kind::ALL.map(|kind| format!("{} {}", kind as u32, kind.as_str()));
    let of_sdk = sdk::Kind::ALL.map(|kind| format!("{} {}", kind.number(), kind.name()));
    assert_eq!(of_gateway.as_slice(), numbers);
    assert_eq!(of_sdk, of_gateway);
}

#[test]
fn verdicts_have_the_same_names_everywhere() {
    let wit = wit();
    let refusal = || Refusal { code: 103, reason: "no".into() };

    let of_gateway = [
        Verdict::Next,
        Verdict::Allow,
        Verdict::Deny(refusal()),
        Verdict::Drop,
        Verdict::Disconnect(refusal()),
        Verdict::Replace("x".into()),
        Verdict::Reply("x".into()),
        Verdict::Route(Vec::new()),
    ];
    let of_sdk = [
        sdk::Verdict::next(),
        sdk::Verdict::allow(),
        sdk::Verdict::deny(103, "no"),
        sdk::Verdict::drop(),
        sdk::Verdict::disconnect(3500, "no"),
        sdk::Verdict::replace("x"),
        sdk::Verdict::reply("x"),
        sdk::Verdict::route(["x"]),
    ];
    assert_eq!(of_gateway.each_ref().map(Verdict::as_str).as_slice(), cases(&wit, "verdict"));
    assert_eq!(of_sdk.each_ref().map(name).as_slice(), cases(&wit, "verdict"));

    let of_gateway =
        [ConnectVerdict::Pass, ConnectVerdict::Accept(Box::default()), ConnectVerdict::Refuse(refusal())];
    let of_sdk = [sdk::Connect::pass(), sdk::Connect::accept("42"), sdk::Connect::refuse(103, "no")];
    assert_eq!(of_gateway.each_ref().map(ConnectVerdict::as_str).as_slice(), cases(&wit, "connect-verdict"));
    assert_eq!(of_sdk.each_ref().map(name).as_slice(), cases(&wit, "connect-verdict"));

    let of_gateway = [DeliverVerdict::Pass, DeliverVerdict::Drop, DeliverVerdict::Replace("x".into())];
    let of_sdk = [sdk::Delivery::pass(), sdk::Delivery::drop(), sdk::Delivery::replace("x")];
    assert_eq!(of_gateway.each_ref().map(DeliverVerdict::as_str).as_slice(), cases(&wit, "delivery"));
    assert_eq!(of_sdk.each_ref().map(name).as_slice(), cases(&wit, "delivery"));
}

#[test]
fn the_sdk_knows_every_error_of_a_host_call() {
    let source = fs::read_to_string(root().join("gateway/src/wasm/host.rs")).expect("the source");
    let constants = source.lines().filter_map(|line| {
        let (name, number) =
            line.trim().strip_prefix("pub(in crate::wasm) const ")?.split_once(": u32 = ")?;
        Some((name, number.strip_suffix(';')?.parse::<u32>().ok()?))
    });
    let constants: Vec<_> = constants.collect();
    assert!(constants.len() > 15, "{constants:?}");
    for (name, number) in constants {
        let kind = HostErrorKind::from_number(number);
        assert!(!matches!(kind, HostErrorKind::Unknown(_)), "{name} = {number}");
        assert_eq!(kind.number(), number, "{name}");
    }
}

#[test]
fn codes_of_the_sdk_mean_what_the_gateway_means() {
    for (of_sdk, of_gateway) in [
        (code::INTERNAL, ReplyError::INTERNAL),
        (code::UNAUTHORIZED, ReplyError::UNAUTHORIZED),
        (code::UNKNOWN_CHANNEL, ReplyError::UNKNOWN_CHANNEL),
        (code::PERMISSION_DENIED, ReplyError::PERMISSION_DENIED),
        (code::METHOD_NOT_FOUND, ReplyError::METHOD_NOT_FOUND),
        (code::ALREADY_SUBSCRIBED, ReplyError::ALREADY_SUBSCRIBED),
        (code::LIMIT_EXCEEDED, ReplyError::LIMIT_EXCEEDED),
        (code::BAD_REQUEST, ReplyError::BAD_REQUEST),
        (code::NOT_AVAILABLE, ReplyError::NOT_AVAILABLE),
        (code::TOKEN_EXPIRED, ReplyError::TOKEN_EXPIRED),
        (code::EXPIRED, ReplyError::EXPIRED),
        (code::TOO_MANY_REQUESTS, ReplyError::TOO_MANY_REQUESTS),
    ] {
        assert_eq!(of_sdk, of_gateway.code, "{}", of_gateway.message);
    }
    for (of_sdk, of_gateway) in [
        (code::CLOSE_INTERNAL, Close::INTERNAL),
        (code::CLOSE_EXPIRED, Close::EXPIRED),
        (code::CLOSE_RECONNECT, Close::FORCE_RECONNECT),
        (code::CLOSE_TOO_MANY_REQUESTS, Close::TOO_MANY_REQUESTS),
        (code::INVALID_TOKEN, Close::INVALID_TOKEN),
        (code::CLOSE_BAD_REQUEST, Close::BAD_REQUEST),
        (code::CLOSE_FORCED, Close::FORCE_DISCONNECT),
        (code::CLOSE_CONNECTION_LIMIT, Close::CONNECTION_LIMIT),
        (code::CLOSE_PERMISSION_DENIED, Close::PERMISSION_DENIED),
    ] {
        assert_eq!(of_sdk, u32::from(of_gateway.code), "{}", of_gateway.reason);
    }
}
