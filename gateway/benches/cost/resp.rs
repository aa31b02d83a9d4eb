//! What Redis speaks, as far as its publications and counters go.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, bail, ensure};

use crate::client::PATIENCE;
use crate::connection::{Connection, Scratch};
use crate::fanout::Dialect;
use crate::frame::Frames;

const CHANNEL: &str = "bare";

/// Clients of Redis itself.
pub(crate) struct Resp;

impl Dialect for Resp {
    fn join(&self, address: SocketAddr, subscribe: bool, scratch: &Scratch) -> anyhow::Result<Connection> {
        let mut socket = open(address)?;
        if subscribe {
            socket.write_all(&command(&["SUBSCRIBE", CHANNEL]))?;
            let expected = format!("*3\r\n$9\r\nsubscribe\r\n$4\r\n{CHANNEL}\r\n:1\r\n");
            let mut answer = vec![0; expected.len()];
            socket.read_exact(&mut answer)?;
            ensure!(answer == expected.as_bytes(), "SUBSCRIBE is answered otherwise than expected");
        }
        Connection::over(socket, Frames::of(split), scratch)
    }

    fn publish(&self, data: &str) -> Vec<u8> {
        command(&["PUBLISH", CHANNEL, data])
    }
}

/// Asks one thing on a connection of its own. The answer is a text, or the numbers of a flat list.
pub(crate) fn ask(redis: SocketAddr, parts: &[&str]) -> anyhow::Result<String> {
    let mut socket = open(redis)?;
    socket.write_all(&command(parts))?;
    let mut reader = BufReader::new(socket);
    let mut text = String::new();
    let mut left = 1;
    while left > 0 {
        left -= 1;
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        match line.split_at_checked(1).with_context(|| format!("{parts:?} is not answered"))? {
            ("*", count) => left += count.parse::<usize>()?,
            ("$", length) => {
                let mut bytes = vec![0; length.parse::<usize>()? + 2];
                reader.read_exact(&mut bytes)?;
                text += &String::from_utf8_lossy(&bytes);
            }
            (":" | "+", value) => text += value,
            _ => bail!("{parts:?} is answered with {line}"),
        }
    }
    Ok(text)
}

fn open(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn command(parts: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", parts.len());
    for part in parts {
        bytes += &format!("${}\r\n{part}\r\n", part.len());
    }
    bytes.into_bytes()
}

/// Publications, and how many heard one of ours. Of a publication the payload is handed over.
fn split(bytes: &[u8], each: &mut dyn FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<usize> {
    let mut used = 0;
    while let Some((head, mut at)) = line(bytes, used)? {
        match head.split_at_checked(1) {
            Some((b":", _)) => each(b"")?,
            Some((b"*", b"3")) => {
                let mut part = &bytes[..0];
                for _ in 0..3 {
                    let Some((head, begin)) = line(bytes, at)? else { return Ok(used) };
                    let length: usize = std::str::from_utf8(&head[1..])?.parse()?;
                    let Some(found) = bytes.get(begin..begin + length + 2) else { return Ok(used) };
                    part = &found[..length];
                    at = begin + length + 2;
                }
                each(part).context("unexpected message")?;
            }
            _ => bail!("redis sent something else: {}", String::from_utf8_lossy(head)),
        }
        used = at;
    }
    Ok(used)
}

/// The line that begins here, and where the next one does.
fn line(bytes: &[u8], from: usize) -> anyhow::Result<Option<(&[u8], usize)>> {
    let rest = &bytes[from..];
    let Some(length) = memchr::memchr(b'\n', rest) else { return Ok(None) };
    let line = rest[..length].strip_suffix(b"\r").context("a line of redis ends otherwise")?;
    ensure!(!line.is_empty(), "redis sent an empty line");
    Ok(Some((line, from + length + 1)))
}
