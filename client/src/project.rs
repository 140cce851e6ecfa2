//! What a .blend needs: find it, check it, hash it, upload what the cluster does not have.
//!
//! A project is one file so far; a .blend that refers to others renders without them.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use framecrew_blend::{BlendFile, BlenderVersion, Scene};
use framecrew_blobs::{BlobClient, Digest};
use framecrew_proto::v1 as proto;

use crate::{
    cluster::SubmitProgress,
    error::Error,
    frames::{FrameRange, FrameSet},
    spec::JobSpec,
};

/// A .blend that has been read, with the job that is to render it: ready to be submitted.
#[derive(Debug, Clone)]
pub struct Project {
    file: PathBuf,
    digest: Digest,
    size_bytes: u64,
    saved_by: BlenderVersion,
    frames: FrameSet,
    spec: proto::JobSpec,
}

impl Project {
    /// Reads the .blend of `spec`, without Blender, and settles which frames to render.
    ///
    /// # Errors
    /// [`Error::Frames`] when the frames are faulty; [`Error::Project`] when the file cannot be read, is
    /// not a .blend, or does not have the scene.
    pub async fn open(spec: JobSpec) -> Result<Self, Error> {
        match tokio::task::spawn_blocking(|| Self::open_blocking(spec)).await {
            Ok(project) => project,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn open_blocking(spec: JobSpec) -> Result<Self, Error> {
        let frames = spec.frames.clone().transpose()?;
        let file = spec.file.clone();
        let blend = read(&file)?;
        let name = file_name(&file)?;
        let scene = scene(&file, &blend, &spec.settings.scene)?;
        let frames = match frames {
            Some(frames) => frames,
            None => own_frames(&file, scene)?,
        };
        let (digest, size_bytes) =
            Digest::of_file(&file).map_err(|error| unreadable(&file, error))?;
        let spec = proto::JobSpec {
            name: spec.display_name(),
            project: Some(proto::Project {
                blend_path: name.clone(),
                files: vec![proto::ProjectFile {
                    path: name,
                    digest: digest.to_string(),
                    size_bytes,
                    chunks: Vec::new(),
                }],
            }),
            frames: frames.ranges().iter().map(|range| (*range).into()).collect(),
            settings: Some(spec.settings),
            priority: spec.priority,
            tags: spec.tags,
            strict: spec.strict,
            movie: spec.movie.map(|format| proto::Movie { format: format.into() }),
            movie_of_job_id: 0,
        };
        Ok(Self { file, digest, size_bytes, saved_by: blend.version, frames, spec })
    }

    /// The frames to render.
    #[must_use]
    pub fn frames(&self) -> &FrameSet {
        &self.frames
    }

    /// Size of the .blend in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The Blender that saved the .blend; no older one can open it.
    #[must_use]
    pub fn saved_by(&self) -> BlenderVersion {
        self.saved_by
    }

    /// The job as it is submitted.
    #[must_use]
    pub fn spec(&self) -> &proto::JobSpec {
        &self.spec
    }

    /// Uploads the file unless the cluster has it.
    pub(crate) async fn upload(
        &self,
        url: &str,
        blobs: &BlobClient,
        on_progress: &mut (impl FnMut(SubmitProgress) + Send),
    ) -> Result<(), Error> {
        let missing = blobs.find_missing(&[self.digest]).await;
        if missing.map_err(|error| Error::from_transfer(url, error))?.is_empty() {
            return Ok(());
        }
        let total_bytes = self.size_bytes;
        let sent = blobs.upload_file(&self.file, self.digest, total_bytes, |sent_bytes| {
            on_progress(SubmitProgress::Uploading { sent_bytes, total_bytes });
        });
        sent.await.map_err(|error| Error::from_transfer(url, error))
    }
}

/// The file's name inside the project: its own, but for what no project path may have on any system.
fn file_name(file: &Path) -> Result<String, Error> {
    let name = file.file_name().and_then(|name| name.to_str());
    let portable = |name: &str| {
        let forbidden = |c: char| matches!(c, ':' | '\\') || c.is_control();
        name.replace(forbidden, "_")
    };
    name.map(portable).ok_or_else(|| Error::Project {
        path: file.into(),
        message: "names no file that every machine could have; name a .blend, in letters that are Unicode".into(),
        source: None,
    })
}

fn read(file: &Path) -> Result<BlendFile, Error> {
    let metadata = file.metadata().map_err(|error| unreadable(file, error))?;
    if metadata.is_dir() {
        return Err(Error::Project {
            path: file.into(),
            message: "is a folder; name the .blend in it".into(),
            source: None,
        });
    }
    let open = File::open(file).map_err(|error| unreadable(file, error))?;
    framecrew_blend::read(open).map_err(|error| Error::Project {
        path: file.into(),
        message: format!("cannot be rendered: {error}"),
        source: None,
    })
}

fn unreadable(file: &Path, error: io::Error) -> Error {
    let message = match error.kind() {
        io::ErrorKind::NotFound => "does not exist; check the path of the .blend".to_owned(),
        _ => format!("cannot be read ({error}); check the path and its permissions"),
    };
    Error::Project { path: file.into(), message, source: Some(Box::new(error)) }
}

/// The scene to render, which must exist whether or not its range is used.
fn scene<'a>(file: &Path, blend: &'a BlendFile, wanted: &str) -> Result<&'a Scene, Error> {
    let found = match wanted {
        "" => blend.active(),
        name => blend.scenes.iter().find(|scene| scene.name == name),
    };
    found.ok_or_else(|| {
        let names: Vec<_> = blend.scenes.iter().map(|scene| format!("`{}`", scene.name)).collect();
        let message = if names.is_empty() {
            "has no scene to render; name the .blend that uses it".into()
        } else {
            format!("has no scene `{wanted}`; name one of {} with --scene", names.join(", "))
        };
        Error::Project { path: file.into(), message, source: None }
    })
}

