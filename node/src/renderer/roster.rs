//! Keeps track of a node's Blenders and of which of them start.

use std::{cmp::Reverse, path::Path};

use super::error::RenderError;
use crate::{
    blender::{FoundBlender, Offered, Unsure},
    failure::FailureReason,
    version::{Version, matches_prefix},
};

/// Failed starts in a row after which a Blender that used to start gets no more frames.
pub(super) const FAILED_STARTS_MAX: u32 = 3;

/// The Blenders of a node.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// Ordered from newest to oldest.
    known: Vec<Known>,
    /// Programs that may be Blenders, but have not answered yet or do not run.
    unsure: Vec<Unsure>,
}

#[derive(Debug)]
struct Known {
    blender: FoundBlender,
    standing: Standing,
}

/// What is known about whether a Blender starts within the walls, with a job's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// It has not been started.
    Unproved,
    /// Its start is taking longer than the node waits before it announces its Blenders.
    Slow,
    /// It starts. Since its last start it has failed this many times in a row.
    Starts { failed: u32 },
    /// It does not start, for this reason.
    Fails(String),
}

impl Standing {
    fn is_usable(&self) -> bool {
        !matches!(self, Self::Fails(_))
    }
}

impl Roster {
    pub(super) fn add(&mut self, more: Vec<FoundBlender>) {
        for blender in more {
            self.unsure.retain(|unsure| unsure.path != blender.path);
            // Two slots may have waited for the same one.
            if !self.known.iter().any(|known| known.blender == blender) {
                self.known.push(Known { blender, standing: Standing::Unproved });
            }
        }
        self.known.sort_by_key(|known| (Reverse(known.blender.version), known.blender.kind));
    }

    /// Replaces the programs that may be Blenders.
    pub(super) fn set_unsure(&mut self, unsure: Vec<Unsure>) {
        self.unsure = unsure;
    }

    pub(super) fn unsure(&self) -> &[Unsure] {
        &self.unsure
    }

    pub(super) fn blenders(&self) -> Vec<FoundBlender> {
        self.known.iter().map(|known| known.blender.clone()).collect()
    }

    /// Returns the Blenders that have not started yet, or failed at the last attempt.
    pub(super) fn unproved(&self) -> Vec<FoundBlender> {
        let starts = |known: &&Known| !matches!(known.standing, Standing::Starts { .. });
        self.known.iter().filter(starts).map(|known| known.blender.clone()).collect()
    }

    /// Records that a Blender has started. Returns whether that is news for others.
    pub(super) fn started(&mut self, path: &Path) -> bool {
        self.change(path, |_| Standing::Starts { failed: 0 })
    }

    /// Records that a Blender did not start. One that used to start is given up after several failures, or at once
    /// if `for_good`. Returns whether that is news for others.
    pub(super) fn failed(&mut self, path: &Path, why: &str, for_good: bool) -> bool {
        self.change(path, |standing| match standing {
            Standing::Starts { failed } if !for_good && failed + 1 < FAILED_STARTS_MAX => {
                Standing::Starts { failed: failed + 1 }
            }
            _ => Standing::Fails(why.to_owned()),
        })
    }

    /// Marks Blenders that have not finished starting as slow. Returns whether that is news for others.
    pub(super) fn call_slow(&mut self) -> bool {
        let unproved = self.known.iter_mut().filter(|known| known.standing == Standing::Unproved);
        unproved.map(|known| known.standing = Standing::Slow).count() > 0
    }

    fn change(&mut self, path: &Path, to: impl Fn(&Standing) -> Standing) -> bool {
        let mut is_news = false;
        for known in self.known.iter_mut().filter(|known| known.blender.path == path) {
            let next = to(&known.standing);
            let was_usable = matches!(known.standing, Standing::Starts { .. });
            is_news |= was_usable != matches!(next, Standing::Starts { .. })
                || (!was_usable && known.standing != next);
            known.standing = next;
        }
        is_news
    }

