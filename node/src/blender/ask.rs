//! Runs a program and reads what it says, for as long as that may take. Blocks.

use std::{
    io::{self, Read as _},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use tokio::time::Instant;

/// How often it is looked whether a program has answered.
const ANSWER_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Maximum number of bytes that are kept of a program's output.
const SAID_BYTES_MAX: u64 = 1 << 20;

/// The output of a program.
pub(super) enum Ran {
    /// It succeeded. This is its standard output.
    Well(String),
    /// It failed. This is its standard error.
    Badly(String),
    Silent,
}

/// What a command writes to its standard output, if it ends well and in time.
pub(crate) fn answer(command: &mut Command, timeout: Duration) -> Option<String> {
    match run(command, timeout) {
        Ran::Well(said) => Some(said),
        Ran::Badly(_) | Ran::Silent => None,
    }
}

/// Runs a command to its end, for `timeout` at most.
pub(super) fn run(command: &mut Command, timeout: Duration) -> Ran {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ran::Badly(error.to_string()),
    };
    let (stdout, stderr) = (child.stdout.take().map(reader), child.stderr.take().map(reader));
    let text = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
        lossy(reader.and_then(|reader| reader.join().ok()).unwrap_or_default())
    };
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ran::Well(text(stdout)),
            Ok(Some(_)) => return Ran::Badly(text(stderr)),
            Ok(None) if begun.elapsed() < timeout => thread::sleep(ANSWER_CHECK_INTERVAL),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Ran::Silent;
            }
        }
    }
}

/// Reads the output of a program, and keeps only the first part of it.
fn reader(from: impl io::Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let (mut from, mut kept) = (from, Vec::new());
        let _ = (&mut from).take(SAID_BYTES_MAX).read_to_end(&mut kept);
        let _ = io::copy(&mut from, &mut io::sink());
        kept
    })
}

pub(super) fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}
