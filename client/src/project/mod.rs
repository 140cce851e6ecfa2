//! What a .blend needs: find it, lay it out, hash it, upload what the cluster does not have.
//!
//! `stored` knows where Blender looks for a path, `files` finds what is there, `media` decides which files may
//! leave this machine, and `collection` follows the .blend to its libraries and theirs. `usd` and `shaders` read which
//! files a file names. `layout` assigns each file its place and each path its new text. `admission` and `notes` report what prevents a job and what a person
//! should know, and `order` decides whether one node draws the frames. `content` hashes and sends files, and
//! `digests` remembers their hashes.

mod addons;
pub(crate) mod admission;
pub(crate) mod collection;
pub(crate) mod color;
mod content;
mod digests;
pub(crate) mod files;
mod gaps;
pub(crate) mod layout;
mod media;
mod missing;
pub(crate) mod notes;
pub(crate) mod order;
mod outputs;
pub(crate) mod script_pictures;
mod shaders;
pub(crate) mod stored;
mod usd;

use framecrew_blend::{BlenderVersion, Scene};
use framecrew_proto::v1 as proto;

pub(crate) use content::Content;

use self::{
    collection::{Collection, fault},
    color::{ColorConfig, OfEnvironment},
    layout::Layout,
    outputs::LikelyNames,
};
use framecrew_model::FrameSet;

use crate::{error::Error, folder::OutputFolder, progress::SubmitProgress, spec::JobSpec};

/// A .blend with all it needs and the job that is to render it: ready to be submitted.
#[derive(Debug, Clone)]
pub struct Project {
    layout: Layout,
    saved_by: BlenderVersion,
    frames: FrameSet,
    likely_names: Option<LikelyNames>,
    spec: proto::JobSpec,
    notes: Vec<String>,
    unbaked: bool,
}