    pub(super) fn describe(&self) -> Vec<Offered> {
        let known = self.known.iter().map(|known| {
            let described = Offered::from(&known.blender);
            match &known.standing {
                Standing::Starts { .. } => described,
                Standing::Fails(why) => Offered { unusable: why.clone(), ..described },
                // No version is announced, so that jobs may still wait for this Blender.
                Standing::Unproved | Standing::Slow => Offered {
                    version: None,
                    unusable: format!(
                        "Blender {} has not started yet; the node keeps trying",
                        known.blender.version
                    ),
                    ..described
                },
            }
        });
        known.chain(self.unsure.iter().map(Unsure::describe)).collect()
    }

    /// Chooses the Blender for a file among those that start, that the job allows, and that are not older than the
    /// file. It takes the series closest to the file's, because a newer one may draw the scene differently from
    /// what its author saw, and the latest patch of that series. For a file of unknown version it takes the
    /// newest. It takes an older Blender, which may lose some of the file, only if the job asks for it and no
    /// other fits.
    pub(super) fn choose(
        &self,
        file: Option<Version>,
        wanted: &str,
    ) -> Result<FoundBlender, RenderError> {
        let usable: Vec<_> = self.known.iter().filter(|known| known.standing.is_usable()).collect();
        if let Some(best) = best(&usable, |known| known.blender.version, file, wanted) {
            return Ok(best.blender.clone());
        }
        // Not a permanent failure, because the Blender is tried again.
        if let Some(known) = best(&self.known, |known| known.blender.version, file, wanted)
            && let Standing::Fails(why) = &known.standing
        {
            let version = known.blender.version;
            return Err(RenderError::new(
                FailureReason::Infrastructure,
                format!("Blender {version} of this node does not start: {why}"),
            ));
        }
        let have: Vec<_> = usable.iter().map(|known| known.blender.version.to_string()).collect();
        let have = if have.is_empty() { "none".into() } else { have.join(", ") };
        let wanted = if wanted.is_empty() { "any Blender" } else { wanted };
        let file = file.map_or(String::new(), |v| format!(" not older than the file's {v}"));
        Err(RenderError::new(
            FailureReason::Permanent,
            format!("the job needs {wanted}{file}, but this node has {have}"),
        ))
    }
}

