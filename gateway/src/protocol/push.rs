//! [`Push`]: a message to many clients. Each form of it is encoded and framed once, and shared.

mod following;

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;

use super::channel::Channel;
use super::framing::FrameMaker;
use super::framing::MessageType;
use super::tags::{Tags, tags_bytes};
use super::{Encoding, WireFormat, codec, json};
use crate::charge::Charge;

pub use following::{Base, Following};

/// Most bytes of a [`Member`]: its user, the JSON of a plugin, and that of the server API.
pub const MEMBER_BYTES_MAX: usize = 32 * 1024;

/// A connection as other members of a channel see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The id of the connection.
    pub client: Arc<str>,
    /// Empty for an anonymous client.
    pub user: Arc<str>,
    /// JSON from a plugin; empty for none.
    pub info: Bytes,
    /// JSON from the server API about its subscription to this channel; empty for none.
    pub channel_info: Bytes,
}

impl Member {
    /// Most bytes it takes in a reply, with its key in a list of members.
    pub fn bytes(&self) -> usize {
        const AROUND: usize = r#""":{"user":,"client":"","conn_info":},"#.len();
        const CHANNEL_INFO: usize = r#""chan_info":,"#.len();
        let channel_info = match self.channel_info.len() {
            0 => 0,
            bytes => CHANNEL_INFO + bytes,
        };
        AROUND + 2 * self.client.len() + json::string_bytes(&self.user) + self.info.len() + channel_info
    }
}

/// One publication in a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The payload.
    pub data: Bytes,
    /// Whether the payload is JSON without line feeds. Any other payload reaches JSON clients as a string.
    pub json: bool,
    /// Its number in the channel's stream, from 1; 0 in a channel without history.
    pub offset: u64,
    /// The publisher, for publications of clients.
    pub info: Option<Arc<Member>>,
    /// Its tags; `None` for most publications.
    pub tags: Option<Arc<Tags>>,
}

impl Publication {
    /// Most bytes it takes in a reply.
    pub fn bytes(&self) -> usize {
        const AROUND: usize = r#"{"data":,"info":,"offset":18446744073709551615},"#.len();
        let info = self.info.as_ref().map_or(0, |info| info.bytes());
        AROUND + payload_bytes(&self.data, self.json) + info + tags_bytes(self.tags.as_deref())
    }

    /// The same, for a client that applies deltas in this encoding.
    pub fn bytes_as_base(&self, encoding: Encoding) -> usize {
        if !encoding.is_json() {
            return self.bytes();
        }
        let text = json::string_bytes(&json_text(&self.data, self.json));
        self.bytes() - payload_bytes(&self.data, self.json) + text
    }
}

/// A payload as the JSON that JSON clients read.
pub fn json_text(data: &[u8], is_json: bool) -> Cow<'_, str> {
    let text = json::string_of(data);
    if is_json {
        return text;
    }
    serde_json::to_string(&text).expect("a text can always be written as JSON").into()
}

/// Bytes of a payload everywhere: unchanged, or as the string that clients receive if it is not JSON.
pub fn payload_bytes(data: &[u8], is_json: bool) -> usize {
    if is_json {
        return data.len();
    }
    match std::str::from_utf8(data) {
        Ok(text) => json::string_bytes(text),
        Err(_) => data.len().div_ceil(3) * 4 + 2,
    }
}

/// An event of a channel.
#[derive(Debug)]
pub enum PushKind {
    /// A publication.
    Publication {
        /// The publication.
        publication: Arc<Publication>,
        /// The stream its offset belongs to; empty without history.
        epoch: Arc<str>,
    },
    /// A member joined.
    Join(Arc<Member>),
    /// A member left.
    Leave(Arc<Member>),
}

/// An event of a channel for every subscriber.
#[derive(Debug)]
pub struct Push {
    /// The channel; for subscribers of a pattern, the pattern.
    pub channel: Channel,
    /// The channel of a publication, if `channel` is a pattern.
    pub published_in: Option<Channel>,
    /// The event.
    pub kind: PushKind,
    /// When this process accepted a publication, or received it from another one. `None` for other events,
    /// and for a replacement of a publication.
    pub accepted: Option<Duration>,
    frames: Frames,
    /// Returned when every worker has delivered the push.
    _charge: Option<Charge>,
}

/// The form in which a subscriber receives a push: the key of its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// The format of the connection.
    pub format: WireFormat,
    /// How the client learns why it receives the push.
    pub envelope: Envelope,
}

