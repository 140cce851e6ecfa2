use clap::Args;

use super::Global;
use crate::console::{Ending, Exit, Failure, Follow, Interrupts, leave};

/// Follow a job until it is over; Ctrl-C leaves it running, twice cancels it
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Number of the job
    #[arg(value_name = "JOB")]
    job_id: u64,
}

impl Watch {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let cluster = global.connect().await?;
        let mut interrupts = Interrupts::listen()?;
        let follow = Follow {
            cluster: &cluster,
            job_id: self.job_id,
            folder: None,
            outlives: true,
            json: global.json,
        };
        match follow.run(&mut interrupts).await? {
            Ending::Over(view) => Ok(Exit::of_job(view.state())),
            Ending::Interrupted { by, is_over } => {
                leave(&follow, by, is_over, &mut interrupts).await
            }
        }
    }
}