/// Returns the best of some Blenders, which are ordered from newest to oldest.
pub(super) fn best<'a, T>(
    of: &'a [T],
    version: impl Fn(&T) -> Version,
    file: Option<Version>,
    wanted: &str,
) -> Option<&'a T> {
    let wanted_one = |blender: &&T| wanted.is_empty() || matches_prefix(version(blender), wanted);
    let mut allowed = of.iter().filter(wanted_one);
    let Some(file) = file else { return allowed.next() };
    let series = |blender: &T| version(blender).series();
    // The order is newest first, so the first one of the lowest series is its latest patch.
    let not_older = allowed.clone().filter(|blender| series(blender) >= file.series());
    not_older
        .min_by_key(|blender| series(blender))
        .or_else(|| allowed.next().filter(|_| !wanted.is_empty()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::PathBuf;

    use super::*;
    use crate::blender::Kind;

    fn roster(versions: &[&str]) -> Roster {
        let found = versions.iter().map(|version| FoundBlender {
            version: version.parse().unwrap(),
            kind: Kind::Executable,
            path: version.into(),
        });
        let mut roster = Roster::default();
        roster.add(found.collect());
        roster
    }

    fn chosen(versions: &[&str], file: &str, wanted: &str) -> Option<String> {
        let chosen = roster(versions).choose(file.parse().ok(), wanted);
        chosen.ok().map(|blender| blender.version.to_string())
    }

    #[test]
    fn the_series_closest_to_the_file_draws_it() {
        let have = ["3.4.1", "4.5.15", "4.5.2", "5.0.1"];
        assert_eq!(chosen(&have, "3.4", "").unwrap(), "3.4.1");
        assert_eq!(chosen(&have, "3.6", "").unwrap(), "4.5.15");
        assert_eq!(chosen(&have, "4.5", "").unwrap(), "4.5.15");
        assert_eq!(chosen(&have, "", "").unwrap(), "5.0.1");
    }

    #[test]
    fn the_job_may_ask_for_a_version() {
        let have = ["3.4.1", "4.5.15", "5.0.1"];
        assert_eq!(chosen(&have, "3.4", "5").unwrap(), "5.0.1");
        assert_eq!(chosen(&have, "3.4", "4.5").unwrap(), "4.5.15");
        assert_eq!(chosen(&have, "3.4", "4.2"), None);
    }

    #[test]
    fn a_blender_older_than_the_file_opens_it_only_on_request() {
        assert_eq!(chosen(&["3.4.1"], "4.5", ""), None);
        assert_eq!(chosen(&["3.4.1", "5.0.1"], "4.5", "3.4").unwrap(), "3.4.1");
        assert_eq!(chosen(&["3.4.1", "3.6.2", "3.6.9"], "3.6", "3").unwrap(), "3.6.9");
        assert_eq!(chosen(&["3.3.1", "3.4.1"], "3.6", "3").unwrap(), "3.4.1");
        assert_eq!(chosen(&[], "3.4", ""), None);
        assert_eq!(chosen(&["3.4.1"], "3.6", "3.6"), None);
    }

    #[test]
    fn another_blender_takes_over_for_one_that_does_not_start() {
        let mut roster = roster(&["3.4.1", "4.5.15"]);
        let (file, old) = ("3.4".parse().ok(), Path::new("3.4.1"));
        assert!(roster.failed(old, "Fatal", false), "it has never started");
        assert_eq!(roster.choose(file, "").unwrap().version.to_string(), "4.5.15");
        assert_eq!(roster.describe()[1].unusable, "Fatal");
        let error = roster.choose(file, "3.4").unwrap_err();
        assert_eq!(error.reason, FailureReason::Infrastructure, "it may start again");
        assert_eq!(error.message, "Blender 3.4.1 of this node does not start: Fatal");
        assert!(roster.started(old));
        assert_eq!(roster.choose(file, "").unwrap().version.to_string(), "3.4.1");
        assert_eq!(roster.describe()[1].unusable, "");
    }

    #[test]
    fn a_blender_that_has_started_before_may_fail_twice_in_a_row() {
        let mut roster = roster(&["3.4.1"]);
        let path = Path::new("3.4.1");
        assert!(roster.started(path));
        for _ in 0..5 {
            assert!(!roster.failed(path, "busy", false));
            assert!(!roster.failed(path, "busy", false));
            assert!(!roster.started(path));
        }
        assert!(!roster.failed(path, "busy", false) && !roster.failed(path, "busy", false));
        assert!(roster.failed(path, "busy", false));
        assert!(!roster.failed(path, "busy", false), "no news");
        assert!(roster.failed(path, "gone", false), "another reason is");
        assert_eq!(roster.unproved().len(), 1, "it is tried again");
        assert!(roster.started(path));
        assert!(roster.failed(path, "no answer", true), "at once where waiting has no end");
    }

    #[test]
    fn an_unproved_blender_is_announced_without_a_version() {
        let mut roster = roster(&["3.4.1", "4.5.15"]);
        assert!(roster.started(Path::new("4.5.15")));
        assert!(roster.call_slow());
        let described = roster.describe();
        assert_eq!(described[0].unusable, "");
        assert_eq!(described[1].version, None);
        assert!(described[1].unusable.contains("3.4.1 has not started yet"), "{described:?}");
        let silent = Unsure { path: PathBuf::from("b"), why: "silence".into(), is_silent: true };
        roster.set_unsure(vec![silent]);
        assert_eq!(roster.describe()[2].unusable, "silence");
        let found = FoundBlender {
            version: "5.0.1".parse().unwrap(),
            kind: Kind::Executable,
            path: "b".into(),
        };
        roster.add(vec![found]);
        assert!(roster.unsure().is_empty());
    }
}