impl Project {
    /// Reads the .blend of `spec`, without Blender, finds all that it and its libraries need, and settles which
    /// frames to render.
    ///
    /// # Errors
    /// [`Error::Frames`] when the frames are faulty; [`Error::Project`] when the file cannot be read, is
    /// not a .blend, cannot be rendered as asked, or needs what cannot be sent.
    pub async fn open(spec: JobSpec) -> Result<Self, Error> {
        match tokio::task::spawn_blocking(|| Self::open_blocking(spec)).await {
            Ok(project) => project,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn open_blocking(mut spec: JobSpec) -> Result<Self, Error> {
        spec.frames.clone().transpose()?;
        spec.check_limits()?;
        let file = spec.file.clone();
        if file.file_name().and_then(|name| name.to_str()).is_none() && !file.is_dir() {
            return Err(fault(
                &file,
                "has a name that is not valid Unicode, so other machines cannot use it; rename the file",
            ));
        }
        let mut collection =
            Collection::of(&file, &spec.settings.scene, &spec.settings.view_layer)?;
        let frames = admission::admit(&collection.main().survey.file, &spec)
            .map_err(|message| fault(&file, message))?;
        collection.note_gaps(&frames);
        let blend = &collection.main().survey.file;
        let fixed = script_pictures::fixed(&collection);
        if spec.strict
            && let Some(lacking) = missing::missing(&collection).or(fixed.clone())
        {
            return Err(fault(&file, format!("is not rendered, because of --strict: {lacking}")));
        }
        let unbaked = order::unbaked(&collection);
        if let Some(message) = order::fault(&spec, &frames, &unbaked) {
            return Err(fault(&file, message));
        }
        let scene = admission::scene(blend, &spec.settings.scene);
        let scene = scene.map_err(|message| fault(&file, message))?;
        if let Some(message) = order::fault_of_not_simulated(&spec, &frames, &collection, scene) {
            return Err(fault(&file, message));
        }
        let mut layout = Layout::of(&collection, spec.follow_links)?;
        spec.settings.in_order = order::in_order(&spec, &frames, &unbaked);
        let mut notes = notes::notes(&collection, Some(&layout), Some(scene), &spec);
        notes.extend(fixed);
        let addons = addons::load(&spec.addons)?;
        spec.settings.addons = addons.iter().map(|addon| addon.place.clone()).collect();
        layout.add(addons)?;
        if let Some(config) = color_config(&collection, scene, &spec, &mut notes)? {
            spec.settings.color_config = config.place;
            layout.add(config.files)?;
        }
        let unbaked = !unbaked.is_empty();
        let likely_names = LikelyNames::of(scene, &spec.settings, &frames);
        let job = proto::JobSpec {
            name: spec.display_name(),
            project: None,
            frames: frames.ranges().iter().map(|range| (*range).into()).collect(),
            settings: Some(spec.settings),
            priority: spec.priority,
            tags: spec.tags,
            strict: spec.strict,
            movie: spec.movie.map(|format| proto::Movie { format: format.into() }),
            movie_of_job_id: 0,
            limits: Some(spec.limits).filter(|limits| *limits != proto::TimeLimits::default()),
        };
        Ok(Self {
            saved_by: blend.version,
            layout,
            frames,
            likely_names,
            spec: job,
            notes,
            unbaked,
        })
    }

    /// The frames to render.
    #[must_use]
    pub fn frames(&self) -> &FrameSet {
        &self.frames
    }

    /// Returns an error if the folder contains files that the frames' files are likely to replace, and that
    /// Framecrew did not write or that were changed since. Blocks.
    ///
    /// # Errors
    /// [`Error::InTheWay`].
    pub fn check_folder(&self, folder: &OutputFolder) -> Result<(), Error> {
        let Some(names) = &self.likely_names else { return Ok(()) };
        folder.check_free(|name| names.contain(name))
    }

    /// How many files it has.
    #[must_use]
    pub fn file_count(&self) -> usize {
        self.layout.files.len()
    }

    /// Size of all its files in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.layout.size_bytes()
    }

    /// The version of the Blender that saved the .blend. An older one may lose some of it.
    #[must_use]
    pub fn saved_by(&self) -> BlenderVersion {
        self.saved_by
    }

    /// The oldest version that may draw it: the one that was requested, otherwise the one that saved it.
    #[must_use]
    pub fn needs(&self) -> BlenderVersion {
        let settings = self.spec.settings.as_ref();
        let wanted = settings.and_then(|settings| admission::asked_for(&settings.blender));
        wanted.unwrap_or(self.saved_by)
    }

    /// The job as it is submitted, but for the project: the hashes of its files are made when it is.
    #[must_use]
    pub fn spec(&self) -> &proto::JobSpec {
        &self.spec
    }

    /// What a person should know before frames are paid for: missing files, Python that will not run, and the
    /// like. A sentence each, with a list on lines of its own below it.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether a simulation that is drawn is not baked, so that a frame is only right after all frames before it.
    #[must_use]
    pub fn unbaked(&self) -> bool {
        self.unbaked
    }

    /// Reads all files.
    pub(crate) async fn content(
        &self,
        on_progress: &mut (impl FnMut(SubmitProgress) + Send),
    ) -> Result<Content, Error> {
        Content::of(&self.layout, on_progress).await
    }
}

/// The colour configuration to send: the named one, or the environment's if the file needs it.
fn color_config(
    collection: &Collection,
    scene: &Scene,
    spec: &JobSpec,
    notes: &mut Vec<String>,
) -> Result<Option<ColorConfig>, Error> {
    if let Some(named) = &spec.color_config {
        return color::load(named).map(Some);
    }
    let unknown = color::unknown_names(collection, scene);
    let Some(ocio) = color::environment() else {
        let Some(text) = color::unknown(&unknown) else { return Ok(None) };
        if spec.strict {
            let path = &collection.main().path;
            return Err(fault(path, format!("is not rendered, because of --strict: {text}")));
        }
        notes.push(text);
        return Ok(None);
    };
    match color::of_environment(collection, scene, &ocio) {
        OfEnvironment::Needed(config, needed) => {
            notes.push(format!(
                "the colour configuration of OCIO ({}) is sent, too: it has {}",
                ocio.display(),
                needed.join(", ")
            ));
            Ok(Some(config))
        }
        OfEnvironment::Unreadable(text) if spec.strict => {
            let path = &collection.main().path;
            Err(fault(path, format!("is not rendered, because of --strict: {text}")))
        }
        OfEnvironment::Stays(text) | OfEnvironment::Unreadable(text) => {
            notes.push(text);
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::PathBuf;

    use framecrew_blobs::{Digest, ProjectPath};

    use super::*;

    fn demo() -> JobSpec {
        JobSpec::animation(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.blend"))
    }

    async fn content(spec: JobSpec) -> proto::Project {
        Project::open(spec).await.unwrap().content(&mut |_| {}).await.unwrap().project()
    }

    #[tokio::test]
    async fn without_frames_the_files_own_are_rendered() {
        let project = Project::open(demo()).await.unwrap();
        assert_eq!(project.frames().to_string(), "1-24");
        assert_eq!(project.spec().name, "demo");
        assert!(project.notes().is_empty(), "{:?}", project.notes());
    }

    #[tokio::test]
    async fn frames_that_are_named_go_before_the_files_own() {
        let project = Project::open(demo().frames("3,5-9x2")).await.unwrap();
        assert_eq!(project.frames().to_string(), "3,5-9x2");
        assert_eq!(project.spec().frames.len(), 2);
    }

    #[tokio::test]
    async fn a_project_names_its_content() {
        let bytes = std::fs::read(demo().file()).unwrap();
        let project = content(demo()).await;
        let [file] = &project.files[..] else { panic!("{project:?}") };
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
        let blend_path = content(JobSpec::animation(&file)).await.blend_path;
        assert!(blend_path.parse::<ProjectPath>().is_ok());
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
