//! Fetches a Blender when a job needs one that this machine lacks.

use std::{env, ops::ControlFlow, path::PathBuf};

use tokio::{sync::mpsc, task};
use tokio_util::sync::CancellationToken;

use super::{
    Asked, FoundBlender, InstallError, Offered, OfferedKind, ProvisionError, ProvisionProgress,
    ask, install_libraries, missing_libraries, provision_version, provisionable,
};
use crate::version::Version;

/// Reports that may wait to be told; beyond it fetching waits.
const REPORTS_MAX: usize = 16;

/// Blenders that can be fetched as modules, and where to.
#[derive(Debug)]
pub(crate) struct Fetcher {
    cache: PathBuf,
    /// Newest first.
    versions: Vec<Version>,
}

/// Why a Blender was not fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    #[error(transparent)]
    Libraries(#[from] InstallError),
    #[error("Blender {0} was fetched into the cache, but does not start")]
    DoesNotStart(Version),
    #[error("fetching Blender {0} ended on its own")]
    Panicked(Version),
}

impl Fetcher {
    /// Looks which versions can be fetched into `cache`. Blocks.
    pub(crate) fn new(cache: PathBuf) -> Self {
        Self { cache, versions: provisionable() }
    }

    /// The versions, newest first.
    pub(crate) fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// What the node tells the cluster about the Blenders that it could have besides those it `has`.
    pub(crate) fn describe(&self, has: &[FoundBlender]) -> Vec<Offered> {
        let lacks = |version: &&Version| !has.iter().any(|blender| blender.version == **version);
        let lacking = self.versions.iter().copied().filter(|version| lacks(&version));
        let offer = |version| Offered {
            version: Some(version),
            ..Offered::new(OfferedKind::Provisionable)
        };
        lacking.map(offer).collect()
    }

    /// Fetches a version and tells what is done, as lines for people. Dropping the future ends it; what the cache
    /// has already is used.
    pub(crate) async fn fetch(
        &self,
        version: Version,
        mut tell: impl FnMut(String),
    ) -> Result<FoundBlender, FetchError> {
        let (cache, ended) = (self.cache.clone(), CancellationToken::new());
        let _end_with_us = ended.clone().drop_guard();
        let (report, mut reports) = mpsc::channel(REPORTS_MAX);
        let fetching = task::spawn_blocking(move || {
            let mut teller = Teller::default();
            let fetched = provision_version(&cache, version, |progress| {
                if let Some(line) = teller.line(&progress) {
                    let _ = report.blocking_send(line);
                }
                if ended.is_cancelled() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })?;
            let missing = missing_libraries(&fetched);
            let installed = install_libraries(&missing, |command| {
                let _ = report
                    .blocking_send(format!("Blender lacks system libraries: running `{command}`"));
            });
            match installed {
                // Cycles draws without them.
                Err(error) if missing.iter().all(|library| library.only_for_eevee) => {
                    let _ =
                        report.blocking_send(format!("EEVEE and Workbench may not draw: {error}"));
                }
                installed => installed?,
            }
            match ask(&fetched.path, &env::temp_dir()) {
                Asked::Blender(blender) => Ok(blender),
                Asked::Unsure(_) | Asked::Other => Err(FetchError::DoesNotStart(version)),
            }
        });
        while let Some(line) = reports.recv().await {
            tell(line);
        }
        fetching.await.unwrap_or(Err(FetchError::Panicked(version)))
    }
}

/// Words progress for people, a line for every ten percent.
#[derive(Debug, Default)]
pub struct Teller {
    last: Option<(&'static str, u64)>,
}

impl Teller {
    /// The line for this progress, if it is worth one.
    pub fn line(&mut self, progress: &ProvisionProgress) -> Option<String> {
        const MB: u64 = 1_000_000;
        let (what, done, total) = match progress {
            ProvisionProgress::Begin { what, folder, download_bytes, installed_bytes } => {
                let (download, installed) = (download_bytes / MB, installed_bytes / MB);
                let folder = folder.display();
                return Some(format!(
                    "installing {what} into {folder}: {download} MB to download, {installed} MB on disk"
                ));
            }
            ProvisionProgress::Downloading { done_bytes, total_bytes } => {
                ("downloading", done_bytes, total_bytes)
            }
            ProvisionProgress::Installing { done_bytes, total_bytes } => {
                ("installing", done_bytes, total_bytes)
            }
        };
        let percent = done * 10 / (*total).max(1) * 10;
        let is_news = self.last.replace((what, percent)) != Some((what, percent));
        is_news.then(|| format!("{what} Blender: {} of about {} MB", done / MB, total / MB))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::blender::Kind;

    #[test]
    fn what_is_there_is_not_offered_to_be_fetched() {
        let versions = ["5.0.1", "4.5.15"].map(|version| version.parse().unwrap());
        let fetcher = Fetcher { cache: PathBuf::new(), versions: versions.into() };
        let has = FoundBlender { version: versions[1], kind: Kind::Executable, path: "b".into() };
        let offered = fetcher.describe(&[has]);
        assert_eq!(offered.len(), 1);
        assert_eq!(offered[0].version, Some(versions[0]));
        assert_eq!(offered[0].kind, OfferedKind::Provisionable);
    }

    #[test]
    fn ten_percent_are_worth_a_line() {
        let mut teller = Teller::default();
        let mut lines = |done_bytes| {
            let progress = ProvisionProgress::Downloading { done_bytes, total_bytes: 100_000_000 };
            teller.line(&progress)
        };
        assert_eq!(lines(1_000_000).unwrap(), "downloading Blender: 1 of about 100 MB");
        assert_eq!(lines(9_000_000), None);
        assert_eq!(lines(10_000_000).unwrap(), "downloading Blender: 10 of about 100 MB");
    }

    #[tokio::test]
    async fn what_cannot_be_fetched_is_told() {
        let cache = tempfile::tempdir().unwrap();
        let fetcher = Fetcher { cache: cache.path().to_owned(), versions: Vec::new() };
        let error = fetcher.fetch("2.79".parse().unwrap(), |_| ()).await.unwrap_err();
        assert!(error.to_string().contains("2.79.0"), "{error}");
    }
}
