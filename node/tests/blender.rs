//! A node with real Blenders, over real sockets. Each test runs with every Blender that this machine has.
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeSet, fs, time::Duration};

use framecrew_node::{
    RendererChoice,
    blender::{FoundBlender, Kind},
};
use framecrew_proto::v1::{
    BatchEnd, FailureReason, ImageFormat, RenderBatchRequest, RenderEngine, RenderSettings,
    SliceProgress, batch_event::Event,
};
use support::{Crew, blender, end, eventually, failures, files, finished, log, request};
use tokio::time::Instant;

async fn crew(blender: &FoundBlender) -> Crew {
    Crew::start(RendererChoice::Blender(vec![blender.clone()])).await
}

fn with(settings: RenderSettings, request: RenderBatchRequest) -> RenderBatchRequest {
    RenderBatchRequest { settings: Some(settings), ..request }
}

/// Settings that make a frame take longer than any test.
fn slow() -> RenderSettings {
    RenderSettings {
        samples: Some(1_000_000),
        scale_percent: Some(1_000),
        ..RenderSettings::default()
    }
}

/// Processes whose working folder lies under the node's data: its Blenders.
fn processes(crew: &Crew) -> Vec<i32> {
    let data = fs::canonicalize(crew.data.path()).unwrap();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let alive =
            !fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains(") Z "));
        alive && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&data))
    })
    .collect()
}

fn is_drawing(event: &Event) -> bool {
    matches!(event, Event::Progress(SliceProgress { samples_total: 1.., .. }))
}

#[tokio::test]
async fn frames_are_drawn_checked_and_stored_and_a_second_batch_finds_blender_warm() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let file = crew.put("shots/a/scene.blend", &blender::scene(&blender, ""));
        let events = crew.render(request(1, file.clone(), [1, 2, -3])).await.unwrap();
        let events = events.all().await;
        assert_eq!(end(&events), BatchEnd::Complete, "{events:#?}");
        let frames = finished(&events);
        let names: Vec<_> = frames.iter().map(|f| f.outputs[0].name.as_str()).collect();
        assert_eq!(names, ["0001.png", "0002.png", "-0003.png"], "{events:#?}");
        let digests: BTreeSet<_> = frames.iter().map(|f| &f.outputs[0].digest).collect();
        assert_eq!(digests.len(), 3);
        for frame in &frames {
            let output = &frame.outputs[0];
            assert_eq!((output.width, output.height), (64, 48));
            assert!(frame.render_seconds > 0.0 && frame.peak_memory_bytes > 1 << 20);
            let stored = crew.state.lock().unwrap().blobs[&output.digest].clone();
            assert!(image::load_from_memory(&stored).is_ok());
        }
        assert!(log(&events).iter().any(|line| line.contains("Read blend")));

        let pids = processes(&crew);
        assert!(!pids.is_empty());
        let events = crew.render(request(2, file, [4])).await.unwrap().all().await;
        assert_eq!(finished(&events).len(), 1, "{events:#?}");
        assert!(!log(&events).iter().any(|line| line.contains("Read blend")));
        assert_eq!(processes(&crew), pids);
        assert_eq!(crew.state.lock().unwrap().downloads, 1);
        let work = files(&crew.data.path().join("work"));
        assert!(!work.iter().any(|path| path.extension().is_some_and(|e| e == "png")), "{work:?}");
    }
}

#[tokio::test]
async fn settings_override_those_of_the_file() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let file = crew.put(
            "scene.blend",
            &blender::scene(
                &blender,
                "
scene.render.image_settings.file_format = 'FFMPEG'
second = bpy.data.scenes.new('Second')
second.render.resolution_x, second.render.resolution_y = 31, 17
second.cycles.samples = 1
second.render.engine = 'CYCLES'
camera = bpy.data.objects.new('Other', bpy.data.cameras.new('Other'))
second.collection.objects.link(camera)
scene.render.use_border = scene.render.use_crop_to_border = True
scene.render.border_min_x, scene.render.border_max_x = 0.13, 0.71
scene.render.border_min_y, scene.render.border_max_y = 0.21, 0.77
",
            ),
        );
        let film = crew.render(request(1, file.clone(), [1])).await.unwrap().all().await;
        let output = finished(&film)[0].outputs[0].clone();
        assert_eq!(output.name, "0001.png");
        assert!(output.width < 64 && output.height < 48, "cropped");
        assert!(log(&film).iter().any(|line| line.contains("FFMPEG")));

        for (format, extension) in
            [(ImageFormat::Jpeg, "jpg"), (ImageFormat::OpenExr, "exr"), (ImageFormat::Tiff, "tif")]
        {
            let settings = RenderSettings {
                scene: "Second".into(),
                camera: "Other".into(),
                engine: RenderEngine::Cycles.into(),
                samples: Some(2),
                scale_percent: Some(200),
                format: format.into(),
                denoise: Some(true),
                ..RenderSettings::default()
            };
            let id = 10 + format as u64;
            let request = with(settings, request(id, file.clone(), [7]));
            let events = crew.render(request).await.unwrap().all().await;
            let output = finished(&events).first().unwrap_or_else(|| panic!("{events:#?}")).outputs
                [0]
            .clone();
            assert_eq!(output.name, format!("0007.{extension}"));
            assert_eq!((output.width, output.height), (62, 34));
        }
    }
}