/// What a push is to the client that receives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Envelope {
    /// An event of a channel that the client is subscribed to.
    Channel,
    /// The same, for a JSON client that applies deltas: payloads are strings of their JSON.
    ChannelText,
    /// A message to the client itself: publications to a user or a connection.
    Direct,
}

impl Form {
    /// For subscribers of a channel.
    pub fn channel(format: WireFormat) -> Self {
        Self { format, envelope: Envelope::Channel }
    }

    /// For subscribers of a channel that apply deltas.
    pub fn channel_with_deltas(format: WireFormat) -> Self {
        let is_json = format.encoding.is_json();
        Self { format, envelope: if is_json { Envelope::ChannelText } else { Envelope::Channel } }
    }

    /// For the client itself.
    pub fn direct(format: WireFormat) -> Self {
        Self { format, envelope: Envelope::Direct }
    }

    /// Whether a push of a channel may be compressed; see [`Reply::may_be_compressed`](super::reply::Reply).
    fn may_be_compressed(self, channel: &Channel) -> bool {
        self.envelope != Envelope::Direct && !channel.is_of_one() || self.format.encoding == Encoding::Raw
    }
}

/// The frames of a push, a short list with an entry for each form in use. Entries are only appended, so
/// reading takes no lock. The first one needs no memory of its own.
#[derive(Debug, Default)]
struct Frames {
    frame: OnceLock<(Form, Bytes)>,
    next: OnceLock<Box<Frames>>,
}

impl Frames {
    /// The frame of a form. The first caller makes it.
    fn get(&self, form: Form, make: impl Fn() -> Bytes) -> &Bytes {
        let mut entry = self;
        loop {
            let (made_for, frame) = entry.frame.get_or_init(|| (form, make()));
            if *made_for == form {
                return frame;
            }
            entry = entry.next.get_or_init(Box::default);
        }
    }
}

/// Bytes around the payload of a push, in most cases. Its buffer begins with this capacity.
const AROUND_BYTES: usize = 256;

impl Push {
    /// A push that is not encoded yet.
    pub fn new(channel: Channel, kind: PushKind) -> Self {
        let (published_in, accepted, frames) = (None, None, Frames::default());
        Self { channel, published_in, kind, accepted, frames, _charge: None }
    }

    /// A publication as the subscribers of a pattern get it: with its channel, and without an offset, because
    /// a pattern has no stream. `None` for other events, which they do not get.
    pub fn for_pattern(&self, pattern: Channel) -> Option<Self> {
        let PushKind::Publication { publication, .. } = &self.kind else { return None };
        let publication = match publication.offset {
            0 => publication.clone(),
            _ => Arc::new(Publication { offset: 0, ..Publication::clone(publication) }),
        };
        let kind = PushKind::Publication { publication, epoch: Arc::default() };
        Some(Self { published_in: Some(self.channel.clone()), ..Self::new(pattern, kind) })
    }

    /// A publication, with the time at which this process accepted or received it.
    #[must_use]
    pub fn accepted_at(self, at: Duration) -> Self {
        Self { accepted: Some(at), ..self }
    }

    /// Charged to an account until every worker has delivered it.
    #[must_use]
    pub fn charged(self, charge: Option<Charge>) -> Self {
        Self { _charge: charge, ..self }
    }

    /// Bytes it takes on its way to a worker.
    pub fn bytes(&self) -> usize {
        const AROUND: usize = size_of::<Push>();
        AROUND + self.payload_bytes()
    }

    fn payload_bytes(&self) -> usize {
        match &self.kind {
            PushKind::Publication { publication, .. } => {
                publication.data.len() + tags_bytes(publication.tags.as_deref())
            }
            PushKind::Join(member) | PushKind::Leave(member) => member.info.len() + member.channel_info.len(),
        }
    }

    /// The frame for subscribers with this form. The first caller encodes it with its `maker`, on any worker;
    /// all others share it. Empty if the encoding cannot express the event (a join in raw mode).
    pub fn frame(&self, form: Form, maker: &FrameMaker) -> &Bytes {
        self.frames.get(form, || {
            make_frame(form, &self.channel, maker, self.payload_bytes(), |out| {
                codec::encode_push(self, form, None, out)
            })
        })
    }
}

