//! A .blend is seldom alone: what travels with it, where it is laid out, and that the pictures are those that Blender
//! draws in the original folder.

#![cfg(feature = "local")]
#![allow(clippy::unwrap_used)]

mod project_support;
mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use framecrew::{
    Error, Job, JobSpec, JobView, LocalCluster, LocalConfig, Project, SubmitProgress, WatchEvent,
    proto::{ImageFormat, JobState},
};
use framecrew_node::{
    RendererChoice,
    blender::{FoundBlender, Kind},
};
use futures::StreamExt as _;
use project_support::Shot;
use support::blenders;
use tokio::time::timeout;

/// Far longer than anything here takes, so that a slow machine fails nothing.
const PATIENCE: Duration = Duration::from_secs(300);

async fn cluster(data: &Path, renderer: RendererChoice) -> LocalCluster {
    let config = LocalConfig::new(1, data, renderer);
    timeout(PATIENCE, LocalCluster::start(config)).await.unwrap().unwrap()
}

async fn synthetic(data: &Path) -> LocalCluster {
    cluster(data, RendererChoice::Synthetic(Duration::ZERO)).await
}

/// The paths of a job's project with their digests.
async fn files(local: &LocalCluster, job: &Job) -> BTreeMap<String, (String, u64)> {
    let job = local.cluster().job(job.id()).await.unwrap();
    let project = job.info().spec.clone().unwrap().project.unwrap();
    project.files.into_iter().map(|file| (file.path, (file.digest, file.size_bytes))).collect()
}