#[tokio::test]
async fn what_can_never_succeed_fails_as_permanent_with_words() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let scene = blender::scene(&blender, "");
        let file = crew.put("scene.blend", &scene);
        let settings = |scene: &str, camera: &str| RenderSettings {
            scene: scene.into(),
            camera: camera.into(),
            ..RenderSettings::default()
        };
        let cut = crew.put("scene.blend", &scene[..scene.len() / 2]);
        let other = crew.put("scene.blend", b"this is not a blend file");
        let blind = blender::scene(&blender, "bpy.data.objects.remove(bpy.data.objects['Camera'])");
        let blind = crew.put("scene.blend", &blind);
        let crowd = "
for n in range(400):
    camera = bpy.data.objects.new('\\U0001f3a5' * 12 + str(n), bpy.data.cameras.new('Many'))
    scene.collection.objects.link(camera)
";
        let crowd = crew.put("scene.blend", &blender::scene(&blender, crowd));
        let foreign = "
class Foreign(bpy.types.RenderEngine):
    bl_idname, bl_label = 'FOREIGN', 'Foreign'
bpy.utils.register_class(Foreign)
scene.render.engine = 'FOREIGN'
";
        let foreign = crew.put("scene.blend", &blender::scene(&blender, foreign));
        let none = settings("", "");
        for (id, request, word) in [
            (1, with(settings("Gone", ""), request(1, file.clone(), [1])), "'Gone'"),
            (2, with(settings("", "Cube"), request(2, file, [1])), "'Cube'"),
            (3, with(none.clone(), request(3, other, [1])), "open"),
            (4, with(none.clone(), request(4, cut, [1])), ""),
            (5, with(none.clone(), request(5, blind, [1])), "camera"),
            (6, with(none, request(6, foreign, [1])), "engine"),
            (7, with(settings("", "Gone"), request(7, crowd, [1])), "'Gone'"),
        ] {
            let events = crew.render(request).await.unwrap().all().await;
            let failures = failures(&events);
            assert_eq!(failures.len(), 1, "{id}: {events:#?}");
            assert_eq!(failures[0].reason(), FailureReason::Permanent, "{failures:#?}");
            assert!(failures[0].message.contains(word), "{failures:#?}");
            assert!(failures[0].message.len() <= 2_000);
            assert!(failures[0].log_tail.len() <= 20);
        }
        let events = crew.render(request(9, crew.put("scene.blend", &scene), [1])).await.unwrap();
        assert_eq!(finished(&events.all().await).len(), 1, "the node lives on");
    }
}

#[tokio::test]
async fn a_cancel_kills_the_process_group_within_half_a_second() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let file = crew.put("scene.blend", &blender::scene(&blender, ""));
        let mut events = crew.render(with(slow(), request(1, file, 1..=9))).await.unwrap();
        events.until(is_drawing).await;
        assert!(!processes(&crew).is_empty());
        let begun = Instant::now();
        crew.cancel(1).await.unwrap();
        let took = begun.elapsed();
        assert!(processes(&crew).is_empty());
        assert!(took < Duration::from_millis(500), "{took:?}");
        assert_eq!(end(&events.all().await), BatchEnd::Cancelled);
    }
}

#[tokio::test]
async fn progress_within_a_frame_comes_every_second_and_resumes_after_a_detour() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let file = crew.put("scene.blend", &blender::scene(&blender, ""));
        let mut events = crew.render(with(slow(), request(1, file, [1]))).await.unwrap();
        let before = events.until(is_drawing).await;
        drop(events);
        let mut events = crew.attach(1, before.last().unwrap().sequence).await.unwrap();
        let begun = Instant::now();
        let mut fractions = Vec::new();
        for _ in 0..3 {
            let seen = events.until(is_drawing).await;
            let Some(Event::Progress(progress)) = &seen.last().unwrap().event else { panic!() };
            assert_eq!(progress.samples_total, 1_000_000);
            fractions.push(progress.fraction.unwrap());
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert!(fractions.is_sorted(), "{fractions:?}");
        crew.cancel(1).await.unwrap();
    }
}

