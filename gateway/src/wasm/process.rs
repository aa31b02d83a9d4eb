//! [`CompileProcess`] compiles in a child process, so that a plugin that takes too much memory or time ends
//! that process and not the gateway.
//!
//! The process is this program again, with a hidden subcommand ([`compile_for_parent`]). It reads the
//! component from standard input and writes the machine code to standard output. It has no environment and no
//! other descriptors, runs at low priority, is the first to be killed when the system runs out of memory, and
//! ends with its parent.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tracing::{debug, info};

use super::engine::{self, Kind, Space};
use super::output::cut;
use crate::plugin::load::{Cancel, LoadCode, LoadError};
use crate::resources::{self, Limit, show};

/// Niceness of the compiler, so that threads that serve connections have priority.
const COMPILE_NICE: i32 = 3;
/// A compile that takes longer is logged.
const REPORT_FIRST: Duration = Duration::from_secs(1);
/// Interval of the log lines after the first.
const REPORT: Duration = Duration::from_secs(5);
/// How often a load that waits looks whether it is cancelled.
const CANCEL_CHECK: Duration = Duration::from_millis(100);
/// Most compilers at the same time: a small plugin need not wait for one large one, and several large ones
/// leave processors to the connections.
const COMPILERS_MAX: usize = 2;
/// Memory that a compile leaves to the gateway.
const KEPT_FREE: u64 = 16 << 20;
/// Least memory to start a compile.
const COMPILE_MIN: u64 = 24 << 20;
/// Most bytes of error output.
const WORDS_BYTES_MAX: u64 = 4096;

/// First byte of a response: machine code follows.
const CODE: u8 = b'C';
/// First byte of a response: an error message follows.
const REFUSED: u8 = b'R';
/// That byte, and the length of the rest in eight bytes, little-endian, to detect a truncated response.
const HEAD: usize = 9;

/// The program that compiles plugins, and its bounds.
#[derive(Debug, Clone)]
pub struct CompileProcess {
    /// The program and its first arguments; the kind of machine code and the memory are added.
    pub command: Vec<PathBuf>,
    /// Longest time for one plugin.
    pub timeout: Duration,
    /// Most memory for one plugin, if that much is free.
    pub bytes_max: u64,
}

/// Memory for a compile, and its limiting factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Allowance {
    bytes: u64,
    /// The limit that leaves less memory than configured; `None` if the configured amount is available.
    short: Option<Limit>,
}

impl Allowance {
    fn of(bytes_max: u64, memory: Option<resources::Memory>) -> Self {
        // A third is reserved for other processes and for the machine code, which the gateway holds once
        // while the process runs and then twice.
        let left = memory.map(|memory| (memory.free.saturating_sub(KEPT_FREE) / 3 * 2, memory.by));
        match left {
            Some((left, by)) if left < bytes_max => Self { bytes: left, short: Some(by) },
            _ => Self { bytes: bytes_max, short: None },
        }
    }

    /// Most machine code. A process and its code together take a quarter more than the allowance, and the
    /// gateway takes half of the allowance after the process has ended. Both fit into the free memory.
    fn code_bytes(self) -> u64 {
        self.bytes / 4
    }

    /// Final if the configured limit was reached: then only another configuration helps.
    fn exceeded(self) -> LoadError {
        let bytes = show(self.bytes);
        let message = match self.short {
            None => format!(
                "needs more than {bytes} of memory to compile (plugins.compile_bytes_max): raise that, or build it smaller: with \
                 optimisation, without debug information"
            ),
            Some(limit) => format!(
                "needs more memory to compile than the {bytes} that {limit} leaves to the compiler: give the gateway more, or build the plugin \
                 smaller: with optimisation, without debug information"
            ),
        };
        let error = LoadError::new(LoadCode::CompileMemory, message);
        if self.short.is_some() { error.passing() } else { error }
    }
}

/// The compilers of this process that run.
struct Running {
    number: usize,
    /// Most memory that they take together.
    bytes: u64,
}

static RUNNING: Mutex<Running> = Mutex::new(Running { number: 0, bytes: 0 });
/// A compiler has ended.
static ENDED: Condvar = Condvar::new();

/// Permission to run a compiler with this memory, until it is dropped. Any number of loads may wait for one.
#[derive(Debug)]
pub(super) struct Place(Allowance);

