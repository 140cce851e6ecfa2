use std::io::Write as _;

use clap::Args;
use clap_mangen::Man as Page;

use crate::console::{Exit, Failure};

/// Print the manual page of this program or of one of its commands, like `framecrew man render`
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The command [default: the program itself]
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

impl Man {
    /// Prints the page in roff to stdout.
    pub(crate) fn run(self, program: clap::Command) -> Result<Exit, Failure> {
        let page = match &self.command {
            None => program,
            Some(name) => {
                let found = program.find_subcommand(name).cloned();
                let found = found.ok_or_else(|| {
                    Failure::usage(format!(
                        "there is no command `{name}`; `framecrew help` lists them"
                    ))
                })?;
                found.display_name(format!("framecrew-{name}"))
            }
        };
        let mut roff = Vec::new();
        Page::new(page).render(&mut roff)?;
        std::io::stdout().lock().write_all(&roff)?;
        Ok(Exit::Success)
    }
}