#[tokio::test]
async fn a_blender_killed_in_mid_frame_fails_its_frame_and_the_next_one_is_drawn() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let file = crew.put("scene.blend", &blender::scene(&blender, ""));
        let mut events = crew.render(with(slow(), request(1, file.clone(), [1]))).await.unwrap();
        events.until(is_drawing).await;
        for pid in processes(&crew) {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        let events = events.all().await;
        assert_eq!(end(&events), BatchEnd::Complete);
        let failure = &failures(&events)[0];
        assert_eq!(failure.reason(), FailureReason::Renderer, "{failure:?}");
        assert!(failure.message.contains("killed"), "{failure:?}");
        assert!(!failure.log_tail.is_empty());
        let events = crew.render(request(2, file, [1])).await.unwrap().all().await;
        assert_eq!(finished(&events).len(), 1);
    }
}

#[tokio::test]
async fn a_file_from_a_newer_blender_is_refused_with_words() {
    let found = blender::found();
    let (Some(newest), Some(oldest)) = (found.first(), found.last()) else {
        return;
    };
    if newest.version.major == oldest.version.major {
        println!("skipped: only one major version of Blender");
        return;
    }
    let crew = crew(oldest).await;
    let file = crew.put("scene.blend", &blender::scene(newest, ""));
    // As the orchestrator sends it: this node has nothing to open it with.
    let told = RenderBatchRequest {
        file_version: newest.version.to_string(),
        ..request(1, file.clone(), [1])
    };
    // And as it would be if nobody had looked.
    let untold = request(2, file, [1]);
    for request in [told, untold] {
        let events = crew.render(request).await.unwrap().all().await;
        let failure = &failures(&events)[0];
        assert_eq!(failure.reason(), FailureReason::Permanent, "{failure:?}");
        println!("{}", failure.message);
    }
}

#[tokio::test]
async fn a_stopped_node_leaves_no_process_and_no_folder() {
    for blender in blender::found() {
        let mut crew = crew(&blender).await;
        let file = crew.put("scene.blend", &blender::scene(&blender, ""));
        let mut events = crew.render(with(slow(), request(1, file, [1]))).await.unwrap();
        events.until(is_drawing).await;
        let (stopped, events) = tokio::join!(crew.stop(), events.all());
        stopped.unwrap();
        assert_eq!(end(&events), BatchEnd::Cancelled);
        assert!(processes(&crew).is_empty());
        assert_eq!(files(&crew.data.path().join("work")), Vec::<std::path::PathBuf>::new());
    }
}

#[tokio::test]
async fn a_blender_whose_node_was_killed_ends_itself_in_mid_frame() {
    for blender in blender::found() {
        let path = blender.path.to_str().unwrap();
        let version = blender.version.to_string();
        let ttl = Duration::from_secs(15);
        let mut crew = Crew::spawn(&["--blender", path], ttl).await;
        let file = crew.put("scene.blend", &blender::scene(&blender, ""));
        let settings = RenderSettings { blender: version, ..slow() };
        let mut events = crew.render(with(settings, request(1, file, [1]))).await.unwrap();
        events.until(is_drawing).await;
        assert!(!processes(&crew).is_empty());
        crew.signal(rustix::process::Signal::KILL);
        assert_eq!(crew.code().await, None);
        let begun = Instant::now();
        eventually("the renderer's end", async || processes(&crew).is_empty()).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn the_closest_blender_draws_and_the_job_may_ask_for_another() {
    let found = blender::found();
    let series: BTreeSet<_> = found.iter().map(|b| (b.version.major, b.version.minor)).collect();
    if series.len() < 2 {
        println!("skipped: only one Blender");
        return;
    }
    let oldest = found.last().unwrap().clone();
    let crew = Crew::start(RendererChoice::Blender(found.clone())).await;
    let file = crew.put("scene.blend", &blender::scene(&oldest, ""));
    let old = RenderBatchRequest {
        file_version: oldest.version.to_string(),
        ..request(1, file.clone(), [1])
    };
    let asked = with(
        RenderSettings { blender: found[0].version.to_string(), ..RenderSettings::default() },
        RenderBatchRequest { batch_id: 2, ..old.clone() },
    );
    let runs = |path: &std::path::Path| {
        let path = fs::canonicalize(path).unwrap();
        processes(&crew)
            .iter()
            .any(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == path))
    };
    let events = crew.render(old).await.unwrap().all().await;
    assert_eq!(finished(&events).len(), 1, "{events:#?}");
    assert!(runs(&oldest.path));
    let events = crew.render(asked).await.unwrap().all().await;
    assert_eq!(finished(&events).len(), 1, "{events:#?}");
    assert!(runs(&found[0].path));
    assert!(oldest.kind != Kind::Executable || !runs(&oldest.path), "one for each slot");
    eventually("nothing live", async || crew.status().await.live_batch_ids.is_empty()).await;
}
