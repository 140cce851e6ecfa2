//! A node's description, and whether it suits a job.

use framecrew_model::BlenderVersion;
use serde::{Deserialize, Serialize};

use super::{job::Requirements, kinds::BlenderKind};

/// The description of a node, as it registers.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct NodeDescription {
    /// Operating system and architecture.
    pub platform: String,
    /// Logical processors.
    pub cores: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Slices that it renders at a time, 1 or more.
    pub slots: u32,
    /// Its Blenders; empty while the node looks for them.
    pub blenders: Vec<Blender>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Version of the node's program.
    pub version: String,
    /// Version of its ffmpeg, or empty.
    #[serde(default)]
    pub ffmpeg: String,
    /// Whether it runs a file's Python.
    #[serde(default)]
    pub allows_scripts: bool,
    /// Whether the operating system confines renderers to their folders.
    #[serde(default)]
    pub confines: bool,
}

/// A Blender on a node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Blender {
    /// Its version; `None` for the synthetic renderer, which renders any file, or while it is unknown.
    pub version: Option<BlenderVersion>,
    /// How the node runs it.
    pub kind: BlenderKind,
    /// Its path on the node.
    pub path: String,
    /// Why it does not start; empty if it starts.
    #[serde(default)]
    pub unusable: String,
}

impl NodeDescription {
    /// Whether the node can render a job with these requirements.
    #[must_use]
    pub fn meets(&self, requirements: &Requirements) -> bool {
        self.takes(requirements)
            && self.blenders.iter().any(|have| have.is_usable() && have.draws(requirements))
    }

    /// Whether the node may still get a Blender for such a job: it is still looking for them, or one is slow or does not
    /// start now and is tried again.
    #[must_use]
    pub fn may_come_to_meet(&self, requirements: &Requirements) -> bool {
        let is_open = |have: &Blender| !have.is_usable() && have.draws(requirements);
        // A node that is still looking does not know its ffmpeg yet either.
        let is_looking = self.blenders.is_empty();
        let ffmpeg = requirements.ffmpeg && !is_looking;
        let known = Requirements { ffmpeg, ..requirements.clone() };
        self.takes(&known) && (is_looking || self.blenders.iter().any(is_open))
    }

    /// Returns why the Blender for such a job does not start on this node; `None` if no suitable one fails.
    #[must_use]
    pub fn why_unable(&self, requirements: &Requirements) -> Option<String> {
        let mut failing = self.blenders.iter().filter(|have| !have.is_usable());
        let failing = failing.find(|have| have.draws(requirements))?;
        self.takes(requirements).then(|| failing.failure())
    }

    /// Whether the node accepts such a job, regardless of its Blenders.
    fn takes(&self, requirements: &Requirements) -> bool {
        let Requirements { tags, ffmpeg, run_scripts, .. } = requirements;
        tags.iter().all(|tag| self.tags.contains(tag))
            && (!ffmpeg || !self.ffmpeg.is_empty())
            && (!run_scripts || self.allows_scripts)
    }
}

impl Blender {
    /// Whether it starts, as reported by the node.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.unusable.is_empty()
    }

    /// Whether it may render such a job. An unknown version counts as suitable.
    fn draws(&self, requirements: &Requirements) -> bool {
        let Requirements { file_version, blender, .. } = requirements;
        self.version.is_none_or(|version| match blender {
            // A requested version may be older than the file.
            Some(wanted) => version.is(*wanted) && version.reads(*file_version),
            None => version.opens(*file_version),
        })
    }

    /// Why it does not start, in a sentence.
    fn failure(&self) -> String {
        match self.version {
            Some(version) => format!("Blender {version} does not start: {}", self.unusable),
            None => self.unusable.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_blender_that_does_not_start_meets_no_requirements() {
        let blender = |version: &str, unusable: &str| Blender {
            version: version.parse().ok(),
            unusable: unusable.into(),
            ..Blender::default()
        };
        let node = |blenders| NodeDescription { blenders, ..NodeDescription::default() };
        let job = Requirements::of_file("3.4".parse().unwrap());
        let broken =
            node(vec![blender("3.4.1", "ModuleNotFoundError: No module named 'encodings'")]);
        assert!(!broken.meets(&job) && broken.may_come_to_meet(&job), "the node tries it again");
        assert_eq!(
            broken.why_unable(&job).unwrap(),
            "Blender 3.4.1 does not start: ModuleNotFoundError: No module named 'encodings'"
        );
        let newer = Requirements::of_file("4.5".parse().unwrap());
        assert_eq!(broken.why_unable(&newer), None, "it is too old anyway");
        assert!(!broken.may_come_to_meet(&newer));
        let scripted = Requirements { run_scripts: true, ..job.clone() };
        assert_eq!(broken.why_unable(&scripted), None);

        let two = node(vec![blender("4.5.15", ""), blender("3.4.1", "Fatal")]);
        assert!(two.meets(&job) && two.meets(&newer), "the other one takes over");
        let slow = node(vec![blender("", "blender has not reported its version within 30 s")]);
        assert!(!slow.meets(&job), "no synthetic renderer");
        assert!(slow.may_come_to_meet(&job) && !slow.may_come_to_meet(&scripted));
        assert_eq!(
            slow.why_unable(&job).unwrap(),
            "blender has not reported its version within 30 s"
        );
        assert!(node(Vec::new()).may_come_to_meet(&job), "it may find one");
    }
}
