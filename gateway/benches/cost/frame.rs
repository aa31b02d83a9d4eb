//! WebSocket frames as a client sees them (RFC 6455, 5.2): what it sends is masked, what it gets is not.

use anyhow::{Context as _, ensure};

/// Clients choose it at random; here nobody listens.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;

/// The bit of a compressed message (RFC 7692, 6).
pub(crate) const COMPRESSED: u8 = 0x40;

/// A text message.
pub(crate) fn text(text: &str) -> Vec<u8> {
    frame(TEXT, text.as_bytes())
}

/// The last message, with code 1000.
pub(crate) fn close() -> Vec<u8> {
    frame(CLOSE, &1000_u16.to_be_bytes())
}

/// A message with this opcode, and perhaps the bit of a compressed one.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            let len = u16::try_from(len).expect("messages in here are short");
            frame.push(0x80 | 126);
            frame.extend(len.to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Takes bytes as they come and hands over the payload of each frame that is complete.
pub(crate) struct Frames {
    /// The beginning of a frame.
    rest: Vec<u8>,
    split: Split,
}

/// Hands over the payloads of complete frames, and returns how many bytes those were.
pub(crate) type Split = fn(&[u8], &mut dyn FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<usize>;

impl Default for Frames {
    fn default() -> Self {
        Self::of(split)
    }
}

impl Frames {
    /// Of another protocol.
    pub(crate) fn of(split: Split) -> Self {
        Self { rest: Vec::new(), split }
    }

    pub(crate) fn take(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if self.rest.is_empty() {
            let used = (self.split)(bytes, &mut each)?;
            self.rest.extend_from_slice(&bytes[used..]);
        } else {
            self.rest.extend_from_slice(bytes);
            let used = (self.split)(&self.rest, &mut each)?;
            self.rest.drain(..used);
        }
        Ok(())
    }
}

fn split(bytes: &[u8], each: &mut dyn FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<usize> {
    let mut used = 0;
    while let [first, second, rest @ ..] = &bytes[used..] {
        ensure!(first & 0x0f == TEXT, "the server sent something else than a text message: {first:#x}");
        let (header, len) = match (second, rest) {
            (126, [high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
            (126, _) => break,
            (len @ 0..=125, _) => (2, usize::from(*len)),
            _ => anyhow::bail!("the server sent a frame that is very long or masked"),
        };
        let Some(payload) = bytes[used..].get(header..header + len) else { break };
        each(payload).context("unexpected message")?;
        used += header + len;
    }
    Ok(used)
}
