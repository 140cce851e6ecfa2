//! What real files refer to is found, as Blender finds it, and put elsewhere.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use framecrew_blend::{
    Drawn, Files, Hazard, Numbering, Outside, Reference, ReferenceKind, RenderView, RewriteError,
    Sight, Survey, rewrite, survey,
};

const VERSIONS: [&str; 3] = ["3.4", "4.5", "5.0"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn references_of(version: &str) -> Survey {
    survey(&fixture(&format!("references-{version}.blend"))).unwrap()
}

/// A place for a file of a test.
fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Each file by itself, as Blender lists them on Linux.
fn paths(reference: &Reference) -> Vec<String> {
    let paths = match &reference.files {
        Files::Named(names) => {
            names.iter().map(|name| format!("{}{name}", reference.path)).collect()
        }
        _ => vec![reference.path.clone()],
    };
    paths.iter().map(|path| path.replace('\\', "/")).collect()
}

#[test]
fn what_blender_lists_is_found() {
    for version in VERSIONS {
        let found = references_of(version).references;
        let found: BTreeSet<_> = found.iter().flat_map(paths).collect();
        let listed = fs::read_to_string(fixture(&format!("references-{version}.paths"))).unwrap();
        let listed: BTreeSet<_> = listed.lines().map(str::to_owned).collect();
        let missing: Vec<_> = listed.difference(&found).collect();
        // Blender names the folder of an ocean that is not baked, and the library of which all is packed.
        let expected: &[&str] = match version {
            "5.0" => &["//files/ocean", "//files/packed library.blend"],
            _ => &["//files/ocean"],
        };
        assert_eq!(missing, expected, "{version}");
        // Blender does not name the folders of caches, nor where it looks for the views of a picture.
        let more: BTreeSet<_> = found.difference(&listed).cloned().collect();
        let mut expected = BTreeSet::from([
            "//files/points".to_owned(),
            format!("//blendcache_references-{version}"),
            "/srv/stage/files/views_L.png".to_owned(),
            "/srv/stage/files/views_R.png".to_owned(),
            // The compiled form of the Cycles script.
            "//files/shader.oso".to_owned(),
        ]);
        if version != "3.4" {
            expected.insert("//files/nodes".to_owned());
        }
        assert_eq!(more, expected, "{version}");
    }
}

#[test]
fn each_reference_says_how_it_stands_for_files() {
    use ReferenceKind::*;
    let one = || Files::One;
    let sequence = |frames| Files::Sequence { first: None, frames };
    let named = |names: &[&str]| Files::Named(names.iter().map(|&name| name.into()).collect());
    for version in VERSIONS {
        let found = references_of(version).references;
        for (kind, owner, path, files) in [
            (Library, "library.blend", "//files/library.blend", one()),
            (Image, "File", "//files/file.png", one()),
            (Image, "Absolute", "/textures/wood grain.png", one()),
            (Image, "Windows", "C:\\textures\\wood.png", one()),
            (Image, "Ünïcode", "//files/Ünïcode ☃.png", one()),
            (Image, "Sequence", "//files/sequence_0001.png", sequence(None)),
            (Movie, "Movie", "//files/movie.mp4", one()),
            (
                Image,
                "Tiles",
                "//files/tiles.<UDIM>.png",
                Files::Tiles { numbers: vec![1001, 1002, 1011] },
            ),
            (Sound, "sound.wav", "//files/sound.wav", one()),
            (MovieClip, "clip_0001.png", "//files/clip_0001.png", sequence(None)),
            (Font, "Letters", "//files/font.ttf", one()),
            (Volume, "Smoke", "//files/smoke_0010.vdb", sequence(Some(5))),
            (Cache, "Alembic", "//files/scene.abc", one()),
            (MeshCache, "Cached/Mesh cache", "//files/points.mdd", one()),
            (FluidCache, "Domain/Fluid", "//files/fluid", Files::Folder),
            (PointCache, "Dust/Particles", "//files/points", Files::Folder),
            (Text, "Notes.py", "//files/notes.py", one()),
            (Ies, "Glow", "//files/lamp.ies", one()),
            (ShaderScript, "Glow", "//files/shader.osl", one()),
            (
                Strip,
                "Stage/Frames",
                "//files/frames/",
                named(&["frame_0001.png", "frame_0002.png", "frame_0003.png"]),
            ),
            (Strip, "Stage/Inner", "//files/inner/", named(&["frame_0001.png"])),
            (Strip, "Stage/Shown", "//files/movie.mp4", one()),
            (Strip, "Stage/Heard", "/srv/stage/files/sound.wav", one()),
        ] {
            let is_it = |it: &&Reference| it.kind == kind && it.owner == owner && it.path == path;
            let reference = found.iter().find(is_it);
            let files = Some(&files);
            assert_eq!(reference.map(|it| &it.files), files, "{version}: {kind} {owner}");
        }
    }
}

#[test]
fn what_is_hazardous_is_told() {
    let simulation = |owner: &str, what| Hazard::UnbakedSimulation { owner: owner.into(), what };
    let not_simulated = |owner: &str, what| Hazard::NotSimulated { owner: owner.into(), what };
    for version in VERSIONS {
        let mut expected = vec![
            simulation("Canvas/Surface", "dynamic paint"),
            simulation("Cloth/Cloth", "cloth"),
            not_simulated("Domain/Fluid", "fluid"),
            Hazard::Driver {
                owner: "Driven".into(),
                expression: "bpy.context.scene.frame_current".into(),
            },
            simulation("Jelly/Softbody", "soft body"),
            Hazard::RegisteredText { name: "Rig UI".into() },
            simulation("Sparks/Particles", "particle system"),
        ];
        if version != "3.4" {
            expected.push(not_simulated("Simulated/Nodes", "simulation of geometry nodes"));
        }
        assert_eq!(references_of(version).hazards, expected, "{version}");
    }
}

#[test]
fn what_is_baked_or_not_drawn_is_not_hazardous() {
    let simulation = |owner: &str, what| Hazard::UnbakedSimulation { owner: owner.into(), what };
    for version in ["3.4", "5.0"] {
        let survey = survey(&fixture(&format!("states-{version}.blend"))).unwrap();
        let expected = [
            simulation("States", "rigid body world"),
            simulation("Canvas/Surface", "dynamic paint"),
            simulation("Fur/Particles", "hair simulation"),
        ];
        assert_eq!(survey.hazards, expected, "{version}");
    }
}

#[test]
fn a_scene_tells_what_it_is_rendered_with() {
    for version in ["3.4", "5.0"] {
        let survey = survey(&fixture(&format!("states-{version}.blend"))).unwrap();
        let scene = survey.file.active().unwrap();
        assert_eq!(scene.frame_rate, (24_000, 1_001));
        assert_eq!((&*scene.format, scene.color_mode, scene.color_depth), ("PNG", "RGB", 16));
        assert_eq!(scene.output_path, "//render/shot_");
        assert_eq!(scene.camera.as_deref(), Some("Right"));
        assert_eq!(scene.cameras, ["Left", "Right"]);
        let layers = scene.view_layers.iter().map(|layer| (&*layer.name, layer.is_rendered));
        assert_eq!(layers.collect::<Vec<_>>(), [("ViewLayer", true), ("Second", false)]);
        let view =
            |name: &str, suffix: &str| RenderView { name: name.into(), suffix: suffix.into() };
        assert_eq!(scene.views, [view("left", "_L"), view("right", "_R")]);
        assert!(!scene.uses_denoising && scene.uses_compositor && !scene.uses_sequencer);
        let eyes = survey.references.iter().find(|it| it.owner == "States/Eyes").unwrap();
        assert_eq!(eyes.files, Files::Named(vec!["views_L.png".into(), "views_R.png".into()]));
    }
    let stage = &references_of("4.5").file.scenes[0];
    assert!(stage.has_sound && stage.uses_sequencer && !stage.uses_compositor);
}

/// Other paths for all that can have them, some longer than before.
fn moved(references: &[Reference]) -> Vec<(framecrew_blend::Field, String)> {
    let moved = |(index, reference): (usize, &Reference)| match reference.files {
        Files::Named(_) => format!("//moved to/{index}/"),
        _ => format!("//moved to/{index}/a file's new name"),
    };
    let stored = |reference: &&Reference| reference.field.capacity() > 0;
    let stored = references.iter().filter(stored).enumerate();
    stored.map(|(index, reference)| (reference.field, moved((index, reference)))).collect()
}

#[test]
fn rewritten_paths_are_found_again_and_nothing_else_changes() {
    for version in VERSIONS {
        let from = fixture(&format!("references-{version}.blend"));
        let before = survey(&from).unwrap();
        let texts = moved(&before.references);
        let mut bytes = Vec::new();
        rewrite(&from, &mut bytes, &texts).unwrap();
        let mut again = Vec::new();
        rewrite(&from, &mut again, &texts).unwrap();
        assert!(bytes == again, "{version}: the same bytes");
        let to = scratch(&format!("rewritten-{version}.blend"));
        fs::write(&to, &bytes).unwrap();
        let after = survey(&to).unwrap();
        assert_eq!(after.file, before.file, "{version}");
        assert_eq!(after.hazards, before.hazards, "{version}");
        let stored = after.references.iter().filter(|it| it.field.capacity() > 0);
        let found: Vec<_> = stored.map(|reference| &reference.path).collect();
        assert_eq!(found, texts.iter().map(|(_, text)| text).collect::<Vec<_>>(), "{version}");
        let kinds = |survey: &Survey| -> Vec<_> {
            // Except for a compiled script, whose name follows that of the script.
            let references = survey.references.iter();
            let references =
                references.filter(|it| it.kind != ReferenceKind::ShaderScript || !it.is_optional);
            references.map(|it| (it.kind, it.owner.clone(), it.files.clone())).collect()
        };
        assert_eq!(kinds(&after), kinds(&before), "{version}");
    }
}

#[test]
fn what_does_not_fit_is_not_written() {
    let from = fixture("references-4.5.blend");
    let references = survey(&from).unwrap().references;
    let field = references[0].field;
    let write = |text: &str| rewrite(&from, &mut Vec::new(), &[(field, text.to_owned())]);
    let error = write(&"x".repeat(field.capacity() + 1)).unwrap_err();
    assert!(matches!(error, RewriteError::TooLong { .. }), "{error}");
    write(&"x".repeat(field.capacity())).unwrap();
    let error = write("a\0b").unwrap_err();
    assert!(matches!(error, RewriteError::Zero(_)), "{error}");
    // Of another file.
    let other = fixture("references-3.4.blend");
    let error = rewrite(&other, &mut Vec::new(), &[(field, "//x".into())]).unwrap_err();
    assert!(matches!(error, RewriteError::Changed), "{error}");
}

#[test]
fn blender_finds_rewritten_paths() {
    let expression = "import bpy, sys; bpy.ops.wm.open_mainfile(filepath=sys.argv[-1]); \
        print(*('PATH ' + p for p in bpy.utils.blend_paths(absolute=False)), sep='\\n', flush=True)";
    let blender = |file: &Path| {
        let mut command = Command::new("blender");
        command.args(["--background", "--factory-startup", "--python-expr", expression, "--"]);
        command.arg(file).output().ok()
    };
    let from = fixture("references-3.4.blend");
    let texts = moved(&survey(&from).unwrap().references);
    let to = scratch("for-blender.blend");
    let mut bytes = Vec::new();
    rewrite(&from, &mut bytes, &texts).unwrap();
    fs::write(&to, bytes).unwrap();
    let Some(output) = blender(&to) else {
        eprintln!("skipped: there is no `blender`");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let listed: BTreeSet<_> = said.lines().filter_map(|line| line.strip_prefix("PATH ")).collect();
    let found = survey(&to).unwrap().references;
    let is_listed = |it: &&Reference| it.kind != ReferenceKind::PointCache && !it.is_optional;
    // The views of a picture are not listed, but for the first.
    for reference in found.iter().filter(is_listed).filter(|it| it.owner != "Views") {
        for path in paths(reference) {
            assert!(listed.contains(&*path), "{path} is not among {said}");
        }
    }
}

#[test]
fn the_needs_of_pictures_are_found() {
    for version in VERSIONS {
        let survey = survey(&fixture(&format!("needs-{version}.blend"))).unwrap();
        let scene = |name| survey.file.scenes.iter().find(|scene| scene.name == name).unwrap();
        let cameraless = |name| scene(name).needs.cameraless.clone();
        assert_eq!(cameraless("Own"), ["Own"], "{version}");
        // The node that shows a scene without a camera is muted. The other one shows a scene with a camera.
        assert_eq!(cameraless("Other"), [""; 0], "{version}");
        assert_eq!(cameraless("Only"), [""; 0], "{version}");
        assert!(["Own", "Other", "Only"].into_iter().all(|name| scene(name).uses_compositor));
        assert_eq!(scene("Only").extra_formats().collect::<Vec<_>>(), ["DPX"], "{version}");
        assert_eq!(scene("Own").extra_formats().count(), 0, "{version}");
        let view = if version == "3.4" { "Filmic" } else { "AgX" };
        assert_eq!(scene("Seen").needs.view_transform, view, "{version}");
        assert_eq!(scene("Seen").needs.look, "None", "{version}");
        assert_eq!(scene("Seen").needs.display_device, "sRGB", "{version}");
        let needs = &survey.needs;
        assert_eq!(needs.color_spaces["Non-Color"], "Data", "{version}");
        let pairs = |names: &BTreeMap<String, String>| {
            names.iter().map(|(name, owner)| format!("{name} in {owner}")).collect::<Vec<_>>()
        };
        assert_eq!(pairs(&needs.foreign_nodes), ["OctaneLikeNode in Glass"], "{version}");
        assert_eq!(pairs(&needs.foreign_trees), ["LogicLikeTree in Game"], "{version}");
    }
}

#[test]
fn files_without_add_ons_need_none() {
    for version in VERSIONS {
        for name in ["references", "saved-by"] {
            let needs = survey(&fixture(&format!("{name}-{version}.blend"))).unwrap().needs;
            assert!(needs.foreign_nodes.is_empty(), "{name}-{version}: {needs:?}");
            assert!(needs.foreign_trees.is_empty(), "{name}-{version}: {needs:?}");
        }
    }
}

/// Returns the survey of a file, its paths that are drawn, and its paths that are not.
fn drawn_of(version: &str) -> (Survey, BTreeSet<String>, BTreeSet<String>) {
    let mut survey = survey(&fixture(&format!("drawn-{version}.blend"))).unwrap();
    let mut drawn = Drawn::default();
    survey.uses.draw(&mut drawn, survey.scene_block("").unwrap(), Sight::OfLayersThatAreOn);
    survey.keep_hazards(&drawn);
    let (is, is_not): (Vec<_>, Vec<_>) =
        survey.references.iter().partition(|it| drawn.contains(it.block));
    let paths = |them: Vec<&Reference>| them.into_iter().map(|it| it.path.clone()).collect();
    let (is, is_not) = (paths(is), paths(is_not));
    (survey, is, is_not)
}

#[test]
fn data_blocks_that_are_drawn_are_told_from_unused_ones() {
    for version in VERSIONS {
        let (survey, drawn, not_drawn) = drawn_of(version);
        let of = |names: &[&str]| -> BTreeSet<_> {
            names.iter().map(|name| format!("//files/{name}.png")).collect()
        };
        let pictures: BTreeSet<_> =
            drawn.into_iter().filter(|path| path.ends_with(".png")).collect();
        let expected =
            of(&["drawn", "drawn by a modifier", "drawn in a group", "drawn in the world"]);
        assert_eq!(pictures, expected, "{version}");
        let expected = of(&[
            "behind the camera",
            "kept",
            "not linked",
            "of a brush",
            "of an empty",
            "of another scene",
        ]);
        assert_eq!(not_drawn, expected, "{version}");
        // The cloth is in the other scene.
        let is_unbaked = |hazard: &Hazard| matches!(hazard, Hazard::UnbakedSimulation { .. });
        assert!(!survey.hazards.iter().any(is_unbaked), "{version}: {:?}", survey.hazards);
    }
}

#[test]
fn another_scene_draws_other_data_blocks() {
    for version in VERSIONS {
        let survey = survey(&fixture(&format!("drawn-{version}.blend"))).unwrap();
        let mut drawn = Drawn::default();
        survey.uses.draw(
            &mut drawn,
            survey.scene_block("Other").unwrap(),
            Sight::OfLayersThatAreOn,
        );
        let is_drawn = survey.references.iter().filter(|it| drawn.contains(it.block));
        let paths: Vec<_> = is_drawn.map(|it| &*it.path).collect();
        assert_eq!(paths, ["//files/of another scene.png"], "{version}");
        assert_eq!(survey.scene_block("Nowhere"), None);
    }
}

#[test]
fn imports_of_geometry_nodes_are_found_wherever_the_path_is() {
    for version in ["4.5", "5.0"] {
        let (survey, ..) = drawn_of(version);
        let imported = survey.references.iter().filter(|it| it.kind == ReferenceKind::Import);
        let imported: BTreeSet<_> = imported.map(|it| (&*it.owner, &*it.path)).collect();
        let expected = BTreeSet::from([
            ("Socket OBJ", "//files/socket.obj"),
            ("Socket PLY", "//files/socket.ply"),
            ("Socket STL", "//files/socket.stl"),
            ("Socket CSV", "//files/socket.csv"),
            ("Socket Text", "//files/socket.text"),
            ("Socket VDB", "//files/socket.vdb"),
            ("String", "//files/string.obj"),
            ("Switch", "//files/off.obj"),
            ("Switch", "//files/on.obj"),
            ("Nested", "//files/nested.obj"),
            ("Modifier/Nodes", "//files/modifier.obj"),
        ]);
        assert_eq!(imported, expected, "{version}");
        let computed = Hazard::ComputedPath { owner: "Joined".into() };
        assert!(survey.hazards.contains(&computed), "{version}: {:?}", survey.hazards);
    }
}

#[test]
fn a_multiresolution_mesh_in_two_files_is_found() {
    for version in VERSIONS {
        let (survey, drawn, _) = drawn_of(version);
        let file = survey.references.iter().find(|it| it.kind == ReferenceKind::Displacement);
        assert_eq!(file.map(|it| (&*it.owner, &*it.path)), Some(("Dense", "//displaced.btx")));
        assert!(drawn.contains("//displaced.btx"), "{version}");
    }
}

#[test]
fn bakes_of_geometry_nodes_are_found_in_the_file_and_in_folders() {
    for version in ["4.5", "5.0"] {
        let mut survey = survey(&fixture(&format!("bakes-{version}.blend"))).unwrap();
        let owners = |survey: &Survey| -> BTreeSet<String> {
            let owner = |hazard: &Hazard| match hazard {
                Hazard::NotSimulated { owner, .. } => Some(owner.clone()),
                _ => None,
            };
            survey.hazards.iter().filter_map(owner).collect()
        };
        let of = |names: &[&str]| -> BTreeSet<String> {
            names.iter().map(|name| format!("{name}/Nodes")).collect()
        };
        let not_baked = of(&["Packed, not baked", "On disk, not baked"]);
        let on_disk =
            of(&["On disk", "In a group", "In a folder of its own", "With an idle bake node"]);
        // Without checking the disk.
        assert_eq!(owners(&survey), &not_baked | &on_disk, "{version}");
        let shared = format!("//blendcache_bakes-{version}/");
        let has_bake = |folder: &str| {
            let is_bake = |name: &str| name.parse::<i32>().is_ok();
            let shared = folder.strip_prefix(&shared).and_then(|rest| rest.split_once('/'));
            folder == "//own" || shared.is_some_and(|(_, bake)| is_bake(bake))
        };
        survey.forget_baked(has_bake);
        // Simulations that were never baked have no folder.
        assert_eq!(owners(&survey), not_baked, "{version}");
    }
}

#[test]
fn the_numbering_of_a_sequence_is_found() {
    let volume = Numbering::Volume { start: 10, length: 5, offset: 0, mode: Outside::Clip };
    for version in VERSIONS {
        let found = references_of(version).references;
        let of = |owner: &str| {
            let reference = found.iter().find(|it| it.owner == owner).unwrap();
            reference.numberings.iter().map(|(_, numbering)| *numbering).collect::<Vec<_>>()
        };
        assert_eq!(of("Smoke"), [volume], "{version}");
        assert_eq!(of("clip_0001.png"), [Numbering::Clip { start: 1, offset: 0 }], "{version}");
        assert_eq!(of("Sequence"), [], "{version}: nothing shows it");
    }
}
