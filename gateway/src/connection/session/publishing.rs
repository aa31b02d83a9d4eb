//! Publishing to one channel or more.

use bytes::Bytes;

use super::Session;
use super::later::About;
use crate::backplane::Asked;
use crate::connection::event::{Event, Now};
use crate::protocol::channel::Channel;
use crate::protocol::reply::Reply;

impl Session {
    pub(super) fn publish(
        &mut self,
        now: Now,
        id: u32,
        targets: &[Channel],
        payload: &Bytes,
        reply: Option<Reply>,
    ) -> Option<Event> {
        let json = self.peer.protocol.is_json();
        let (mut left, mut failed) = (0, None);
        for target in targets {
            let info = Some(self.member.clone());
            match self.local.publish(now, target, payload.clone(), json, info, self.asker()) {
                Asked::Now(Ok(_)) => (),
                Asked::Now(Err(error)) => {
                    failed = Some(error);
                    break;
                }
                Asked::Later => left += 1,
            }
        }
        if left > 0 {
            self.remember(About::Publish { id, reply, left, failed });
            return None;
        }
        let result = failed.map_or_else(|| reply.map(Ok), |error| Some(Err(error)));
        result.map(|result| Event::Answered { id, result })
    }
}
