//! `Lines` writes log lines to standard error through a bounded queue and a thread, so that logging never
//! waits for the reader of the log and never fails because of it.
//!
//! A line is lost and counted if the queue is full or the write fails. Once a line can be written again,
//! another one says how many were lost.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::metrics::LineLost;

/// Maximum bytes in the queue.
const BYTES_MAX: usize = 1 << 20;
/// Maximum number of lines in the queue.
const LINES_MAX: usize = 16 << 10;
/// Pause before writing again to a standard error that was set non-blocking and takes nothing now.
const PAUSE: Duration = Duration::from_millis(10);

/// The queue. Every write to `&Lines` must be one line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    written: Condvar,
    lost: [AtomicU64; LineLost::ALL.len()],
}

#[derive(Debug, Default)]
struct Waiting {
    batch: Batch,
    /// Whether the thread is still writing lines that it has taken.
    busy: bool,
}

#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Offset of the end of each line.
    ends: Vec<usize>,
}

impl Lines {
    /// Creates a queue and the thread that writes it to standard error.
    pub(super) fn to_standard_error() -> io::Result<Arc<Self>> {
        // A duplicate descriptor: the lock of the standard library would be held during the whole write.
        let mut sink = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let lines = Arc::new(Self::default());
        let queue = lines.clone();
        thread::Builder::new().name("log".into()).spawn(move || {
            loop {
                // Without the thread there would be no lines at all, so it survives panics.
                let _ = catch_unwind(AssertUnwindSafe(|| queue.empty_into(&mut sink)));
            }
        })?;
        Ok(lines)
    }

    /// Queues a line, which ends in a line break. Never waits.
    pub(super) fn put(&self, line: &[u8]) {
        let mut waiting = self.lock();
        let Batch { bytes, ends } = &mut waiting.batch;
        if ends.len() >= LINES_MAX || bytes.len() + line.len() > BYTES_MAX {
            return self.count(LineLost::QueueFull, 1);
        }
        bytes.extend_from_slice(line);
        ends.push(bytes.len());
        let first = ends.len() == 1;
        drop(waiting);
        if first {
            self.arrived.notify_one();
        }
    }

    /// Waits at most `longest` until everything is written or lost.
    pub(super) fn flush(&self, longest: Duration) {
        let busy = |waiting: &mut Waiting| waiting.busy || !waiting.batch.ends.is_empty();
        let _ = self.written.wait_timeout_while(self.lock(), longest, busy);
    }

    /// Number of lines lost for this reason.
    pub(super) fn lost(&self, reason: LineLost) -> u64 {
        self.lost[reason as usize].load(Relaxed)
    }

    fn count(&self, reason: LineLost, lines: usize) {
        self.lost[reason as usize].fetch_add(lines as u64, Relaxed);
    }

