//! Programs that tests use: they run to their end, or are killed.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::wait::within_time;

/// A program of somebody else.
#[derive(Debug)]
pub struct Tool {
    name: String,
    command: Command,
}

impl Tool {
    /// The program at this path, or of this name.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        let mut command = Command::new(&program);
        command.stdin(Stdio::null()).kill_on_drop(true);
        Self { name: program.display().to_string(), command }
    }

    /// With one more argument.
    pub fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// In this folder.
    pub fn folder(mut self, folder: impl AsRef<std::path::Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// With this variable in its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Without this variable in its environment.
    pub fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Its output, whatever it is.
    pub async fn output(mut self, limit: Duration) -> Output {
        let running = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).output();
        match within_time(limit, format!("the end of {}", self.name), running).await {
            Ok(output) => output,
            Err(error) => panic!("failed to run {}: {error}; `tests/run` does all the set-up", self.name),
        }
    }

    /// Its standard output. It has to succeed.
    pub async fn run(self, limit: Duration) -> String {
        let name = self.name.clone();
        let output = self.output(limit).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{name} failed ({}):\n{out}\n{err}", output.status);
        out.into_owned()
    }
}

/// A program that takes turns with the test: a line on its standard output ends its turn, one on its standard
/// input ours.
#[derive(Debug)]
pub struct Talk {
    name: String,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    input: ChildStdin,
}

impl Tool {
    /// Starts it, to take turns. What it writes on standard error is shown with the test's own output.
    pub fn talk(mut self) -> Talk {
        let mut child =
            self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap_or_else(|error| {
                panic!("failed to run {}: {error}; `tests/run` does all the set-up", self.name)
            });
        let lines = BufReader::new(child.stdout.take().expect("it was asked for")).lines();
        let input = child.stdin.take().expect("it was asked for");
        Talk { name: self.name, child, lines, input }
    }
}

impl Talk {
    /// Waits for the line that ends its turn. It prints other lines on the way for people to read.
    pub async fn hear(&mut self, limit: Duration, expected: &str) {
        let what = format!("{expected:?} from {}", self.name);
        within_time(limit, &what, async {
            loop {
                match self.lines.next_line().await {
                    Ok(Some(line)) if line == expected => return,
                    Ok(Some(line)) => println!("{line}"),
                    _ => panic!("{} ended without {expected:?}: see its messages", self.name),
                }
            }
        })
        .await;
    }

    /// The next line on its standard output.
    pub async fn line(&mut self, limit: Duration) -> String {
        let what = format!("a line from {}", self.name);
        match within_time(limit, &what, self.lines.next_line()).await {
            Ok(Some(line)) => line,
            _ => panic!("{} ended instead of a line: see its messages", self.name),
        }
    }

    /// Presses Ctrl-C.
    pub fn interrupt(&self) {
        let id = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        kill_process(id.expect("it runs"), Signal::INT).expect("it is our child");
    }

    /// Ends our turn.
    pub async fn say(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.expect("it listens");
    }

    /// Waits until it has ended, which has to be with success.
    pub async fn end(mut self, limit: Duration) {
        drop(self.input);
        let status = within_time(limit, format!("the end of {}", self.name), self.child.wait()).await;
        assert!(status.is_ok_and(|status| status.success()), "{} failed: see its messages", self.name);
    }
}

/// A script of the folder `clients`.
pub fn node(script: &str) -> Tool {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/clients"));
    assert!(
        folder.join("node_modules").is_dir(),
        "npm packages are missing: `tests/run` does all the set-up"
    );
    Tool::new("node").arg(folder.join(script))
}