/// Makes a frame around a payload of about this many bytes.
fn make_frame(
    form: Form,
    channel: &Channel,
    maker: &FrameMaker,
    payload_bytes: usize,
    encode: impl FnOnce(&mut Vec<u8>) -> Option<MessageType>,
) -> Bytes {
    let mut out = Vec::with_capacity(AROUND_BYTES + payload_bytes);
    let framing = form.format.framing;
    let range = match form.may_be_compressed(channel) {
        true => maker.write(framing, &mut out, encode),
        false => framing.write(&mut out, encode),
    };
    match range {
        None => Bytes::new(),
        // The buffer would stay as large as it was before the message was compressed.
        Some(range) if 2 * range.len() + AROUND_BYTES < out.capacity() => Bytes::copy_from_slice(&out[range]),
        Some(range) => Bytes::from(out).slice(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Framing;
    use crate::protocol::deflate::Window;

    fn push() -> Push {
        let publication = Publication {
            data: Bytes::from_static(b"{\"t\":1}"),
            json: true,
            offset: 0,
            info: None,
            tags: None,
        };
        let kind = PushKind::Publication { publication: Arc::new(publication), epoch: Arc::default() };
        Push::new(Channel::parse("news").expect("valid"), kind)
    }

    fn maker() -> FrameMaker {
        FrameMaker::new(6, 64)
    }

    fn forms() -> Vec<Form> {
        let formats = Encoding::ALL.map(|encoding| encoding.over(Framing::WebSocket));
        formats.into_iter().flat_map(|format| [Form::channel(format), Form::direct(format)]).collect()
    }

    #[test]
    fn each_form_is_made_once_and_shared() {
        let (push, maker) = (push(), maker());
        let first: Vec<_> = forms().into_iter().map(|form| push.frame(form, &maker).clone()).collect();
        for (form, first) in forms().into_iter().zip(&first).rev() {
            assert_eq!(push.frame(form, &maker).as_ptr(), first.as_ptr(), "{form:?}");
        }
        assert_eq!(&first[0][2..], br#"{"push":{"channel":"news","pub":{"data":{"t":1}}}}"#);
        assert_eq!(&first[4][..], b"\x81\x07{\"t\":1}");
    }

    #[test]
    fn threads_that_ask_at_once_for_all_forms_get_the_right_ones() {
        let push = push();
        let made = |form: Form| (form, push.frame(form, &maker()).clone());
        let all: Vec<Vec<_>> = std::thread::scope(|scope| {
            let ask = |turn: usize| {
                let mut forms = forms();
                forms.rotate_left(turn);
                scope.spawn(move || forms.into_iter().map(made).collect())
            };
            let threads: Vec<_> = (0..6).map(ask).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        for (form, frame) in all.into_iter().flatten() {
            assert_eq!(frame.as_ptr(), push.frame(form, &maker()).as_ptr(), "{form:?}");
        }
    }

    #[test]
    fn a_publication_is_compressed_once_for_all_with_the_same_form() {
        let data = Bytes::from(format!("[{}]", ["{\"price\":100}"; 200].join(",")));
        let push_in = |channel: &str| {
            let data = data.clone();
            let publication = Publication { data, json: true, offset: 0, info: None, tags: None };
            let kind = PushKind::Publication { publication: Arc::new(publication), epoch: Arc::default() };
            Push::new(Channel::parse(channel).expect("valid"), kind)
        };
        let (push, maker) = (push_in("news"), maker());
        let form = |framing| Form::channel(Encoding::Json.over(framing));
        let plain = push.frame(form(Framing::WebSocket), &maker).len();
        assert_eq!(maker.take_compressed().messages, 0);
        let framings = [Window::Small, Window::Large].map(Framing::WebSocketDeflate);
        for subscriber in 0..100 {
            for framing in framings {
                let frame = push.frame(form(framing), &maker);
                assert!(frame.len() < plain / 4, "{} of {plain} bytes", frame.len());
                assert_eq!(frame[0], 0xc1, "compressed text for subscriber {subscriber}");
            }
        }
        assert_eq!(maker.take_compressed().messages, 2, "once for each window");
        let direct = |encoding: Encoding| Form::direct(encoding.over(framings[1]));
        for (encoding, compressed) in [(Encoding::Json, 0), (Encoding::Protobuf, 0), (Encoding::Raw, 1)] {
            push.frame(direct(encoding), &maker);
            assert_eq!(maker.take_compressed().messages, compressed, "{encoding:?}");
        }
        for channel in ["#42", "inbox:#42"] {
            push_in(channel).frame(form(framings[1]), &maker);
            assert_eq!(maker.take_compressed().messages, 0, "{channel} is of one user");
        }
    }
}
