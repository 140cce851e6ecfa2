//! The jobs that follow from a finished job. All of it is pure: the driver passes in the finished job and stores the
//! followups in the commit that ends it.

pub(crate) mod movie;

use std::{collections::BTreeMap, sync::Arc};

use self::movie::Image;
use crate::{
    domain::{JobId, JobSpec, Rendered},
    mailbox::NewJob,
    store::{JobRecord, JobStanding},
};

/// What the followups of a job need of its finished frames. It is gathered while the job is open.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// By frame; `None` if no movie follows.
    images: Option<BTreeMap<i32, Image>>,
}

impl Gathered {
    /// Nothing yet, for a job that begins or is read from the store.
    pub(crate) fn new(spec: &JobSpec) -> Self {
        Self { images: movie::is_wanted(spec).then(BTreeMap::new) }
    }

    /// Whether [`Self::add`] must see every finished frame of the job.
    pub(crate) fn needs_frames(&self) -> bool {
        self.images.is_some()
    }

    /// Adds a finished frame.
    pub(crate) fn add(&mut self, frame: i32, rendered: &Rendered) {
        if let Some(images) = &mut self.images
            && let Some(image) = Image::of(rendered)
        {
            images.insert(frame, image);
        }
    }
}

/// Returns the jobs that follow from a finished one.
pub(crate) fn followups(finished: &JobRecord, gathered: &Gathered) -> Vec<NewJob> {
    let movie = gathered.images.as_ref().map(|images| NewJob {
        request: movie::request(finished.job),
        spec: Arc::new(movie::spec(finished.job, &finished.spec, images)),
        file_version: finished.file_version,
    });
    movie.into_iter().collect()
}

/// Records in a finished job that `job` follows from it.
pub(crate) fn link(finished: &mut JobStanding, followup: &JobSpec, job: JobId) {
    if followup.movie_of.is_some() {
        finished.movie_job = Some(job);
    }
}
