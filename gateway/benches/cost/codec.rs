//! Between the bytes of the JSON and the Protobuf encoding and the words of the gateway.

use std::sync::Arc;

use bytes::Bytes;
use gateway::protocol::codec::{Commands, Inbound};
use gateway::protocol::framing::FrameMaker;
use gateway::protocol::push::{Form, Publication, Push, PushKind};
use gateway::protocol::{Encoding, Framing};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::Scale;
use crate::fixture::{SMALL, channel, payload};
use crate::measure::{Case, Measure, compare, ns_per_call};
use crate::table::Table;

/// A publish command and nothing else: what a program that knows only this one would parse.
#[derive(Deserialize)]
pub(crate) struct PublishCommand<'a> {
    pub(crate) id: u32,
    #[serde(borrow)]
    pub(crate) publish: PublishRequest<'a>,
}

#[derive(Deserialize)]
pub(crate) struct PublishRequest<'a> {
    pub(crate) channel: &'a str,
    #[serde(borrow)]
    pub(crate) data: &'a RawValue,
}

/// A publication as subscribers receive it.
#[derive(Serialize)]
pub(crate) struct PublicationPush<'a> {
    pub(crate) push: ChannelPush<'a>,
}

#[derive(Serialize)]
pub(crate) struct ChannelPush<'a> {
    pub(crate) channel: &'a str,
    #[serde(rename = "pub")]
    pub(crate) publication: PublicationData<'a>,
}

#[derive(Serialize)]
pub(crate) struct PublicationData<'a> {
    pub(crate) data: &'a RawValue,
}

impl<'a> PublicationPush<'a> {
    pub(crate) fn new(channel: &'a str, data: &'a RawValue) -> Self {
        Self { push: ChannelPush { channel, publication: PublicationData { data } } }
    }
}

/// A command with [`SMALL`] bytes of data.
pub(crate) fn publish_command() -> String {
    format!(r#"{{"id":7,"publish":{{"channel":"news","data":{}}}}}"#, payload(SMALL))
}

pub(crate) fn run(scale: &Scale) -> anyhow::Result<Table> {
    let command = publish_command();
    let push = json!({"push": {"channel": "news", "pub": {"data": serde_json::from_str::<Value>(&payload(SMALL))?}}});
    let data = RawValue::from_string(payload(SMALL))?;
    let cases = vec![
        Case {
            name: format!("decode a publish command, {SMALL} B of data"),
            unit: "ns",
            gateway: decode(scale, Encoding::Json, command.as_bytes()),
            against: "serde_json, to a Value",
            baseline: ns_per_call(scale.batch, || serde_json::from_str::<Value>(&command).is_ok()),
        },
        Case {
            name: format!("decode a publish command, {SMALL} B of data"),
            unit: "ns",
            gateway: decode(scale, Encoding::Json, command.as_bytes()),
            against: "serde_json, to a struct",
            baseline: ns_per_call(scale.batch, || {
                let command: PublishCommand<'_> = serde_json::from_str(&command).ok()?;
                Some((command.id, command.publish.channel, command.publish.data.get()))
            }),
        },
        Case {
            name: format!("encode its push frame, {SMALL} B of data"),
            unit: "ns",
            gateway: encode(scale, Encoding::Json),
            against: "serde_json, from a Value",
            baseline: ns_per_call(scale.batch, || serde_json::to_vec(&push)),
        },
        Case {
            name: format!("encode its push frame, {SMALL} B of data"),
            unit: "ns",
            gateway: encode(scale, Encoding::Json),
            against: "serde_json, from a struct",
            baseline: ns_per_call(scale.batch, || serde_json::to_vec(&PublicationPush::new("news", &data))),
        },
        Case {
            name: format!("decode a publish command in Protobuf, {SMALL} B of data"),
            unit: "ns",
            gateway: decode(scale, Encoding::Protobuf, &publish_record()),
            against: "the same in JSON",
            baseline: decode(scale, Encoding::Json, command.as_bytes()),
        },
        Case {
            name: format!("encode its push frame in Protobuf, {SMALL} B of data"),
            unit: "ns",
            gateway: encode(scale, Encoding::Protobuf),
            against: "the same in JSON",
            baseline: encode(scale, Encoding::Json),
        },
    ];
    let rows = compare(scale.rounds, cases)?;
    let notes = vec![
        "decoding: any command may come, and the payload is checked and kept as a slice of the message"
            .to_owned(),
        "encoding: once for all subscribers, with the header of the WebSocket frame".to_owned(),
    ];
    Ok(Table::compared("JSON in and out", notes, &rows))
}

/// The command of [`publish_command`] in Protobuf.
fn publish_record() -> Vec<u8> {
    let text = publish_command();
    let command: PublishCommand<'_> = serde_json::from_str(&text).expect("its own words");
    let after_length = |bytes: &[u8]| {
        let length = bytes.len();
        let short = length < 0x80;
        let prefix = if short { vec![length as u8] } else { vec![length as u8 | 0x80, (length >> 7) as u8] };
        [&prefix, bytes].concat()
    };
    let field = |tag: u8, bytes: &[u8]| [vec![tag << 3 | 2], after_length(bytes)].concat();
    let data = command.publish.data.get().as_bytes();
    let publish = [field(1, command.publish.channel.as_bytes()), field(2, data)].concat();
    after_length(&[vec![1 << 3, command.id as u8], field(7, &publish)].concat())
}

fn decode<'a>(scale: &Scale, encoding: Encoding, command: &[u8]) -> Measure<'a> {
    let inbound = Inbound { data: Bytes::copy_from_slice(command), binary: false };
    ns_per_call(scale.batch, move || {
        let mut commands = Commands::of(encoding, inbound.clone());
        let first = commands.next(1024);
        assert!(matches!(first, Some(Ok(_))) && commands.is_done(), "it is a command, and the only one");
        first
    })
}

fn encode<'a>(scale: &Scale, encoding: Encoding) -> Measure<'a> {
    let publication =
        Publication { data: payload(SMALL).into(), json: true, offset: 0, info: None, tags: None };
    let (publication, epoch, channel) = (Arc::new(publication), Arc::<str>::default(), channel("news"));
    let maker = FrameMaker::new(1, 1024);
    ns_per_call(scale.batch, move || {
        // A push remembers its frames: each call needs a new one.
        let kind = PushKind::Publication { publication: publication.clone(), epoch: epoch.clone() };
        let push = Push::new(channel.clone(), kind);
        push.frame(Form::channel(encoding.over(Framing::WebSocket)), &maker).clone()
    })
}
