use std::io::Write as _;

use clap::Args;
use clap_complete::{Shell, generate};

use crate::console::{Exit, Failure};

/// Print completions for a shell, like `framecrew completions bash`
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    /// Prints what completes `program` to stdout.
    pub(crate) fn run(self, program: &mut clap::Command) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        let name = program.get_name().to_owned();
        generate(self.shell, program, name, &mut script);
        std::io::stdout().lock().write_all(&script)?;
        Ok(Exit::Success)
    }
}