/// The range and step that were set in Blender.
fn own_frames(file: &Path, scene: &Scene) -> Result<FrameSet, Error> {
    let range = FrameRange::new(scene.first, scene.last, scene.step);
    range.and_then(|range| FrameSet::new(vec![range])).map_err(|error| Error::Project {
        path: file.into(),
        message: format!(
            "has an animation that cannot be rendered as it is: {error}, or name frames with -f"
        ),
        source: None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn demo() -> JobSpec {
        JobSpec::animation(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.blend"))
    }

    #[tokio::test]
    async fn without_frames_the_files_own_are_rendered() {
        let project = Project::open(demo()).await.unwrap();
        assert_eq!(project.frames().to_string(), "1-24");
        assert_eq!(project.spec().name, "demo");
    }

    #[tokio::test]
    async fn frames_that_are_named_go_before_the_files_own() {
        let project = Project::open(demo().frames("3,5-9x2")).await.unwrap();
        assert_eq!(project.frames().to_string(), "3,5-9x2");
        assert_eq!(project.spec().frames.len(), 2);
    }

    #[tokio::test]
    async fn a_project_names_its_content() {
        let project = Project::open(demo()).await.unwrap();
        let file = &project.spec().project.as_ref().unwrap().files[0];
        let bytes = std::fs::read(project.file.clone()).unwrap();
        assert_eq!(file.digest, Digest::of(&bytes).to_string());
        assert_eq!(file.size_bytes, bytes.len() as u64);
        assert_eq!(file.path, "demo.blend");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_name_that_not_every_system_allows_is_changed_inside_the_project() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shot 12:30.blend");
        std::fs::copy(demo().file(), &file).unwrap();
        let project = Project::open(JobSpec::animation(&file)).await.unwrap();
        let blend_path = project.spec().project.as_ref().unwrap().blend_path.clone();
        assert!(blend_path.parse::<framecrew_blobs::ProjectPath>().is_ok());
        assert_eq!(blend_path, "shot 12_30.blend");
    }

    #[tokio::test]
    async fn a_scene_that_is_not_there_is_refused_with_those_that_are() {
        let text = Project::open(demo().scene("Nowhere")).await.unwrap_err().to_string();
        assert!(text.contains("no scene `Nowhere`") && text.contains("--scene"), "{text}");
    }

    #[tokio::test]
    async fn faulty_frames_are_found_before_the_file_is_read() {
        let spec = JobSpec::animation("/nowhere.blend").frames("9-1");
        assert!(matches!(Project::open(spec).await, Err(Error::Frames(_))));
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        for path in
            [folder.path().join("gone.blend"), folder.path().to_owned(), PathBuf::from("..")]
        {
            let error = Project::open(JobSpec::animation(&path)).await.unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, Error::Project { .. }), "{text}");
            assert!(text.starts_with(&path.display().to_string()), "{text}");
        }
    }
}