impl Place {
    /// Waits for a place. The only compiler gets the memory that is free; one beside it starts only if all
    /// that it may take is free beside the memory of the first, so that each has what it would have alone.
    pub(super) fn wait(bytes_max: u64, cancel: &Cancel) -> Result<Self, LoadError> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        while !cancel.is_cancelled() {
            if running.number < COMPILERS_MAX {
                let memory = resources::memory_of_another();
                let memory = memory.map(|memory| resources::Memory {
                    free: memory.free.saturating_sub(running.bytes),
                    ..memory
                });
                let allowance = Allowance::of(bytes_max, memory);
                if running.number == 0 || allowance.short.is_none() {
                    // Made only here: dropping a place gives it back.
                    let place = Self(allowance);
                    running.number += 1;
                    running.bytes = running.bytes.saturating_add(place.bytes());
                    return Ok(place);
                }
            }
            let waited = ENDED.wait_timeout(running, CANCEL_CHECK);
            running = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Err(cancelled())
    }

    /// Memory of the process and of its machine code.
    fn bytes(&self) -> u64 {
        self.0.bytes.saturating_add(self.0.code_bytes())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.number -= 1;
        running.bytes = running.bytes.saturating_sub(self.bytes());
        ENDED.notify_all();
    }
}

/// Whether this program offers the subcommand [`COMMAND`].
static OFFERED: AtomicBool = AtomicBool::new(false);

/// Declares that this program offers [`COMMAND`]. Otherwise plugins are compiled on the loading thread,
/// because a program that uses the gateway as a library cannot be started as a compiler.
pub fn offer_to_compile() {
    OFFERED.store(true, Ordering::Relaxed);
}

impl CompileProcess {
    /// This program, even if its file on disk was replaced, if it [offers](offer_to_compile) to compile.
    pub fn itself(timeout: Duration, bytes_max: u64) -> Option<Self> {
        let command = vec!["/proc/self/exe".into(), COMMAND.into()];
        OFFERED.load(Ordering::Relaxed).then_some(Self { command, timeout, bytes_max })
    }

    /// The machine code of a plugin's component. Blocks until it is compiled, refused, given up or cancelled.
    pub(super) fn compile(
        &self,
        kind: Kind,
        plugin: &str,
        component: &[u8],
        cancel: &Cancel,
    ) -> Result<Vec<u8>, LoadError> {
        let place = Place::wait(self.bytes_max, cancel)?;
        let allowance = place.0;
        if allowance.bytes < COMPILE_MIN {
            return Err(allowance.exceeded());
        }
        let began = Instant::now();
        let child = self.start(kind, allowance.bytes).map_err(|error| {
            LoadError::new(
                LoadCode::CompilerBusy,
                format!("is not compiled: no process for the compiler can be started: {error}"),
            )
        })?;
        let answer = self.converse(child, plugin, component, allowance, cancel)?;
        debug!(plugin, took = ?began.elapsed(), bytes = answer.len(), "plugin compiled in a child process");
        Ok(answer)
    }

