//! The jobs that follow from a finished job. All of it is pure: the driver passes in the finished job and stores the
//! followups in the commit that ends it.

pub(crate) mod movie;

use std::{collections::BTreeMap, sync::Arc};

use self::movie::Image;
use crate::{
    domain::{JobId, JobSpec, MovieFormat, Rendered, Work},
    mailbox::NewJob,
    store::{JobRecord, JobStatus},
};

/// What the followups of a job need of its finished frames. It is gathered while the job is open.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// For the movie that follows: its format, and the images by frame.
    movie: Option<(MovieFormat, BTreeMap<i32, Image>)>,
}

impl Gathered {
    /// Nothing yet, for a job that begins or is read from the store.
    pub(crate) fn new(spec: &JobSpec) -> Self {
        Self { movie: movie::wanted(&spec.work).map(|format| (format, BTreeMap::new())) }
    }

    /// Whether [`Self::add`] must see every finished frame of the job.
    pub(crate) fn needs_frames(&self) -> bool {
        self.movie.is_some()
    }

    /// Adds a finished frame.
    pub(crate) fn add(&mut self, frame: i32, rendered: &Rendered) {
        if let Some((_, images)) = &mut self.movie
            && let Some(image) = Image::of(rendered)
        {
            images.insert(frame, image);
        }
    }
}

/// Returns the jobs that follow from a finished one.
pub(crate) fn followups(finished: &JobRecord, gathered: &Gathered) -> Vec<NewJob> {
    let movie = gathered.movie.as_ref().map(|(format, images)| NewJob {
        request: movie::request(finished.job),
        spec: Arc::new(movie::spec(finished.job, &finished.spec, *format, images)),
        file_version: finished.file_version,
    });
    movie.into_iter().collect()
}

/// Records in a finished job that `job` follows from it.
pub(crate) fn link(finished: &mut JobStatus, followup: &JobSpec, job: JobId) {
    if matches!(followup.work, Work::Movie { .. }) {
        finished.movie_job = Some(job);
    }
}
