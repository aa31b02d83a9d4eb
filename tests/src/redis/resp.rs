//! One question to a Redis server, in its own protocol: tests do not depend on the client that the gateway
//! uses.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A status or a string.
    Text(String),
    /// An integer.
    Number(i64),
    /// No such value.
    Nothing,
    /// An array.
    List(Vec<Reply>),
    /// A refusal, beginning with its name, such as `MOVED`.
    Error(String),
}

impl Reply {
    /// Whether there is no such value.
    pub fn is_nothing(&self) -> bool {
        *self == Self::Nothing
    }

    /// A text; a number too.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            other => panic!("expected a text and not {other:?}"),
        }
    }

    /// An integer.
    pub fn number(&self) -> i64 {
        match self {
            Self::Number(number) => *number,
            other => panic!("expected a number and not {other:?}"),
        }
    }

    /// An array.
    pub fn list(self) -> Vec<Reply> {
        match self {
            Self::List(list) => list,
            other => panic!("expected a list and not {other:?}"),
        }
    }
}

/// Sends commands on a connection of their own; the reply to the last one.
pub(super) async fn ask(address: SocketAddr, commands: &[&[&str]]) -> io::Result<Reply> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    let mut reply = Reply::Nothing;
    for command in commands {
        stream.write_all(&encode(command)).await?;
        reply = read(&mut stream).await?;
    }
    Ok(reply)
}

fn encode(command: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", command.len());
    for part in command {
        bytes += &format!("${}\r\n{part}\r\n", part.len());
    }
    bytes.into_bytes()
}

fn read(stream: &mut BufReader<TcpStream>) -> Pin<Box<dyn Future<Output = io::Result<Reply>> + Send + '_>> {
    Box::pin(async move {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let malformed = || io::Error::new(ErrorKind::InvalidData, format!("not a reply: {line:?}"));
        let (kind, rest) = line.trim_end().split_at_checked(1).ok_or_else(malformed)?;
        let number = || rest.parse::<i64>().map_err(|_| malformed());
        Ok(match kind {
            "+" => Reply::Text(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Number(number()?),
            "$" | "*" if number()? < 0 => Reply::Nothing,
            "$" => {
                let length = usize::try_from(number()?).map_err(|_| malformed())?;
                let mut bytes = vec![0; length + 2];
                stream.read_exact(&mut bytes).await?;
                Reply::Text(String::from_utf8_lossy(&bytes[..length]).into_owned())
            }
            "*" => {
                let mut list = Vec::new();
                for _ in 0..number()? {
                    list.push(read(stream).await?);
                }
                Reply::List(list)
            }
            _ => return Err(malformed()),
        })
    })
}
