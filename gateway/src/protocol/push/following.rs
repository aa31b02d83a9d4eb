//! [`Following`]: the frames of a publication for subscribers that have received the one before it.

use std::cell::OnceCell;

use bytes::Bytes;

use super::{Form, Frames, Publication, Push, json_text, make_frame};
use crate::protocol::framing::FrameMaker;
use crate::protocol::{Encoding, codec};

/// The payload of a publication, from which the delta of the next one is made.
#[derive(Debug)]
pub struct Base {
    data: Box<[u8]>,
    json: bool,
}

impl Base {
    /// A copy: the payload may be a part of a larger buffer.
    pub fn of(publication: &Publication) -> Self {
        Self { data: publication.data[..].into(), json: publication.json }
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }
}

/// Frames with deltas. A delta is made for the first subscriber that needs it, and shared by all others.
pub struct Following<'a> {
    push: &'a Push,
    publication: &'a Publication,
    base: Option<&'a Base>,
    maker: &'a FrameMaker,
    /// The delta between the payloads.
    payloads: OnceCell<Option<Vec<u8>>>,
    /// The delta between what JSON clients read instead, if one of the payloads is not JSON.
    texts: OnceCell<Option<Vec<u8>>>,
    frames: Frames,
}

impl<'a> Following<'a> {
    /// The publication in `push`, after one with the payload `base`. Without a base there are no deltas.
    pub fn new(
        push: &'a Push,
        publication: &'a Publication,
        base: Option<&'a Base>,
        maker: &'a FrameMaker,
    ) -> Self {
        let (payloads, texts) = (OnceCell::new(), OnceCell::new());
        Self { push, publication, base, maker, payloads, texts, frames: Frames::default() }
    }

    /// Whether it is made of this push.
    pub fn is_of(&self, push: &Push) -> bool {
        std::ptr::eq(self.push, push)
    }

    /// The frame for subscribers with this form: with the delta, or that of the push if the delta would not
    /// be smaller.
    pub fn frame(&self, form: Form) -> &Bytes {
        match self.delta(form.format.encoding) {
            None => self.push.frame(form, self.maker),
            Some(delta) => self.frames.get(form, || {
                make_frame(form, &self.push.channel, self.maker, delta.len(), |out| {
                    codec::encode_push(self.push, form, Some(delta), out)
                })
            }),
        }
    }

    fn delta(&self, encoding: Encoding) -> Option<&[u8]> {
        let (base, publication) = (self.base?, self.publication);
        let delta = if encoding.is_json() && !(base.json && publication.json) {
            self.texts.get_or_init(|| {
                let (before, after) =
                    (json_text(&base.data, base.json), json_text(&publication.data, publication.json));
                self.maker.delta(before.as_bytes(), after.as_bytes())
            })
        } else {
            self.payloads.get_or_init(|| self.maker.delta(&base.data, &publication.data))
        };
        delta.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::protocol::Framing;
    use crate::protocol::channel::Channel;
    use crate::protocol::push::PushKind;

    fn publication(data: impl Into<Bytes>, json: bool) -> Arc<Publication> {
        Arc::new(Publication { data: data.into(), json, offset: 0, info: None, tags: None })
    }

    fn push(publication: &Arc<Publication>) -> Push {
        let kind = PushKind::Publication { publication: publication.clone(), epoch: Arc::default() };
        Push::new(Channel::parse("news").expect("valid"), kind)
    }

    fn maker() -> FrameMaker {
        FrameMaker::new(1, 0)
    }

    fn form(encoding: Encoding, framing: Framing) -> Form {
        Form::channel_with_deltas(encoding.over(framing))
    }

    fn json(round: u32) -> Vec<u8> {
        format!(r#"{{"text":"a text that stays as it is","round":{round}}}"#).into()
    }

    #[test]
    fn a_delta_is_made_once_for_all_forms_of_an_encoding_and_for_both_encodings_of_json() {
        let (before, after, maker) = (publication(json(1), true), publication(json(2), true), maker());
        let (push, base) = (push(&after), Base::of(&before));
        let following = Following::new(&push, &after, Some(&base), &maker);
        assert_eq!(maker.take_deltas().messages, 0, "nobody needs it yet");
        for framing in [Framing::WebSocket, Framing::HttpStream, Framing::EventStream] {
            for encoding in [Encoding::Json, Encoding::Protobuf] {
                let form = form(encoding, framing);
                let frame = following.frame(form);
                assert_eq!(frame.as_ptr(), following.frame(form).as_ptr(), "{form:?}");
                assert!(frame.len() < push.frame(form, &maker).len(), "{form:?}");
            }
        }
        let deltas = maker.take_deltas();
        assert_eq!((deltas.messages, deltas.bytes_before), (1, after.data.len() as u64));
        assert!(deltas.bytes_after < deltas.bytes_before / 2, "{deltas:?}");
    }

    #[test]
    fn what_is_not_json_has_a_delta_for_each_of_what_its_receivers_read() {
        let bytes = |last: u8| [vec![0xff; 50], vec![last; 3]].concat();
        let (before, after, maker) = (publication(bytes(1), false), publication(bytes(2), false), maker());
        let (push, base) = (push(&after), Base::of(&before));
        let following = Following::new(&push, &after, Some(&base), &maker);
        let frames = [Encoding::Json, Encoding::Protobuf]
            .map(|encoding| following.frame(form(encoding, Framing::WebSocket)));
        assert_eq!(maker.take_deltas().messages, 2);
        let mut encoder = crate::protocol::delta::Encoder::default();
        let of_bytes = encoder.encode(&before.data, &after.data).expect("it is smaller");
        let [before, after] = [&before, &after].map(|one| json_text(&one.data, false).into_owned());
        let of_texts = encoder.encode(before.as_bytes(), after.as_bytes()).expect("it is smaller");
        let written = serde_json::to_vec(&String::from_utf8(of_texts).expect("text")).expect("JSON");
        let contains = |frame: &[u8], part: &[u8]| frame.windows(part.len()).any(|window| window == part);
        assert!(contains(frames[0], &written) && contains(frames[1], &of_bytes));
    }

    #[test]
    fn without_a_base_or_a_smaller_delta_the_frame_is_that_of_the_push() {
        let (before, after, maker) = (publication(json(1), true), publication("[1,2,3]", true), maker());
        let (push, base) = (push(&after), Base::of(&before));
        for base in [None, Some(&base)] {
            let following = Following::new(&push, &after, base, &maker);
            for encoding in [Encoding::Json, Encoding::Protobuf] {
                let form = form(encoding, Framing::WebSocket);
                assert_eq!(following.frame(form).as_ptr(), push.frame(form, &maker).as_ptr());
            }
        }
    }
}