/// The paths that a .blend of a job refers to, as they were sent.
async fn sent_paths(local: &LocalCluster, job: &Job, place: &str) -> Vec<String> {
    let (digest, size_bytes) = files(local, job).await[place].clone();
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("sent.blend");
    let digest = digest.parse().unwrap();
    local.cluster().blobs().download_file(digest, size_bytes, &to, |_| {}).await.unwrap();
    let survey = framecrew_blend::survey(&to).unwrap();
    let mut paths: Vec<_> = survey.references.into_iter().map(|found| found.path).collect();
    paths.sort();
    paths
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_beside_the_blend_keeps_its_place_and_nothing_is_changed() {
    let shot = Shot::new();
    let local = synthetic(&shot.path("data")).await;
    let job = local.cluster().submit(JobSpec::animation(shot.path("shot.blend"))).await.unwrap();
    let files = files(&local, &job).await;
    let places: Vec<_> = files.keys().collect();
    assert_eq!(places, ["lib/props.blend", "shot.blend", "tex/metal.png", "tex/wood.png"]);
    let sent = sent_paths(&local, &job, "shot.blend").await;
    assert_eq!(sent, ["//lib/props.blend", "//tex/wood.png"]);
    local.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_is_the_deepest_folder_that_holds_all_relative_paths() {
    let shot = Shot::new();
    shot.rename("shot.blend", "shots/010/shot.blend");
    shot.point("shots/010/shot.blend", "wood", "//..\\..\\tex\\wood.png");
    shot.point("shots/010/shot.blend", "props.blend", "//../../lib/props.blend");
    let local = synthetic(&shot.path("data")).await;
    let spec = JobSpec::animation(shot.path("shots/010/shot.blend"));
    let job = local.cluster().submit(spec).await.unwrap();
    let files = files(&local, &job).await;
    let places: Vec<_> = files.keys().collect();
    let expected = ["lib/props.blend", "shots/010/shot.blend", "tex/metal.png", "tex/wood.png"];
    assert_eq!(places, expected);
    let sent = sent_paths(&local, &job, "shots/010/shot.blend").await;
    assert_eq!(sent, ["//../../lib/props.blend", "//..\\..\\tex\\wood.png"], "as they were");
    local.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn absolute_paths_are_made_relative_also_inside_libraries() {
    let (shot, elsewhere) = (Shot::new(), Shot::new());
    let inside = shot.path("tex/wood.png");
    shot.point("shot.blend", "wood", inside.to_str().unwrap());
    let library = elsewhere.path("lib/props.blend");
    shot.point("shot.blend", "props.blend", library.to_str().unwrap());
    let local = synthetic(&shot.path("data")).await;
    let spec = JobSpec::animation(shot.path("shot.blend"));
    let project = Project::open(spec.clone()).await.unwrap();
    let note = project.notes().join("\n");
    assert!(note.contains("outside") && note.contains(library.to_str().unwrap()), "{note}");
    let job = local.cluster().submit(spec).await.unwrap();
    let places = files(&local, &job).await;
    let place = |end: &str| places.keys().find(|place| place.ends_with(end)).unwrap().clone();
    let (library, metal) = (place("/props.blend"), place("/metal.png"));
    assert!(library.starts_with("framecrew-outside/") && metal.starts_with("framecrew-outside/"));
    assert_eq!(places.len(), 4, "{places:?}");
    let sent = sent_paths(&local, &job, "shot.blend").await;
    assert_eq!(sent, [format!("//{library}"), "//tex/wood.png".into()]);
    let [sent] = &sent_paths(&local, &job, &library).await[..] else { panic!() };
    assert_eq!(sent.replace("//../", "framecrew-outside/"), metal);

    // The same project again is the same bytes: nothing is sent.
    let project = Project::open(JobSpec::animation(shot.path("shot.blend"))).await.unwrap();
    let mut sent_anything = false;
    let again = local.cluster().submit_project(&project, |progress| {
        sent_anything |= matches!(progress, SubmitProgress::Uploading { total_bytes: 1.., .. });
    });
    let again = again.await.unwrap();
    assert_eq!(files(&local, &again).await, places);
    assert!(!sent_anything);
    local.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn libraries_that_link_each_other_are_taken_once() {
    let shot = Shot::new();
    shot.copy("shot.blend", "lib/props.blend");
    shot.point("lib/props.blend", "props.blend", "//../shot.blend");
    shot.point("lib/props.blend", "wood", "//../tex/metal.png");
    let local = synthetic(&shot.path("data")).await;
    let job = local.cluster().submit(JobSpec::animation(shot.path("shot.blend"))).await.unwrap();
    assert_eq!(files(&local, &job).await.len(), 4);
    local.shutdown().await;
}

#[tokio::test]
async fn what_is_far_above_the_blend_counts_as_outside() {
    let shot = Shot::new();
    let deep = "1/2/3/4/5/6/7/8/9";
    shot.rename("shot.blend", &format!("{deep}/shot.blend"));
    shot.rename("lib/props.blend", &format!("{deep}/lib/props.blend"));
    shot.point(&format!("{deep}/shot.blend"), "wood", "//../../../../../../../../../tex/wood.png");
    let spec = JobSpec::animation(shot.path(&format!("{deep}/shot.blend")));
    let project = Project::open(spec).await.unwrap();
    assert!(project.notes().join("\n").contains("outside"), "{:?}", project.notes());
    assert_eq!(project.file_count(), 3);
}

#[cfg(unix)]
#[tokio::test]
async fn one_file_under_two_cases_is_sent_once() {
    let shot = Shot::new();
    // As on a disk where case does not count.
    std::os::unix::fs::symlink(shot.path("tex"), shot.path("Tex")).unwrap();
    shot.point("shot.blend", "wood", "//tex/metal.png");
    shot.point("lib/props.blend", "metal", "//../Tex/metal.png");
    let project = Project::open(JobSpec::animation(shot.path("shot.blend"))).await.unwrap();
    assert_eq!(project.file_count(), 3);
}

#[tokio::test]
async fn inspect_tells_what_a_blend_needs_and_what_its_libraries_need() {
    let shot = Shot::new();
    let wood = shot.rename("tex/wood.png", "elsewhere/wood.png");
    shot.rename("shot.blend", "project/shot.blend");
    shot.rename("lib", "project/lib");
    shot.point("project/shot.blend", "wood", wood.to_str().unwrap());
    let inspection = framecrew::inspect(shot.path("project/shot.blend")).await.unwrap();
    assert!(inspection.can_be_rendered);
    assert_eq!((inspection.version.as_str(), inspection.compression), ("3.4", "zstd"));
    assert_eq!(inspection.root, shot.path("project").to_str().unwrap());
    assert_eq!(inspection.files, 3);
    let json = serde_json::to_value(&inspection).unwrap();
    let scene = &json["scenes"][0];
    for (field, value) in [
        ("name", serde_json::json!("Scene")),
        ("isActive", true.into()),
        ("camera", "Camera".into()),
        ("firstFrame", 1.into()),
        ("lastFrame", 3.into()),
        ("frameStep", 1.into()),
        ("engine", "CYCLES".into()),
        ("width", 64.into()),
        ("height", 32.into()),
        ("format", "PNG".into()),
        ("isMovie", false.into()),
    ] {
        assert_eq!(scene[field], value, "{field}");
    }
    let reference = |kind: &str, name: &str| {
        let all = json["references"].as_array().unwrap();
        let fits = |one: &&serde_json::Value| {
            one["kind"] == kind && one["path"].as_str().unwrap().ends_with(name)
        };
        all.iter().find(fits).unwrap_or_else(|| panic!("{json:#}")).clone()
    };
    let outside = reference("image", "/wood.png");
    assert_eq!(outside["storedAs"], "absolute");
    assert_eq!((&outside["isOutside"], &outside["files"]), (&true.into(), &1.into()));
    let library = reference("library", "//lib/props.blend");
    assert_eq!((&library["storedAs"], &library["files"]), (&"relative".into(), &1.into()));
    let missing = reference("image", "//../tex/metal.png");
    assert!(missing["wantedBy"].as_str().unwrap().ends_with("lib/props.blend"), "{missing:#}");
    assert_eq!((&missing["missing"], &missing["absence"]), (&1.into(), &"missing".into()));
    assert_eq!(missing["owners"], serde_json::json!(["metal"]));
    let problems: Vec<_> = inspection.problems.iter().map(|problem| &problem.text).collect();
    assert!(problems.iter().any(|text| text.contains("metal.png")), "{problems:?}");
    assert!(inspection.problems.iter().all(|problem| !problem.blocks));
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn names_that_become_one_elsewhere_are_refused() {
    let shot = Shot::new();
    shot.rename("tex/wood.png", "tex/a:b.png");
    shot.rename("tex/metal.png", "tex/a_b.png");
    shot.point("shot.blend", "wood", "//tex/a:b.png");
    shot.point("lib/props.blend", "metal", "//../tex/a_b.png");
    let error = Project::open(JobSpec::animation(shot.path("shot.blend"))).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("a:b.png") && text.contains("the same name"), "{text}");
}

/// What Blender by itself draws of a frame, in the original folder.
fn drawn_by_blender(found: &FoundBlender, blend: &Path, frame: i32) -> image::RgbaImage {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("0001.png");
    let script = format!(
        "import bpy, sys, os\n\
         bpy.ops.wm.open_mainfile(filepath={blend:?})\n\
         scene = bpy.context.scene\n\
         scene.frame_set({frame})\n\
         scene.render.filepath = {to:?}\n\
         scene.render.image_settings.file_format = 'PNG'\n\
         bpy.ops.render.render(write_still=True)\n\
         sys.stdout.flush()\n\
         os._exit(0)\n"
    );
    let mut command = Command::new(&found.path);
    match found.kind {
        Kind::Executable => {
            command.args(["--background", "--factory-startup", "--python-expr", &script])
        }
        Kind::Module => command.args(["-c", &script]),
    };
    let output = command.output().unwrap();
    image::open(&to).unwrap_or_else(|error| panic!("{error}: {output:?}")).to_rgba8()
}

/// What the cluster draws of a frame.
async fn drawn_by_cluster(local: &LocalCluster, blend: &Path, frame: i32) -> image::RgbaImage {
    let spec = JobSpec::still(blend, frame).format(ImageFormat::Png).strict(true);
    let job = local.cluster().submit(spec).await.unwrap();
    let mut view = JobView::default();
    let mut watch = job.watch();
    let watching = async {
        while let Some(event) = watch.next().await {
            if let WatchEvent::Update(update) = event.unwrap() {
                view.apply(&update);
            }
        }
    };
    timeout(PATIENCE, watching).await.unwrap();
    assert_eq!(view.state(), JobState::Finished, "{view:?}");
    let folder = tempfile::tempdir().unwrap();
    job.fetch(folder.path()).await.unwrap();
    let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    image::open(file).unwrap().to_rgba8()
}

/// Projects that all show the same picture; the .blend of each.
fn projects() -> Vec<(&'static str, Shot, PathBuf)> {
    let mut all = Vec::new();
    let mut add = |what, arrange: &dyn Fn(&Shot) -> PathBuf| {
        let shot = Shot::new();
        let blend = arrange(&shot);
        all.push((what, shot, blend));
    };
    add("relative", &|shot| shot.path("shot.blend"));
    add("escaping", &|shot| {
        let blend = shot.rename("shot.blend", "shots/010/shot.blend");
        shot.point("shots/010/shot.blend", "wood", "//../../tex/wood.png");
        shot.point("shots/010/shot.blend", "props.blend", "//../../lib/props.blend");
        blend
    });
    add("absolute", &|shot| {
        let blend = shot.rename("shot.blend", "project/shot.blend");
        let (wood, library) = (shot.path("tex/wood.png"), shot.path("lib/props.blend"));
        shot.point("project/shot.blend", "wood", wood.to_str().unwrap());
        shot.point("project/shot.blend", "props.blend", library.to_str().unwrap());
        blend
    });
    add("absolute inside a library", &|shot| {
        let metal = shot.rename("tex/metal.png", "elsewhere/metal.png");
        shot.point("lib/props.blend", "metal", metal.to_str().unwrap());
        shot.path("shot.blend")
    });
    add("backslashes and spaces", &|shot| {
        let blend = shot.rename("shot.blend", "my shot 1.blend");
        shot.rename("tex/wood.png", "my textures/a  wood.png");
        shot.point("my shot 1.blend", "wood", "//my textures\\a  wood.png");
        blend
    });
    add("unicode", &|shot| {
        let blend = shot.rename("shot.blend", "Schöne Aufnahme 日本.blend");
        shot.rename("tex/wood.png", "tex/дерево ✓.png");
        shot.point("Schöne Aufnahme 日本.blend", "wood", "//tex/дерево ✓.png");
        blend
    });
    add("200 characters", &|shot| {
        let name = format!("{}.png", "w".repeat(196));
        shot.rename("tex/wood.png", &format!("tex/{name}"));
        shot.point("shot.blend", "wood", &format!("//tex/{name}"));
        shot.rename("shot.blend", &format!("{}.blend", "s".repeat(194)))
    });
    #[cfg(unix)]
    add("names that Windows forbids", &|shot| {
        let name = "tex:2/a:\twood.png";
        shot.rename("tex/wood.png", name);
        shot.point("shot.blend", "wood", &format!("//{name}"));
        shot.path("shot.blend")
    });
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_drawn_as_blender_draws_it_in_its_own_folder() {
    let Some(found) = blenders().pop() else { return };
    let base = tempfile::tempdir().unwrap();
    let renderer = RendererChoice::Blender(vec![found.clone()]);
    let local = cluster(&base.path().join("data"), renderer).await;
    let mut first = None;
    for (what, _shot, blend) in projects() {
        let here = drawn_by_blender(&found, &blend, 1);
        let there = drawn_by_cluster(&local, &blend, 1).await;
        assert!(here == there, "{what}: another picture than Blender's");
        let first = first.get_or_insert_with(|| here.clone());
        assert!(*first == here, "{what}: Blender itself did not find something");
    }

    // A row of pictures: each frame shows its own.
    let shot = Shot::new();
    let blend = shot.copy("row.blend", "project/row.blend");
    for (number, picture) in [(1, "wood"), (2, "metal"), (3, "wood")] {
        shot.copy(&format!("tex/{picture}.png"), &format!("elsewhere/r{number:03}.png"));
    }
    let row = shot.path("elsewhere/r001.png");
    shot.point("project/row.blend", "wood", row.to_str().unwrap());
    for frame in [1, 2] {
        let here = drawn_by_blender(&found, &blend, frame);
        let there = drawn_by_cluster(&local, &blend, frame).await;
        assert!(here == there, "frame {frame} of a row of pictures");
    }
    local.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_while_it_is_sent_stops_the_submission() {
    let shot = Shot::new();
    // Large enough to be cut into pieces.
    let noise: Vec<u8> = (0..12 << 20).map(|_| fastrand::u8(..)).collect();
    let wood = shot.write("tex/wood.png", &noise);
    let local = synthetic(&shot.path("data")).await;
    let project = Project::open(JobSpec::animation(shot.path("shot.blend"))).await.unwrap();
    let submitted = local.cluster().submit_project(&project, |progress| {
        if let SubmitProgress::Hashing { done_bytes, total_bytes } = progress
            && done_bytes == total_bytes
        {
            fs::write(&wood, &noise[1..]).unwrap();
        }
    });
    let error = submitted.await.unwrap_err();
    assert!(matches!(error, Error::Transfer(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains("wood.png") && text.contains("changed while"), "{text}");
    assert!(local.cluster().jobs(10).await.unwrap().is_empty(), "nothing is submitted");
    local.shutdown().await;
}
