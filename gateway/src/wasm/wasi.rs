//! Implements the part of WASI that standard libraries need, without access to anything outside the plugin.
//!
//! Clocks and random numbers are real, the environment is empty, standard output becomes log lines, standard
//! input is at its end, there are no folders, and there is no network ([`sockets`](super::sockets)). Nothing
//! here blocks, because a plugin runs on the thread that serves its worker's connections; a function that
//! would block ends the call with an error message instead.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime::{Error, Result, format_err};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::{cli, clocks, filesystem, random, sync};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable, StreamError, StreamResult};
use wasmtime_wasi_io::bindings::wasi::io::error;

use self::sync::io::{poll, streams};
use super::call::State;

/// Handle of standard output. No table is needed: a guest cannot forge handles.
const STDOUT: u32 = 1;
/// Standard error.
const STDERR: u32 = 2;
/// Standard input.
const STDIN: u32 = 3;
/// The only pollable; it is always ready.
const READY: u32 = 4;

/// Most bytes of one write.
const WRITE_BYTES_MAX: u64 = 4096;
/// Most random bytes of one call.
const RANDOM_BYTES_MAX: u64 = 64 << 10;

/// Links the interfaces.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    type Has = HasSelf<State>;
    let state = State::of_host_call;
    fn files(state: &mut State) -> WasiFilesystemCtxView<'_> {
        WasiFilesystemCtxView { ctx: &mut state.files, table: &mut state.table }
    }
    cli::environment::add_to_linker::<_, Has>(linker, state)?;
    cli::exit::add_to_linker::<_, Has>(linker, state)?;
    cli::stdin::add_to_linker::<_, Has>(linker, state)?;
    cli::stdout::add_to_linker::<_, Has>(linker, state)?;
    cli::stderr::add_to_linker::<_, Has>(linker, state)?;
    cli::terminal_input::add_to_linker::<_, Has>(linker, state)?;
    cli::terminal_output::add_to_linker::<_, Has>(linker, state)?;
    cli::terminal_stdin::add_to_linker::<_, Has>(linker, state)?;
    cli::terminal_stdout::add_to_linker::<_, Has>(linker, state)?;
    cli::terminal_stderr::add_to_linker::<_, Has>(linker, state)?;
    clocks::wall_clock::add_to_linker::<_, Has>(linker, state)?;
    clocks::monotonic_clock::add_to_linker::<_, Has>(linker, state)?;
    random::random::add_to_linker::<_, Has>(linker, state)?;
    random::insecure::add_to_linker::<_, Has>(linker, state)?;
    random::insecure_seed::add_to_linker::<_, Has>(linker, state)?;
    error::add_to_linker::<_, Has>(linker, state)?;
    poll::add_to_linker::<_, Has>(linker, state)?;
    streams::add_to_linker::<_, Has>(linker, state)?;
    filesystem::preopens::add_to_linker::<_, WasiFilesystem>(linker, files)?;
    sync::filesystem::types::add_to_linker::<_, WasiFilesystem>(linker, files)?;
    Ok(())
}

fn cannot_wait() -> Error {
    format_err!("plugins cannot wait: no sleeping, no reading and no polling in a hook")
}

// --------------------------------------------------------------------------------------------------------
// cli

impl cli::environment::Host for State {
    fn get_environment(&mut self) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    fn get_arguments(&mut self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn initial_cwd(&mut self) -> Result<Option<String>> {
        Ok(None)
    }
}

impl cli::exit::Host for State {
    fn exit(&mut self, _status: std::result::Result<(), ()>) -> Result<()> {
        Err(format_err!("the plugin called exit"))
    }

    fn exit_with_code(&mut self, code: u8) -> Result<()> {
        Err(format_err!("the plugin called exit with code {code}"))
    }
}

impl cli::stdin::Host for State {
    fn get_stdin(&mut self) -> Result<Resource<DynInputStream>> {
        Ok(Resource::new_own(STDIN))
    }
}

impl cli::stdout::Host for State {
    fn get_stdout(&mut self) -> Result<Resource<DynOutputStream>> {
        Ok(Resource::new_own(STDOUT))
    }
}

impl cli::stderr::Host for State {
    fn get_stderr(&mut self) -> Result<Resource<DynOutputStream>> {
        Ok(Resource::new_own(STDERR))
    }
}

impl cli::terminal_input::Host for State {}
impl cli::terminal_input::HostTerminalInput for State {
    fn drop(&mut self, _: Resource<cli::terminal_input::TerminalInput>) -> Result<()> {
        Ok(())
    }
}

impl cli::terminal_output::Host for State {}
impl cli::terminal_output::HostTerminalOutput for State {
    fn drop(&mut self, _: Resource<cli::terminal_output::TerminalOutput>) -> Result<()> {
        Ok(())
    }
}

impl cli::terminal_stdin::Host for State {
    fn get_terminal_stdin(&mut self) -> Result<Option<Resource<cli::terminal_input::TerminalInput>>> {
        Ok(None)
    }
}

impl cli::terminal_stdout::Host for State {
    fn get_terminal_stdout(&mut self) -> Result<Option<Resource<cli::terminal_output::TerminalOutput>>> {
        Ok(None)
    }
}

impl cli::terminal_stderr::Host for State {
    fn get_terminal_stderr(&mut self) -> Result<Option<Resource<cli::terminal_output::TerminalOutput>>> {
        Ok(None)
    }
}

// ----------------------------------------------------------------------------------------- clocks and
// numbers

impl clocks::wall_clock::Host for State {
    fn now(&mut self) -> Result<clocks::wall_clock::Datetime> {
        Ok(datetime(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
    }

    fn resolution(&mut self) -> Result<clocks::wall_clock::Datetime> {
        Ok(datetime(Duration::from_nanos(1)))
    }
}

fn datetime(duration: Duration) -> clocks::wall_clock::Datetime {
    clocks::wall_clock::Datetime { seconds: duration.as_secs(), nanoseconds: duration.subsec_nanos() }
}

impl clocks::monotonic_clock::Host for State {
    fn now(&mut self) -> Result<u64> {
        Ok(self.begin.elapsed().as_nanos() as u64)
    }

    fn resolution(&mut self) -> Result<u64> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, when: u64) -> Result<Resource<DynPollable>> {
        if when <= self.begin.elapsed().as_nanos() as u64 { ready() } else { Err(cannot_wait()) }
    }

    fn subscribe_duration(&mut self, duration: u64) -> Result<Resource<DynPollable>> {
        if duration == 0 { ready() } else { Err(cannot_wait()) }
    }
}

impl random::random::Host for State {
    fn get_random_bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        if len > RANDOM_BYTES_MAX {
            return Err(format_err!("more than {RANDOM_BYTES_MAX} random bytes in one call"));
        }
        let mut bytes = vec![0; len as usize];
        getrandom::fill(&mut bytes).map_err(|error| format_err!("no random numbers: {error}"))?;
        Ok(bytes)
    }

