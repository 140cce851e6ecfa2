//! Turns linear light into a preview.

use std::{fs, time::Duration};

use image::Rgba32FImage;
use tokio::time;
use tracing::debug;

use super::{
    Phase, Worker,
    protocol::{Answer, Develop, DevelopRequest},
};
use crate::output::{self, Preview};

/// How long Blender may take to develop a preview; a tenth of a second is usual. One that takes longer is not
/// worth the wait.
const DEVELOP_TIMEOUT: Duration = Duration::from_secs(20);

impl Worker {
    /// Makes a preview of linear light, with the view transform of the scene it has in memory. `None` where
    /// that fails; then it may be dead.
    pub(crate) async fn develop(&mut self, light: Rgba32FImage) -> Option<Preview> {
        if !self.is_waiting() {
            return None;
        }
        let (from, to) =
            (self.folder.path().join("light.exr"), self.folder.path().join("seen.png"));
        light.save(&from).ok()?;
        let request = DevelopRequest { develop: Develop { from: &from, to: &to } };
        let request = serde_json::to_string(&request).ok()?;
        self.begin(&request, Phase::Broken).await.ok()?;
        let mut ignore = |_| ();
        let developed = async {
            loop {
                match self.answer(&mut ignore).await {
                    Ok(Answer::Note { text }) => debug!(text, "no preview"),
                    other => return matches!(other, Ok(Answer::Developed {})),
                }
            }
        };
        if time::timeout(DEVELOP_TIMEOUT, developed).await != Ok(true) {
            self.kill().await;
            return None;
        }
        self.phase = Phase::Waiting;
        let preview = output::preview_of_file(to.clone()).await;
        // The next one must not be mistaken for this.
        let removed = fs::remove_file(&to);
        preview.filter(|_| removed.is_ok())
    }
}
