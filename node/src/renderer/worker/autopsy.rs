//! Says why a Blender is no use any more, and how it ended.

use std::process::ExitStatus;

use tokio::time;

use super::{Phase, Worker};
use crate::{
    failure::FailureReason,
    platform::{self, KILL_CHECK_INTERVAL, KILL_TIMEOUT},
    renderer::error::{self, RenderError},
};

/// Lines that are read from the pipe of a dead Blender: as many as a pipe holds, unless they are very short.
const LAST_LINES_MAX: usize = 4_096;

impl Worker {
    pub(super) async fn silent(&mut self) -> RenderError {
        self.kill().await;
        error::silent("Blender", self.silence)
    }

    pub(super) async fn broken(&mut self, what: &str) -> RenderError {
        self.kill().await;
        RenderError::new(FailureReason::Renderer, format!("Blender {what}"))
    }

    /// Ends a Blender whose worker gave an answer that does not belong to the request.
    pub(super) async fn out_of_turn(&mut self) -> RenderError {
        self.broken("answered out of turn").await
    }

    /// Its output has ended, or it has died: says why.
    pub(super) async fn died(&mut self) -> RenderError {
        let loading = self.phase == Phase::Loading;
        self.phase = Phase::Broken;
        self.died = true;
        // It has closed its output, so nothing that it does afterwards matters.
        let status = time::timeout(KILL_TIMEOUT, self.child.wait()).await;
        // Kill first, because processes that it started could write for ever.
        self.kill().await;
        for _ in 0..LAST_LINES_MAX {
            match time::timeout(KILL_CHECK_INTERVAL, self.errors.next()).await {
                Ok(Some(line)) => self.remember(line),
                Ok(None) | Err(_) => break,
            }
        }
        let Ok(Ok(status)) = status else {
            return RenderError::new(FailureReason::Renderer, "Blender closed its output");
        };
        let how = describe(status);
        let version = self.blender.version;
        // We had not killed it.
        if platform::signal(status) == Some(platform::SIGKILL)
            && platform::out_of_memory_kills() > self.oom_kills
        {
            return self.out_of_memory(&format!("the system killed Blender {version}"));
        }
        if self.tail.iter().any(|line| tells_of_no_memory(line)) {
            return self.out_of_memory(&format!("Blender {version} {how}"));
        }
        if loading {
            return RenderError::new(
                FailureReason::Permanent,
                format!(
                    "Blender {version} {how} while it opened the file: the file is damaged or was saved by a newer Blender"
                ),
            );
        }
        RenderError::new(FailureReason::Renderer, format!("Blender {version} {how}"))
    }
}

impl Worker {
    fn out_of_memory(&self, what: &str) -> RenderError {
        let peak = match self.peak_bytes {
            0 => String::new(),
            bytes => format!(" (peak {} MiB)", bytes >> 20),
        };
        let message = format!("{what}: it ran out of memory{peak}; render on nodes with more");
        RenderError::new(FailureReason::OutOfMemory, message)
    }
}

/// Whether a line says that there was no memory left, of the machine's or of a graphics card's: what Blender, Cycles,
/// C++ and Python write then.
fn tells_of_no_memory(line: &str) -> bool {
    const WORDS: [&str; 5] = [
        "out of memory",
        "out of gpu memory",
        "std::bad_alloc",
        "memoryerror",
        "alloc returns null",
    ];
    let line = line.to_ascii_lowercase();
    WORDS.iter().any(|words| line.contains(words))
}

fn describe(status: ExitStatus) -> String {
    match (platform::signal(status), status.code()) {
        (Some(11), _) => "crashed (segmentation fault)".into(),
        (Some(platform::SIGKILL), _) => "was killed".into(),
        (Some(signal), _) => format!("crashed (signal {signal})"),
        (None, Some(code)) => format!("ended with code {code}"),
        (None, None) => "ended".into(),
    }
}
