//! The `framecrew` command: hands a .blend to a cluster and shows its frames as they happen.

mod commands;
mod console;
mod doctor;

use std::process::ExitCode;

use anyhow::Context as _;

use crate::console::{note, wants_color};

fn main() -> anyhow::Result<ExitCode> {
    let cli = commands::parse();
    framecrew_net::telemetry::init("error", wants_color());
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let exit = runtime.block_on(commands::run(cli)).unwrap_or_else(|failure| {
        if !failure.text.is_empty() {
            note(format_args!("error: {}", failure.text));
        }
        failure.exit
    });
    // What still blocks a thread, like a download that was interrupted, must not keep the person waiting.
    runtime.shutdown_background();
    Ok(ExitCode::from(exit as u8))
}
