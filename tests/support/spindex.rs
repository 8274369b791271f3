//! The `spindex` command as a process of its own.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a line may take to come or a process to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// The command with an environment that holds nothing of the caller's settings, and a home directory of its own.
///
/// Its engine is libsecp256k1, which alone is optimised in these builds: each of the others takes longer to check itself
/// than most commands to run. Tests of what engines do name them.
pub(crate) fn command<S: AsRef<OsStr>>(home: &Path, args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spindex"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SPINDEX_") {
            command.env_remove(name);
        }
    }
    command.env("SPINDEX_ENGINE", "libsecp256k1");
    command.env("HOME", home).stdin(Stdio::null()).args(args);
    command
}

/// Runs the command to its end.
pub(crate) fn run<S: AsRef<OsStr>>(home: &Path, args: &[S]) -> Output {
    command(home, args).output().unwrap()
}

/// What was printed.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The lines of stderr.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A running command. Killed when dropped.
pub(crate) struct Spindex {
    child: Child,
    lines: Receiver<String>,
    /// What has been read so far, for messages of failed tests.
    seen: Vec<String>,
}

impl Spindex {
    /// Starts a command made by [`command`].
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stderr
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for the next line of the log; `None` at its end.
    pub(crate) fn next_line(&mut self) -> Option<String> {
        let line = match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => panic!("no line after {:#?}", self.seen),
        };
        self.seen.push(line.clone());
        Some(line)
    }

    /// Whether it has ended by itself.
    pub(crate) fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for a line of the log that has all of these texts in it.
    pub(crate) fn wait_for(&mut self, texts: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if texts.iter().all(|text| line.contains(text)) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no line with {texts:?} in {:#?}", self.seen)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended without a line with {texts:?}: {:#?}", self.seen)
                }
            }
        }
    }

    /// Base URL of the HTTP server, once it serves.
    pub(crate) fn url(&mut self) -> String {
        let line = self.wait_for(&["serving HTTP on "]);
        let (_, address) = line.rsplit_once("serving HTTP on ").unwrap();
        format!("http://{}", address.trim())
    }

    /// Waits until the index has reached a height.
    pub(crate) fn wait_for_height(&mut self, height: u32) {
        self.wait_for(&["indexed", &format!(" height={height} ")]);
    }

    /// Asks it to stop and waits for the end; the status, and every line of the log.
    pub(crate) fn terminate(self) -> (ExitStatus, Vec<String>) {
        self.signal("TERM");
        self.wait()
    }

    /// Ends it at once, as a crash of the machine would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Kills it; every line of the log if it had already ended by itself, which must have been a success.
    pub(crate) fn kill_or_end(mut self) -> Option<Vec<String>> {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        if status.signal().is_some() {
            return None;
        }
        self.seen.extend(self.lines.iter());
        assert!(status.success(), "{status}: {:#?}", self.seen);
        Some(std::mem::take(&mut self.seen))
    }

    /// Waits for the end; the status, and every line of the log.
    pub(crate) fn wait(mut self) -> (ExitStatus, Vec<String>) {
        let deadline = Instant::now() + PATIENCE;
        // The log ends with the process.
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("does not end: {:#?}", self.seen),
            }
        }
        (self.child.wait().unwrap(), std::mem::take(&mut self.seen))
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Spindex {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
