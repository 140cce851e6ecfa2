//! A movie is a job of its own. It follows when all frames of its source are finished.

use std::collections::BTreeMap;

use framecrew_blobs::Digest;

use crate::{
    domain::{
        FrameSet, JobId, JobSpec, MovieFormat, MovieOf, Output, Project, ProjectFile, Rendered,
        TimeLimits, Work,
    },
    store::Request,
};

/// Prefix of the request ids of movies' jobs. Clients must not use it.
pub(crate) const REQUEST_PREFIX: &str = "movie-of-";
/// Bytes in a movie's file name without its extension. File systems take 255.
const FILE_NAME_BYTES_MAX: usize = 200;
/// Characters in the extension of an image.
const EXTENSION_MAX: usize = 5;

/// A frame as its movie needs it. It takes about 100 bytes; a job has at most 100,000, as many as a project has files.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Image {
    digest: Digest,
    size_bytes: u64,
    extension: Box<str>,
}

impl Image {
    /// The frame's first output, which of several views is the first.
    pub(crate) fn of(rendered: &Rendered) -> Option<Self> {
        let Output { name, digest, size_bytes, .. } = rendered.outputs.first()?;
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        let is_one = (1..=EXTENSION_MAX).contains(&extension.len())
            && extension.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let extension = if is_one { extension.to_ascii_lowercase() } else { "png".to_owned() };
        Some(Self { digest: *digest, size_bytes: *size_bytes, extension: extension.into() })
    }
}

/// The format of the movie that is to follow from a job.
pub(crate) fn wanted(work: &Work) -> Option<MovieFormat> {
    match work {
        Work::Frames { movie } => *movie,
        Work::Movie { .. } => None,
    }
}

/// The request of a movie's job. Each source has one, so that it has one movie.
pub(crate) fn request(source: JobId) -> Request {
    let request_id = format!("{REQUEST_PREFIX}{source}");
    Request { fingerprint: request_id.clone(), request_id }
}

/// The job that encodes a movie of these images, by frame number. It has the source's project, for its sound.
pub(crate) fn spec(
    job: JobId,
    source: &JobSpec,
    format: MovieFormat,
    images: &BTreeMap<i32, Image>,
) -> JobSpec {
    let images = images.values().zip(1..).map(|(image, index)| ProjectFile {
        path: format!("{}/{index:06}.{}", MovieOf::FOLDER, image.extension),
        digest: image.digest,
        size_bytes: image.size_bytes,
        chunks: Vec::new(),
    });
    let Project { blend_path, files } = &source.project;
    JobSpec {
        project: Project {
            blend_path: blend_path.clone(),
            files: files.iter().cloned().chain(images).collect(),
        },
        frames: FrameSet::one(1),
        work: Work::Movie { format, of: MovieOf { job, frames: source.frames.clone() } },
        // How long an attempt at a movie takes depends on the number of frames.
        limits: TimeLimits { frame_seconds: None, ..source.limits },
        ..source.clone()
    }
}

/// Turns a job's name into a file name that every system accepts.
pub(crate) fn file_name(name: &str) -> String {
    let is_bad = |c: char| {
        c.is_control() || matches!(c, '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')
    };
    let name: String = name.chars().map(|c| if is_bad(c) { '_' } else { c }).collect();
    let name = &name[..name.floor_char_boundary(FILE_NAME_BYTES_MAX)];
    let name = name.trim_matches(|c: char| c.is_whitespace() || c == '.');
    if name.is_empty() { "movie".to_owned() } else { name.to_owned() }
}

/// Whether a path of a project is in the folder of the images.
pub(crate) fn is_in_folder(path: &str) -> bool {
    // Case is ignored, because some file systems ignore it.
    path.split('/').next().is_some_and(|first| first.eq_ignore_ascii_case(MovieOf::FOLDER))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::domain::{FrameRange, RenderSettings};

    fn rendered(name: &str) -> Rendered {
        let output = Output {
            name: name.to_owned(),
            digest: Digest::of(name.as_bytes()),
            size_bytes: 7,
            width: 1,
            height: 1,
            channels: 3,
        };
        Rendered { outputs: vec![output], render_seconds: 1.0, peak_memory_bytes: 0, preview: None }
    }

    #[test]
    fn a_movie_has_the_source_s_files_and_its_frames_in_order() {
        let blend = ProjectFile {
            path: "shot.blend".to_owned(),
            digest: Digest::of(b"blend"),
            size_bytes: 5,
            chunks: Vec::new(),
        };
        let frames = FrameSet::new(vec![
            FrameRange { first: 10, last: 10, step: 1 },
            FrameRange { first: -1, last: 1, step: 2 },
        ]);
        let source = JobSpec {
            name: "shot".to_owned(),
            project: Project { blend_path: "shot.blend".to_owned(), files: vec![blend] },
            frames: frames.unwrap(),
            settings: RenderSettings { scene: "Scene".to_owned(), ..RenderSettings::default() },
            priority: 5,
            tags: vec!["gpu".to_owned()],
            strict: true,
            work: Work::Frames { movie: Some(MovieFormat::Mp4) },
            limits: TimeLimits::default(),
        };
        assert_eq!(wanted(&source.work), Some(MovieFormat::Mp4));
        let images = [(10, "0010.PNG"), (-1, "-0001.png"), (1, "0001")];
        let images = images.map(|(frame, name)| (frame, Image::of(&rendered(name)).unwrap()));
        let movie = spec(JobId(7), &source, MovieFormat::Mp4, &BTreeMap::from(images));
        let files: Vec<_> = movie.project.files.iter().map(|file| &*file.path).collect();
        assert_eq!(
            files,
            [
                "shot.blend",
                "framecrew-frames/000001.png",
                "framecrew-frames/000002.png",
                "framecrew-frames/000003.png"
            ]
        );
        assert_eq!(movie.project.files[1].digest, Digest::of(b"-0001.png"));
        assert_eq!(movie.project.files[3].digest, Digest::of(b"0010.PNG"));
        assert_eq!(movie.frames.iter().collect::<Vec<_>>(), [1]);
        let Work::Movie { of, .. } = &movie.work else { panic!("{:?}", movie.work) };
        assert_eq!(of.frames, source.frames);
        assert_eq!(wanted(&movie.work), None, "no movie follows from a movie");
        assert_eq!((movie.priority, movie.tags), (source.priority, source.tags));
    }

    #[test]
    fn a_movie_has_a_name_that_every_system_accepts() {
        for (name, file) in [
            ("shot", "shot"),
            ("a/b\\c:d", "a_b_c_d"),
            ("  ..  ", "movie"),
            ("Ünïcode 中", "Ünïcode 中"),
            ("trailing. ", "trailing"),
            ("line\nbreak", "line_break"),
        ] {
            assert_eq!(file_name(name), file);
        }
        assert!(file_name(&"é".repeat(200)).len() <= FILE_NAME_BYTES_MAX);
    }

    #[test]
    fn the_folder_of_images_is_recognized_in_any_case() {
        assert!(is_in_folder("framecrew-frames/a.png") && is_in_folder("Framecrew-Frames"));
        assert!(!is_in_folder("a/framecrew-frames/b.png"));
    }
}