    fn has_room(&self) -> bool {
        let waiting = self.lock();
        let Batch { bytes, ends } = &waiting.batch;
        bytes.len() < BYTES_MAX / 2 && ends.len() < LINES_MAX / 2
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn empty_into(&self, sink: &mut impl Write) {
        let mut batch = Batch::default();
        let mut sink = Sink { sink, torn: false };
        let mut reported = 0;
        loop {
            {
                let mut waiting = self.lock();
                waiting.busy = false;
                self.written.notify_all();
                let nothing = |waiting: &mut Waiting| waiting.batch.ends.is_empty();
                let waiting = self.arrived.wait_while(waiting, nothing);
                let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
                waiting.busy = true;
                std::mem::swap(&mut waiting.batch, &mut batch);
            }
            let whole = sink.write(&batch);
            self.count(LineLost::WriteFailed, batch.ends.len() - whole);
            let lost = LineLost::ALL.iter().map(|reason| self.lost(*reason)).sum();
            // While the queue is full this line would be lost too; a later turn writes it.
            if whole > 0 && lost > reported && self.has_room() {
                let lines = lost - reported;
                reported = lost;
                tracing::warn!(
                    lines,
                    "log lines were lost: standard error was blocked or too slow; see gateway_log_lines_lost"
                );
            }
            batch.bytes.clear();
            batch.ends.clear();
        }
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Sink<W> {
    sink: W,
    /// Whether the last line was written in part.
    torn: bool,
}

impl<W: Write> Sink<W> {
    /// Writes lines; returns how many were written completely.
    fn write(&mut self, batch: &Batch) -> usize {
        if self.torn {
            if self.write_bytes(b"\n") == 0 {
                return 0;
            }
            self.torn = false;
        }
        let written = self.write_bytes(&batch.bytes);
        let whole = batch.ends.partition_point(|end| *end <= written);
        self.torn = written > whole.checked_sub(1).map_or(0, |last| batch.ends[last]);
        whole
    }

    /// Writes bytes; returns how many were written before a failure.
    fn write_bytes(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.sink.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(PAUSE),
                Err(_) => break,
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// Answers writes as specified: with this many bytes, or an error.
    struct Scripted {
        steps: Receiver<Result<usize, i32>>,
        written: SyncSender<Vec<u8>>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.steps.recv().map_err(io::Error::other)?.map_err(io::Error::from_raw_os_error)?;
            let count = count.min(bytes.len());
            self.written.send(bytes[..count].to_vec()).map_err(io::Error::other)?;
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const NO_SPACE: i32 = 28;
    const AGAIN: i32 = 11;
    const INTERRUPTED: i32 = 4;
    const ALL: usize = usize::MAX;

    /// The results of the writes, in order.
    type Steps = SyncSender<Result<usize, i32>>;

    fn scripted() -> (Arc<Lines>, Steps, Receiver<Vec<u8>>) {
        let (step, steps) = sync_channel(8);
        let (written, seen) = sync_channel(100);
        let lines = Arc::new(Lines::default());
        let queue = lines.clone();
        thread::spawn(move || queue.empty_into(&mut Scripted { steps, written }));
        (lines, step, seen)
    }

    fn soon(seen: &Receiver<Vec<u8>>) -> String {
        let bytes = seen.recv_timeout(Duration::from_secs(5)).expect("something is written");
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn lines_are_written_in_their_order_and_whole() {
        let (lines, step, seen) = scripted();
        lines.put(b"one\n");
        for answer in [Err(INTERRUPTED), Err(AGAIN), Ok(2), Ok(ALL)] {
            step.send(answer).expect("it writes");
        }
        assert_eq!((soon(&seen), soon(&seen)), ("on".into(), "e\n".into()));
        lines.flush(Duration::from_secs(5));
        assert_eq!(lines.lost(LineLost::WriteFailed), 0);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_a_torn_line_is_ended() {
        let (lines, step, seen) = scripted();
        lines.put(b"one\n");
        step.send(Ok(1)).expect("it writes");
        assert_eq!(soon(&seen), "o");
        lines.put(b"two\n");
        step.send(Err(NO_SPACE)).expect("it writes");
        step.send(Err(NO_SPACE)).expect("it writes");
        lines.flush(Duration::from_secs(5));
        assert_eq!(lines.lost(LineLost::WriteFailed), 2);
        lines.put(b"three\n");
        step.send(Ok(ALL)).expect("it writes");
        step.send(Ok(ALL)).expect("it writes");
        assert_eq!((soon(&seen), soon(&seen)), ("\n".into(), "three\n".into()));
        assert_eq!(lines.lost(LineLost::WriteFailed), 2);
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_and_no_time() {
        let (lines, step, seen) = scripted();
        let line = [b'x'; 4096];
        for _ in 0..3 * BYTES_MAX / line.len() {
            lines.put(&line);
        }
        let lost = lines.lost(LineLost::QueueFull);
        // The lines that the thread has taken have left the queue, so as many fit into it again.
        assert!(lost as usize * line.len() >= BYTES_MAX, "{lost} lines lost");
        lines.put(&vec![b'x'; BYTES_MAX + 1]);
        assert_eq!(lines.lost(LineLost::QueueFull), lost + 1);
        lines.flush(Duration::from_millis(10));
        step.send(Ok(ALL)).expect("it writes");
        step.send(Ok(ALL)).expect("it writes");
        lines.flush(Duration::from_secs(5));
        let written: usize = seen.try_iter().map(|bytes| bytes.len()).sum();
        assert_eq!(written / line.len() + lost as usize, 3 * BYTES_MAX / line.len());
    }

    #[test]
    fn short_lines_are_bounded_in_number() {
        let lines = Lines::default();
        for _ in 0..=LINES_MAX {
            lines.put(b"\n");
        }
        assert_eq!(lines.lost(LineLost::QueueFull), 1);
    }
}
