//! Logs: to stderr, as `FRAMECREW_LOG` asks.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

/// Sets up logging for this process: `FRAMECREW_LOG` chooses what is logged, as in `info` or `framecrew_node=debug`;
/// without it `default` does. Colours only on a terminal, and only with `color`.
///
/// # Panics
/// When the process has logging set up already.
pub fn init(default: &str, color: bool) {
    let filter =
        EnvFilter::try_from_env("FRAMECREW_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(color && io::stderr().is_terminal())
        .init();
}
