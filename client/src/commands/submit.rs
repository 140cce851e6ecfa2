//! A submission with its progress on the terminal.

use framecrew::{Cluster, Job, Project, SubmitProgress, words};

use crate::console::{Failure, ProgressLine, note};

/// Uploads and submits, and shows how far that is.
pub(super) async fn submit(cluster: &Cluster, project: &Project) -> Result<Job, Failure> {
    let mut line = ProgressLine::default();
    let mut told = String::new();
    let files = format!("reading {}", words::plural(project.file_count() as u64, "file"));
    let show = |progress| match progress {
        SubmitProgress::Hashing { done_bytes, total_bytes } => {
            line.show(&files, done_bytes, total_bytes);
        }
        SubmitProgress::Uploading { sent_bytes, total_bytes } => {
            line.show("uploading", sent_bytes, total_bytes);
        }
        SubmitProgress::Waiting { reason, .. } => {
            if told != reason {
                line.clear();
                note(format_args!("{reason}; trying again for a minute …"));
                told = reason;
            }
        }
    };
    let submitted = cluster.submit_project(project, show).await;
    line.clear();
    Ok(submitted?)
}
