//! Parses the header of the PROXY protocol, versions 1 and 2: a proxy sends it before all other bytes to name
//! its client.
//!
//! <https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt>

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Longest header of version 1, including the line end.
const LINE_BYTES_MAX: usize = 107;
/// Longest accepted header of version 2. Its fields may hold certificates and names, which the gateway does
/// not use.
pub const BYTES_MAX: usize = 4096;

const LINE: &[u8] = b"PROXY ";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The first bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preamble {
    /// Perhaps the beginning of a header: more bytes are needed.
    Partial,
    /// Not a PROXY header.
    Absent,
    /// A header.
    Header {
        /// Length of the header in bytes; the client's bytes follow.
        length: usize,
        /// The client that it names.
        whom: Whom,
    },
}

/// The client of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// The proxy itself: it opened the connection, for example for a health check.
    Local,
    /// A client without an IP address, or with an address that the proxy does not know.
    Unknown,
    /// A client with this address.
    Client(IpAddr),
}

/// The bytes begin like a PROXY header, but it is invalid or too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Parses the first bytes of a connection.
///
/// # Errors
///
/// If they begin like a PROXY header and are none.
pub fn parse(bytes: &[u8]) -> Result<Preamble, Malformed> {
    if begins(bytes, SIGNATURE) {
        binary(bytes)
    } else if begins(bytes, LINE) {
        line(bytes)
    } else {
        Ok(Preamble::Absent)
    }
}

/// Compares as many bytes as there are.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    let length = bytes.len().min(with.len());
    bytes[..length] == with[..length]
}

fn line(bytes: &[u8]) -> Result<Preamble, Malformed> {
    let within = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = within.iter().position(|b| *b == b'\n') else {
        return if within.len() < LINE_BYTES_MAX { Ok(Preamble::Partial) } else { Err(Malformed) };
    };
    let line = within[..end].strip_suffix(b"\r").ok_or(Malformed)?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed)?;
    let mut fields = line.split(' ').skip(1);
    let whom = match fields.next() {
        Some("UNKNOWN") => Whom::Unknown,
        Some("TCP4") => Whom::Client(addresses::<Ipv4Addr>(fields)?.into()),
        Some("TCP6") => Whom::Client(addresses::<Ipv6Addr>(fields)?.into()),
        _ => return Err(Malformed),
    };
    Ok(Preamble::Header { length: end + 1, whom })
}

/// The first of two addresses, which are followed by two ports.
fn addresses<'f, A: std::str::FromStr>(fields: impl Iterator<Item = &'f str>) -> Result<A, Malformed> {
    let fields: Vec<_> = fields.take(5).collect();
    let [client, server, client_port, server_port] = fields[..] else { return Err(Malformed) };
    let port = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok();
    if !port(client_port) || !port(server_port) || server.parse::<A>().is_err() {
        return Err(Malformed);
    }
    client.parse().map_err(|_| Malformed)
}

fn binary(bytes: &[u8]) -> Result<Preamble, Malformed> {
    let Some((&[version_and_command, family, high, low], rest)) =
        bytes.get(SIGNATURE.len()..).and_then(|rest| rest.split_first_chunk::<4>())
    else {
        return Ok(Preamble::Partial);
    };
    let size = usize::from(u16::from_be_bytes([high, low]));
    let length = SIGNATURE.len() + 4 + size;
    if version_and_command >> 4 != 2 || length > BYTES_MAX {
        return Err(Malformed);
    }
    let Some(fields) = rest.get(..size) else { return Ok(Preamble::Partial) };
    let whom = match (version_and_command & 0xf, family >> 4) {
        // LOCAL. The address fields are ignored.
        (0, _) => Whom::Local,
        (1, 0) => Whom::Unknown,
        (1, 1) => Whom::Client(first::<4, 12>(fields)?.into()),
        (1, 2) => Whom::Client(first::<16, 36>(fields)?.into()),
        // A UNIX socket.
        (1, 3) if size >= 216 => Whom::Unknown,
        _ => return Err(Malformed),
    };
    Ok(Preamble::Header { length, whom })
}

/// The first `N` of at least `M` bytes.
fn first<const N: usize, const M: usize>(fields: &[u8]) -> Result<[u8; N], Malformed> {
    let addresses = fields.first_chunk::<M>().ok_or(Malformed)?;
    addresses.first_chunk::<N>().copied().ok_or(Malformed)
}

/// A socket with bytes that were read but not used. They are read first.
#[derive(Debug)]
pub struct Unread {
    bytes: Vec<u8>,
    socket: TcpStream,
}

impl Unread {
    /// Nothing has been read yet.
    pub fn new(socket: TcpStream) -> Self {
        Self { bytes: Vec::new(), socket }
    }

