//! A client that sends as fast as the gateway takes it, on threads of its own: no pause of a test's runtime
//! slows it down.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::socket::{Closed, Frame, Handshake};

/// How long a read or a write may take before it is looked whether to stop.
const LOOK: Duration = Duration::from_millis(5);

/// What to flood with.
#[derive(Debug, Clone)]
pub struct Flood {
    path: String,
    first: Vec<u8>,
    block: Vec<u8>,
    reads: bool,
    again: bool,
}

/// A flood under way. Ends when it is dropped.
#[derive(Debug)]
pub struct Flooding {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    connections: AtomicU64,
    closed: Mutex<Option<(Closed, Duration)>>,
}

impl Flood {
    /// Sends this block again and again over a connection to a path. It is read what comes back.
    pub fn of(path: &str, block: impl Into<Vec<u8>>) -> Self {
        Self { path: path.to_owned(), first: Vec::new(), block: block.into(), reads: true, again: false }
    }

    /// Sends these text messages before.
    pub fn first(mut self, messages: &[String]) -> Self {
        self.first = messages.iter().flat_map(|message| Frame::text(message).bytes()).collect();
        self
    }

    /// Sends these bytes before, after the messages.
    pub fn begin(mut self, bytes: &[u8]) -> Self {
        self.first.extend(bytes);
        self
    }

    /// Reads nothing.
    pub fn deaf(mut self) -> Self {
        self.reads = false;
        self
    }

    /// Whenever it is closed it connects again.
    pub fn again(mut self) -> Self {
        self.again = true;
        self
    }

    /// Begins.
    pub fn start(self, address: SocketAddr) -> Flooding {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            closed: Mutex::default(),
        });
        let (flood, told) = (self, shared.clone());
        let thread = thread::spawn(move || {
            loop {
                // A gateway that refuses or ends a connection is what may be wanted.
                let _ = flood.connection(address, &told);
                if !flood.again || told.is_stopped() {
                    break;
                }
            }
        });
        Flooding { shared, thread: Some(thread) }
    }

    fn connection(&self, address: SocketAddr, shared: &Arc<Shared>) -> std::io::Result<()> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(LOOK))?;
        socket.write_all(&Handshake::to(&self.path).bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        socket.set_read_timeout(Some(LOOK))?;
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let over = Arc::new(AtomicBool::new(false));
        let reader = self.reads.then(|| {
            let (socket, shared, over) = (socket.try_clone(), shared.clone(), over.clone());
            thread::spawn(move || {
                let closed =
                    socket.and_then(|socket| read(socket, &shared)).unwrap_or(Closed::WITHOUT_A_WORD);
                over.store(true, Ordering::Relaxed);
                if !shared.is_stopped() {
                    let mut first = shared.closed.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert((closed, begun.elapsed()));
                }
            })
        });
        let wanted = || !shared.is_stopped() && !over.load(Ordering::Relaxed);
        let mut rest = &self.first[..];
        while wanted() {
            if rest.is_empty() {
                rest = &self.block;
            }
            match socket.write(rest) {
                Ok(count) => {
                    rest = &rest[count..];
                    shared.sent.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => (),
                // The reader learns why.
                Err(_) => break,
            }
        }
        let _ = socket.shutdown(Shutdown::Write);
        if let Some(reader) = reader {
            let _ = reader.join();
        }
        Ok(())
    }
}

impl Flooding {
    /// Bytes the gateway's system has taken.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How its first connection ended, and after which time.
    pub fn closed(&self) -> Option<(Closed, Duration)> {
        self.shared.closed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Flooding {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Reads frames until the end, whose reason it returns.
fn read(mut socket: TcpStream, shared: &Shared) -> std::io::Result<Closed> {
    let mut bytes = vec![0; 256 << 10];
    let (mut begin, mut end) = (0, 0);
    // What is left of a frame that is longer than what was read.
    let mut skip: usize = 0;
    while !shared.is_stopped() {
        match socket.read(&mut bytes[end..]) {
            Ok(0) => break,
            Ok(count) => end += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(error) => return Err(error),
        }
        loop {
            let skipped = skip.min(end - begin);
            (begin, skip) = (begin + skipped, skip - skipped);
            let Some((opcode, header, length)) = Frame::header(&bytes[begin..end]) else { break };
            if opcode != Frame::CLOSE {
                skip = header + length;
            } else if let Some(payload) = bytes[begin..end].get(header..header + length) {
                return Ok(Closed::parse(payload));
            } else {
                break;
            }
        }
        bytes.copy_within(begin..end, 0);
        (begin, end) = (0, end - begin);
    }
    Ok(Closed::WITHOUT_A_WORD)
}
