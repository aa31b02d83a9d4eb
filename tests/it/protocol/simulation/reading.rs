//! What a client makes of what it receives, and whether it may receive that.

use super::*;

impl World {
    /// The client reads everything that waits for it.
    pub(super) fn read(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let Some((_, session)) = &client.session else { return };
        client.wire.append(&mut session.handle().outbound.take());
        let bytes = std::mem::take(&mut client.wire);
        let ended = session.is_closed();
        let mut closed = None;
        for (opcode, payload) in frames(&bytes) {
            assert_eq!(closed, None, "nothing follows a close");
            if opcode == 8 {
                closed = Some(u16::from_be_bytes([payload[0], payload[1]]));
            } else {
                let reply: Value = serde_json::from_slice(payload).expect("every frame is one JSON object");
                self.reply(index, &reply);
            }
        }
        if let Some(code) = closed {
            assert!(ended);
            self.totals.slow += usize::from(code == 3008);
            assert!(matches!(code, 3008 | 3012 | 3502), "closed with {code}");
            self.clients[index].session = None;
        }
        // A library answers pings at once.
        for _ in 0..std::mem::take(&mut self.clients[index].pings) {
            if self.clients[index].session.is_some() {
                self.message(index, "{}".to_owned());
            }
        }
    }

    fn reply(&mut self, index: usize, reply: &Value) {
        let client = &mut self.clients[index];
        if let Some(id) = reply["id"].as_u64() {
            assert!(id > client.answered, "commands are answered in their order");
            client.answered = id;
        }
        if reply == &json!({}) {
            client.pings += 1;
        } else if reply.get("connect").is_some() {
            client.admitted = true;
        } else if let Some(result) = reply.get("subscribe") {
            let id = reply["id"].as_u64().expect("an id");
            let (channel, recovering) = client.asked.remove(&id).expect("it was asked for");
            self.subscribed(index, channel, recovering, result);
        } else if let Some(push) = reply.get("push") {
            let name = push["channel"].as_str().expect("a channel");
            let channel = *CHANNELS.iter().find(|channel| **channel == name).expect("a known channel");
            if let Some(publication) = push.get("pub") {
                let known = client.subscribed.contains_key(channel);
                assert!(known, "a publication in {channel} before its subscribe reply, or after its end");
                self.received(index, channel, publication);
            } else if let Some(why) = push.get("unsubscribe") {
                assert_eq!(why["code"], 2500);
                client.subscribed.remove(channel);
                let (worker, after) =
                    (client.session.as_ref().map(|(worker, _)| *worker), &client.standing[channel]);
                let worker = worker.expect("it is connected");
                self.gaps.push(Gap { worker, channel, after: after.clone() });
                self.totals.gaps += 1;
            }
        } else {
            assert!(reply.get("error").is_none(), "{reply}");
        }
    }

    fn subscribed(&mut self, index: usize, channel: &'static str, recovering: bool, result: &Value) {
        let epoch = result["epoch"].as_str().expect("an epoch").to_owned();
        let offset = result["offset"].as_u64().unwrap_or(0);
        let client = &mut self.clients[index];
        client.subscribed.insert(channel, ());
        if recovering && result["recovered"] == true {
            let before = &client.standing[channel];
            let missed = result["publications"].as_array().cloned().unwrap_or_default();
            if missed.is_empty() && offset > before.offset {
                // Nothing of what was missed is for this client.
                let after = Standing { epoch, offset: offset + 1 };
                self.only_hidden_before(index, channel, &after);
                self.clients[index].standing.insert(channel, Standing { offset, ..after });
            } else {
                assert_eq!(
                    (&before.epoch, before.offset),
                    (&epoch, offset),
                    "recovery goes on where the client stood"
                );
            }
            for publication in &missed {
                self.received(index, channel, publication);
            }
            self.totals.recovered += 1;
        } else {
            assert!(result.get("publications").is_none());
            self.totals.unrecovered += usize::from(recovering);
            client.standing.insert(channel, Standing { epoch, offset });
        }
    }

    fn received(&mut self, index: usize, channel: &'static str, publication: &Value) {
        let offset = publication["offset"].as_u64().expect("an offset");
        let before = self.clients[index].standing.get(channel).expect("it knows where it stands");
        assert!(offset > before.offset, "{channel}: nothing is doubled or out of order");
        let now = Standing { epoch: before.epoch.clone(), offset };
        self.only_hidden_before(index, channel, &now);
        let sent = self.ledger[&(channel.to_owned(), now.epoch.clone())][&offset];
        match self.view(index, sent) {
            View::Hidden => panic!("{channel}: {sent} is not for client {index}"),
            View::Clear => assert_eq!(publication["data"]["n"], sent, "{channel}: an offset has one payload"),
            View::Veiled => assert_eq!(publication["data"], views::veiled(index, sent), "{channel}"),
        }
        self.totals.veiled += usize::from(self.view(index, sent) == View::Veiled);
        self.clients[index].standing.insert(channel, now);
        self.totals.received += 1;
    }

    /// What lies between the place where the client stands and this one is nothing that it should have
    /// received.
    pub(super) fn only_hidden_before(&mut self, index: usize, channel: &str, now: &Standing) {
        let before = self.clients[index].standing[channel].offset;
        let stream = &self.ledger[&(channel.to_owned(), now.epoch.clone())];
        let skipped = stream.range(before + 1..now.offset);
        for (offset, sent) in skipped {
            assert_eq!(self.view(index, *sent), View::Hidden, "{channel}: {offset} is missing");
            self.totals.hidden += 1;
        }
    }

    fn view(&self, index: usize, sent: u64) -> View {
        if self.views { views::of(index, sent) } else { View::Clear }
    }
}

/// The frames a server writes: not masked.
fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let (len, rest) = match second {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => (u64::from_be_bytes(rest[..8].try_into().expect("8 bytes")) as usize, &rest[8..]),
            len => (usize::from(*len), rest),
        };
        frames.push((first & 0x0f, &rest[..len]));
        bytes = &rest[len..];
    }
    frames
}