    fn start(&self, kind: Kind, bytes: u64) -> io::Result<Child> {
        let [program, arguments @ ..] = &*self.command else { return Err(io::ErrorKind::NotFound.into()) };
        Command::new(program)
            .args(arguments)
            .arg(if kind.space == Space::Ample { "ample" } else { "scarce" })
            .arg(if kind.metered { "metered" } else { "plain" })
            .arg(bytes.to_string())
            .env_clear()
            .current_dir("/")
            // A signal from the terminal that ends the gateway must not count as a failure of the plugin.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }

    /// Sends the component to the process and reads its response, or kills the process at the timeout or when
    /// it is cancelled.
    fn converse(
        &self,
        mut child: Child,
        plugin: &str,
        component: &[u8],
        allowance: Allowance,
        cancel: &Cancel,
    ) -> Result<Vec<u8>, LoadError> {
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut input), Some(output), Some(errors)) = pipes else {
            return Err(LoadError::new(LoadCode::CompilerBusy, "is not compiled: the compiler has no pipes"));
        };
        let code_bytes_max = allowance.code_bytes();
        let (sender, done) = sync_channel(1);
        let (answer, stopped) = thread::scope(|scope| {
            scope.spawn(move || {
                // A process that ends early does not read all of it; its error is read below.
                let length = (component.len() as u64).to_le_bytes();
                let _ = input.write_all(&length).and_then(|()| input.write_all(component));
                drop(input);
                let answer = Answer::read(output, code_bytes_max);
                let mut words = Vec::new();
                let _ = errors.take(WORDS_BYTES_MAX).read_to_end(&mut words);
                let _ = sender.send((answer, String::from_utf8_lossy(&words).into_owned()));
            });
            let begin = Instant::now();
            let mut report = REPORT_FIRST;
            loop {
                let took = begin.elapsed();
                let stop = if cancel.is_cancelled() {
                    Some(cancelled())
                } else if took >= self.timeout {
                    Some(self.timed_out())
                } else {
                    None
                };
                if stop.is_some() {
                    let _ = child.kill();
                    break (done.recv().unwrap_or_default(), stop);
                }
                if took >= report {
                    let (bytes, seconds) = (component.len(), took.as_secs());
                    info!(plugin, bytes, seconds, limit = ?self.timeout, "plugin being compiled");
                    report += REPORT;
                }
                match done.recv_timeout(CANCEL_CHECK.min(self.timeout.saturating_sub(took))) {
                    Err(RecvTimeoutError::Timeout) => {}
                    answer => break (answer.unwrap_or_default(), None),
                }
            }
        });
        // It has closed its output, so it has ended or is about to; if it still runs, it is useless.
        let _ = child.kill();
        let status = child.wait();
        if let Some(error) = stopped {
            return Err(error);
        }
        let (answer, words) = answer;
        match answer {
            Answer::Code(code) => Ok(code),
            Answer::Refused(why) => {
                let why = String::from_utf8_lossy(&why).into_owned();
                Err(LoadError::new(LoadCode::Compile, format!("does not compile: {}", cut(&why, 1000))))
            }
            Answer::TooLarge => Err(allowance.exceeded()),
            // It had the code but no memory to send it.
            Answer::CutOff if status.as_ref().is_ok_and(|status| status.signal().is_none()) => {
                Err(allowance.exceeded().passing())
            }
            Answer::CutOff | Answer::Incomplete => Err(ended(status, &words, allowance)),
        }
    }

    fn timed_out(&self) -> LoadError {
        let message = format!(
            "takes longer than {:?} to compile (plugins.compile_timeout): raise the limit where the machine is busy, or \
             build it smaller: with optimisation, without debug information",
            self.timeout
        );
        LoadError::new(LoadCode::CompileTimeout, message)
    }
}

/// Why a cancelled compile has no result.
fn cancelled() -> LoadError {
    LoadError::new(LoadCode::CompilerBusy, "is not compiled: it is not wanted any more").passing()
}

/// A response of the process.
#[derive(Debug, Default)]
enum Answer {
    Code(Vec<u8>),
    Refused(Vec<u8>),
    /// Larger than permitted.
    TooLarge,
    /// Truncated.
    CutOff,
    /// Empty, or without a complete head.
    #[default]
    Incomplete,
}

impl Answer {
    fn read(mut output: impl Read, most: u64) -> Self {
        let mut head = [0; HEAD];
        if output.read_exact(&mut head).is_err() {
            return Self::Incomplete;
        }
        let [kind, length @ ..] = head;
        let length = u64::from_le_bytes(length);
        if length > most {
            return Self::TooLarge;
        }
        // Allocated at full size, because growing would take twice the memory.
        let mut body = Vec::new();
        if body.try_reserve_exact(length as usize).is_err() {
            return Self::TooLarge;
        }
        let read = output.take(length).read_to_end(&mut body);
        if read.is_err() || body.len() as u64 != length {
            return Self::CutOff;
        }
        match kind {
            CODE => Self::Code(body),
            REFUSED => Self::Refused(body),
            _ => Self::Incomplete,
        }
    }

    /// Writes a response for [`read`](Self::read).
    fn write(mut output: impl Write, kind: u8, body: &[u8]) -> io::Result<()> {
        let mut head = [kind; HEAD];
        head[1..].copy_from_slice(&(body.len() as u64).to_le_bytes());
        output.write_all(&head)?;
        output.write_all(body)?;
        output.flush()
    }
}

