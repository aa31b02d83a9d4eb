//! Programs that tests use: they run to their end, or are killed.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

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

    /// With this variable in its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
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

/// A script of the folder `clients`.
pub fn node(script: &str) -> Tool {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/clients"));
    assert!(
        folder.join("node_modules").is_dir(),
        "npm packages are missing: `tests/run` does all the set-up"
    );
    Tool::new("node").arg(folder.join(script))
}
