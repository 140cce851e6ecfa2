use clap::Args;
use framecrew::{
    Cluster,
    proto::{self, JobState},
    words,
};

use super::global::Global;
use crate::console::{Ending, Exit, Failure, Follow, Interrupts, again, leave_to_others, note};

/// Follow a job until it is over; Ctrl-C leaves it running
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Number of the job
    #[arg(value_name = "JOB", value_parser = super::global::job_number)]
    job_id: u64,
}

impl Watch {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let cluster = global.connect().await?;
        // A watch that finds nobody waits for them to come back; at first contact that would be for ever.
        cluster.job(self.job_id).await?;
        follow(&cluster, self.job_id, global.json).await
    }
}

/// Shows a job until it is over, or the person has seen enough.
pub(super) async fn follow(cluster: &Cluster, job_id: u64, json: bool) -> Result<Exit, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let follow = Follow { cluster, job_id, folder: None, movie: None, outlives: true, json };
    match follow.run(&mut interrupts).await? {
        Ending::Over(view) => {
            tell_of_movie(cluster, view.job());
            Ok(Exit::of_job(view.state()))
        }
        Ending::Interrupted(left) => Ok(leave_to_others(cluster, &left)),
    }
}

/// Says where it goes on with the movie of a job that is finished.
fn tell_of_movie(cluster: &Cluster, job: &proto::Job) {
    if job.state() != JobState::Finished {
        return;
    }
    let fetch = again(cluster, &format!("fetch {} --movie FILE", job.job_id));
    match job.movie_job_id {
        0 if words::makes_movie(job) => note(format_args!("get the movie with `{fetch}`")),
        0 => {}
        making => note(format_args!(
            "job {making} makes its movie: follow it with `{}`, get it with `{fetch}`",
            again(cluster, &format!("watch {making}"))
        )),
    }
}
