//! A node fetches the Blender that a job needs and it lacks.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use framecrew_node::{Config, RendererChoice};
use framecrew_proto::v1::{BlenderKind, FailureReason, RenderBatchRequest, RenderSettings};
use support::{Crew, blender, failures, finished, log, request};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "downloads 400 MB"]
async fn the_blender_that_a_job_asks_for_is_fetched_and_draws() {
    const WANTED: &str = "4.4";
    for blender in blender::found().into_iter().rev().take(1) {
        let cache = tempfile::tempdir().unwrap();
        let renderer = RendererChoice::Blender(vec![blender.clone()]);
        let crew = Crew::start_as(Duration::from_secs(15), |config| Config {
            renderer,
            provision: Some(cache.path().to_owned()),
            ..config
        });
        let crew = crew.await.unwrap();
        let description = crew.state.lock().unwrap().registered[1].description.clone().unwrap();
        let offered: Vec<_> = description
            .blenders
            .iter()
            .filter(|blender| blender.kind() == BlenderKind::Provisionable)
            .map(|blender| blender.version.clone())
            .collect();
        assert!(offered.iter().any(|version| version.starts_with(WANTED)), "{offered:?}");

        let file = crew.put("scene.blend", &blender::scene(&blender, ""));
        let asked = |id, version: &str| RenderBatchRequest {
            settings: Some(RenderSettings { blender: version.into(), ..RenderSettings::default() }),
            ..request(id, file.clone(), [1])
        };
        let events = crew.render(asked(1, WANTED)).await.unwrap().all().await;
        let said = log(&events);
        assert_eq!(finished(&events).len(), 1, "{events:#?}");
        assert!(said.iter().any(|line| line.starts_with("installing Blender 4.4")), "{said:?}");
        assert!(finished(&events)[0].render_seconds < 60.0, "fetching is not charged");

        let events = crew.render(asked(2, "4.1")).await.unwrap().all().await;
        assert_eq!(failures(&events)[0].reason(), FailureReason::Permanent);
    }
}