/// Explains a process that ended without a response.
fn ended(status: io::Result<ExitStatus>, words: &str, allowance: Allowance) -> LoadError {
    // The process aborts when an allocation fails.
    if OUT_OF_MEMORY.iter().any(|phrase| words.contains(phrase)) {
        return allowance.exceeded();
    }
    let signal = status.as_ref().ok().and_then(ExitStatusExt::signal);
    let (code, message) = match signal {
        // The system kills a process that takes more memory than there is.
        Some(signal) if signal == Signal::KILL.as_raw() => {
            let message = format!(
                "needs more memory to compile than there is: the system ended the compiler, which may take {}. Give the gateway \
                 more, or build the plugin smaller: with optimisation, without debug information",
                show(allowance.bytes)
            );
            return LoadError::new(LoadCode::CompileMemory, message).passing();
        }
        Some(signal) if !FAULTS.iter().any(|fault| fault.as_raw() == signal) => {
            (LoadCode::CompilerBusy, format!("is not compiled: signal {signal} ended the compiler"))
        }
        _ => {
            let how = match (status, signal) {
                (_, Some(signal)) => format!("signal {signal}"),
                (Ok(status), None) => status.to_string(),
                (Err(error), None) => error.to_string(),
            };
            let words: Vec<&str> = words.split_whitespace().collect();
            let message = format!(
                "makes the compiler fail ({how}): {}; build it with another optimisation level",
                cut(&words.join(" "), 300)
            );
            (LoadCode::Compile, message)
        }
    };
    LoadError::new(code, message)
}

/// Signals that a process causes itself. Any other signal comes from outside.
const FAULTS: [Signal; 7] =
    [Signal::ABORT, Signal::BUS, Signal::FPE, Signal::ILL, Signal::SEGV, Signal::SYS, Signal::TRAP];

/// Output of a process that could not allocate memory.
const OUT_OF_MEMORY: [&str; 3] = ["memory allocation of", "Cannot allocate memory", "out of memory"];

/// The subcommand of [`compile_for_parent`].
pub const COMMAND: &str = "compile-for-parent";

/// Compiles from standard input to standard output, within this many bytes of memory. [`CompileProcess`] runs
/// it.
///
/// # Errors
///
/// If the input cannot be read, or the output cannot be written.
pub fn compile_for_parent(scarce: bool, metered: bool, bytes: u64) -> io::Result<()> {
    confine(bytes)?;
    let mut input = io::stdin().lock();
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let mut component = Vec::new();
    // Fewer bytes mean that the parent is gone.
    if input.take(length).read_to_end(&mut component)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let space = if scarce { Space::Scarce } else { Space::Ample };
    let made =
        engine::compiler(Kind { space, metered }).and_then(|engine| engine.precompile_component(&component));
    let output = io::stdout().lock();
    match made {
        Ok(code) => Answer::write(output, CODE, &code),
        Err(error) if is_out_of_memory(&error) => {
            crate::telemetry::say(&format!("memory allocation of the compiler failed: {error:#}"));
            Ok(())
        }
        Err(error) => Answer::write(output, REFUSED, error.root_cause().to_string().as_bytes()),
    }
}

fn is_out_of_memory(error: &wasmtime::Error) -> bool {
    let text = format!("{error:#}");
    OUT_OF_MEMORY.iter().chain(&["allocation failed"]).any(|words| text.contains(words))
}

/// Removes privileges and resources that compilation does not need.
fn confine(bytes: u64) -> io::Result<()> {
    close_inherited();
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // If this fails, it compiles at normal priority.
        let _ = rustix::process::nice(COMPILE_NICE);
        let _ = fs::write("/proc/self/oom_score_adj", "1000");
    }
    let limit = |resource, most: u64| {
        // Never raises a limit of the gateway.
        let most = most.min(getrlimit(resource).maximum.unwrap_or(u64::MAX));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
    };
    limit(Resource::Core, 0)?;
    limit(Resource::Data, bytes)?;
    Ok(())
}

/// Closes descriptors inherited from the starter of the gateway. The gateway's own descriptors do not reach
/// this process.
fn close_inherited() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        close(descriptor);
    }
}

#[expect(
    unsafe_code,
    reason = "this process has begun a moment ago and opened nothing: nobody in it knows the descriptor"
)]
fn close(descriptor: i32) {
    // SAFETY: see the reason above. Closing a descriptor that is already closed only returns an error.
    unsafe { rustix::io::close(descriptor) }
}

#[cfg(test)]
mod tests;