    fn get_random_u64(&mut self) -> Result<u64> {
        getrandom::u64().map_err(|error| format_err!("no random numbers: {error}"))
    }
}

impl random::insecure::Host for State {
    fn get_insecure_random_bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        random::random::Host::get_random_bytes(self, len)
    }

    fn get_insecure_random_u64(&mut self) -> Result<u64> {
        random::random::Host::get_random_u64(self)
    }
}

impl random::insecure_seed::Host for State {
    fn insecure_seed(&mut self) -> Result<(u64, u64)> {
        Ok((random::random::Host::get_random_u64(self)?, random::random::Host::get_random_u64(self)?))
    }
}

// ---------------------------------------------------------------------------------------------------------
// io

fn ready() -> Result<Resource<DynPollable>> {
    Ok(Resource::new_own(READY))
}

impl error::Host for State {}
impl error::HostError for State {
    fn to_debug_string(&mut self, _: Resource<Error>) -> Result<String> {
        // Streams here never return an error.
        Ok(String::new())
    }

    fn drop(&mut self, _: Resource<Error>) -> Result<()> {
        Ok(())
    }
}

impl poll::Host for State {
    fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> Result<Vec<u32>> {
        if pollables.is_empty() {
            return Err(format_err!("polled an empty list"));
        }
        Ok((0..pollables.len() as u32).collect())
    }
}

impl poll::HostPollable for State {
    fn ready(&mut self, _: Resource<DynPollable>) -> Result<bool> {
        Ok(true)
    }

    fn block(&mut self, _: Resource<DynPollable>) -> Result<()> {
        Ok(())
    }

    fn drop(&mut self, _: Resource<DynPollable>) -> Result<()> {
        Ok(())
    }
}

impl streams::Host for State {
    fn convert_stream_error(&mut self, error: StreamError) -> Result<streams::StreamError> {
        match error {
            StreamError::Closed | StreamError::LastOperationFailed(_) => Ok(streams::StreamError::Closed),
            StreamError::Trap(error) => Err(error),
        }
    }
}

impl streams::HostInputStream for State {
    fn read(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<Vec<u8>> {
        Err(StreamError::Closed)
    }

    fn blocking_read(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<Vec<u8>> {
        Err(StreamError::Closed)
    }

    fn skip(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn blocking_skip(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn subscribe(&mut self, _: Resource<DynInputStream>) -> Result<Resource<DynPollable>> {
        ready()
    }

    fn drop(&mut self, _: Resource<DynInputStream>) -> Result<()> {
        Ok(())
    }
}

impl streams::HostOutputStream for State {
    fn check_write(&mut self, _: Resource<DynOutputStream>) -> StreamResult<u64> {
        Ok(WRITE_BYTES_MAX)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        if stream.rep() == STDERR {
            self.stderr.write(&bytes)
        } else {
            self.stdout.write(&bytes)
        }
        Ok(())
    }

    fn blocking_write_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        bytes: Vec<u8>,
    ) -> StreamResult<()> {
        self.write(stream, bytes)
    }

    fn flush(&mut self, _: Resource<DynOutputStream>) -> StreamResult<()> {
        Ok(())
    }

    fn blocking_flush(&mut self, _: Resource<DynOutputStream>) -> StreamResult<()> {
        Ok(())
    }

    fn subscribe(&mut self, _: Resource<DynOutputStream>) -> Result<Resource<DynPollable>> {
        ready()
    }

    fn write_zeroes(&mut self, _: Resource<DynOutputStream>, _: u64) -> StreamResult<()> {
        Ok(())
    }

    fn blocking_write_zeroes_and_flush(&mut self, _: Resource<DynOutputStream>, _: u64) -> StreamResult<()> {
        Ok(())
    }

    fn splice(
        &mut self,
        _: Resource<DynOutputStream>,
        _: Resource<DynInputStream>,
        _: u64,
    ) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn blocking_splice(
        &mut self,
        _: Resource<DynOutputStream>,
        _: Resource<DynInputStream>,
        _: u64,
    ) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn drop(&mut self, _: Resource<DynOutputStream>) -> Result<()> {
        Ok(())
    }
}