    /// Reads a PROXY header if the socket begins with one, and none of the bytes after it. Returns the client
    /// that the header names, `None` without a header.
    ///
    /// # Errors
    ///
    /// The error of the socket; and if the bytes begin like a PROXY header and are none.
    pub async fn preamble(&mut self) -> io::Result<Result<Option<Whom>, Malformed>> {
        loop {
            // A fast client sends its whole request together with the header.
            match parse(&self.bytes) {
                Ok(Preamble::Partial) => {}
                Ok(Preamble::Absent) => return Ok(Ok(None)),
                Ok(Preamble::Header { length, whom }) => {
                    self.bytes.drain(..length);
                    return Ok(Ok(Some(whom)));
                }
                Err(malformed) => return Ok(Err(malformed)),
            }
            self.bytes.reserve(512);
            if self.socket.read_buf(&mut self.bytes).await? == 0 {
                return Ok(Ok(None));
            }
        }
    }

    /// The first byte, which stays unused. `None` if the client closes its side before it.
    ///
    /// # Errors
    ///
    /// The error of the socket.
    pub async fn first_byte(&mut self) -> io::Result<Option<u8>> {
        if self.bytes.is_empty() {
            self.bytes.reserve(512);
            self.socket.read_buf(&mut self.bytes).await?;
        }
        Ok(self.bytes.first().copied())
    }

    /// The socket, and the unused bytes.
    pub fn into_parts(self) -> (Vec<u8>, TcpStream) {
        (self.bytes, self.socket)
    }
}

impl AsyncRead for Unread {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, into);
        }
        let length = self.bytes.len().min(into.remaining());
        into.put_slice(&self.bytes[..length]);
        self.bytes.drain(..length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Unread {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whom(bytes: &[u8]) -> Result<Whom, Malformed> {
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]), Ok(Preamble::Partial), "{length} bytes of {bytes:?}");
        }
        let with_more = [bytes, b"GET / HTTP/1.1\r\n"].concat();
        match parse(&with_more)? {
            Preamble::Header { length, whom } => {
                assert_eq!(length, bytes.len());
                Ok(whom)
            }
            other => panic!("{other:?}"),
        }
    }

    fn binary(version_and_command: u8, family: u8, fields: &[u8]) -> Vec<u8> {
        let size = u16::try_from(fields.len()).expect("a size").to_be_bytes();
        [&SIGNATURE[..], &[version_and_command, family], &size, fields].concat()
    }

    #[test]
    fn a_line_tells_the_client() {
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", Some("192.0.2.1")),
            ("PROXY TCP6 2001:db8::1 ::1 65535 0\r\n", Some("2001:db8::1")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff:f... any words\r\n", None),
        ] {
            let address = |address: &str| Whom::Client(address.parse().expect("an address"));
            assert_eq!(whom(line.as_bytes()), Ok(expected.map_or(Whom::Unknown, address)), "{line:?}");
        }
    }

    #[test]
    fn a_line_that_is_none_is_refused() {
        for line in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
            "PROXY TCP4 \u{e9} 192.0.2.2 1 2\r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(Malformed), "{line:?}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(100));
        assert_eq!(parse(&endless.as_bytes()[..106]), Ok(Preamble::Partial));
        assert_eq!(parse(&endless.as_bytes()[..107]), Err(Malformed));
    }

    #[test]
    fn a_binary_header_tells_the_client() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets());
        let with_fields = [&v4[..], &[0x04, 0, 2, 1, 1]].concat();
        let one = Whom::Client([192, 0, 2, 1].into());
        let other = Whom::Client("2001:db8::1".parse().expect("an address"));
        for (header, expected) in [
            (binary(0x21, 0x11, &v4), one),
            (binary(0x21, 0x12, &v4), one),
            (binary(0x21, 0x11, &with_fields), one),
            (binary(0x21, 0x21, &v6), other),
            (binary(0x21, 0x31, &[0; 216]), Whom::Unknown),
            (binary(0x21, 0x00, &[]), Whom::Unknown),
            (binary(0x21, 0x00, &[1, 2, 3]), Whom::Unknown),
            (binary(0x20, 0x00, &[]), Whom::Local),
            (binary(0x20, 0x11, &v4), Whom::Local),
        ] {
            assert_eq!(whom(&header), Ok(expected), "{header:?}");
        }
    }

    #[test]
    fn a_binary_header_that_is_none_is_refused() {
        for (command, family, fields) in [
            (0x11, 0x11, &[0; 12][..]),
            (0x22, 0x11, &[0; 12]),
            (0x2f, 0x11, &[0; 12]),
            (0x21, 0x11, &[0; 11]),
            (0x21, 0x21, &[0; 35]),
            (0x21, 0x31, &[0; 215]),
            (0x21, 0x41, &[0; 216]),
            (0x21, 0x11, &[0; BYTES_MAX]),
        ] {
            assert_eq!(parse(&binary(command, family, fields)), Err(Malformed), "{command:x} {family:x}");
        }
        // A header that is too long is refused at once.
        assert_eq!(parse(&binary(0x21, 0x11, &[0; BYTES_MAX])[..16]), Err(Malformed));
    }

    #[test]
    fn a_request_is_no_header() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"POST", b"PR0XY ", b"PROXYTCP4 ", b"\r\nGET", b"\0"] {
            assert_eq!(parse(bytes), Ok(Preamble::Absent), "{bytes:?}");
        }
        for bytes in [&b""[..], b"P", b"PROXY", b"\r\n\r\n\0\r\nQUI"] {
            assert_eq!(parse(bytes), Ok(Preamble::Partial), "{bytes:?}");
        }
    }
}
