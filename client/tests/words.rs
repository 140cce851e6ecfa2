//! Checks what is reported before anything is sent: a file that Blender would draw is accepted, and one that it
//! would not draw is refused with the true reason and a solution.

#![allow(clippy::unwrap_used)]

mod project_support;

use std::path::Path;

use assert_cmd::Command;
use project_support::Shot;

/// An address at which nothing listens. A job that gets as far as connecting was accepted.
const NOWHERE: &str = "http://127.0.0.1:1";

const VERSIONS: [&str; 3] = ["3.4", "4.5", "5.0"];

/// Runs the command; returns its exit code and what it printed to stdout and stderr.
fn framecrew(shot: &Shot, env: &[(&str, &Path)], args: &[&str]) -> (i32, String) {
    let mut command = Command::cargo_bin("framecrew").unwrap();
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("FRAMECREW_") || name.starts_with("BLENDER_") || name == "OCIO" {
            command.env_remove(name);
        }
    }
    command.env("XDG_CACHE_HOME", shot.path("cache")).envs(env.iter().copied());
    let output = command.current_dir(shot.base.path()).args(args).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

/// Submits a job with the file; returns whether it was accepted, and what was printed.
fn render(shot: &Shot, file: &str, flags: &[&str]) -> (bool, String) {
    let args = [&["render", file, "--cluster", NOWHERE], flags].concat();
    let (code, said) = framecrew(shot, &[], &args);
    assert!(matches!(code, 2 | 3), "{code}: {said}");
    (code == 3, said)
}

/// The files of `proto/blend/tests/fixtures/needs.py`, with the picture that they refer to.
fn needs() -> Shot {
    let shot = Shot::new();
    for version in VERSIONS {
        let name = format!("needs-{version}.blend");
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/blend/tests/fixtures");
        std::fs::copy(from.join(&name), shot.path(&name)).unwrap();
    }
    shot.copy("tex/wood.png", "data.png");
    shot
}

#[test]
fn the_compositor_needs_the_cameras_of_the_scenes_that_it_shows_and_no_others() {
    let shot = needs();
    for version in VERSIONS {
        let file = format!("needs-{version}.blend");
        for (scene, may) in [("Seen", true), ("Other", true), ("Only", true), ("Own", false)] {
            let (does, said) = render(&shot, &file, &["--scene", scene]);
            assert_eq!(does, may, "{file}, {scene}: {said}");
            assert_eq!(said.contains("no camera in the scene `Own`"), !may, "{said}");
        }
    }
}

#[test]
fn a_format_that_cannot_be_kept_is_refused_with_the_flag_that_changes_it() {
    let shot = needs();
    for version in VERSIONS {
        let file = format!("needs-{version}.blend");
        let (is_sent, said) = render(&shot, &file, &["--scene", "Film"]);
        assert!(!is_sent, "{said}");
        for word in [&file, "DPX", "--format PNG --depth 16", "--format OPEN_EXR"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        for chosen in [&["--format", "PNG", "--depth", "16"][..], &["--format", "OPEN_EXR"]] {
            let (is_sent, said) = render(&shot, &file, &[&["--scene", "Film"], chosen].concat());
            assert!(is_sent, "{said}");
        }
        // The format of File Output nodes, which write in addition to the frames, is no reason to refuse these.
        let (is_sent, said) = render(&shot, &file, &["--scene", "Only"]);
        assert!(is_sent && said.contains("note: File Output nodes write DPX"), "{said}");
        let (is_sent, said) = render(&shot, &file, &["--scene", "Only", "--strict"]);
        assert!(
            !is_sent && said.contains("because of --strict: File Output nodes write DPX"),
            "{said}"
        );
    }
}

#[test]
fn a_blender_older_than_the_file_may_be_chosen_and_its_risk_is_reported() {
    let shot = needs();
    let of = |file: &str, wanted: &str, flags: &[&str]| {
        let scene = ["--scene", "Seen", "--blender", wanted];
        render(&shot, file, &[&scene[..], flags].concat())
    };
    let (is_sent, said) = of("needs-4.5.blend", "4.2.1", &["--strict"]);
    let words = "saved by Blender 4.5; 4.2, which --blender asks for, may lose";
    assert!(is_sent && said.contains(words), "{said}");
    let (is_sent, said) = of("needs-4.5.blend", "3.4", &[]);
    assert!(is_sent && said.contains("is known to crash on such files"), "{said}");
    let (is_sent, said) = of("needs-5.0.blend", "4.5", &[]);
    assert!(is_sent && said.contains("may lose"), "{said}");
    let (is_sent, said) = of("needs-5.0.blend", "4.2", &[]);
    assert!(!is_sent && said.contains("no Blender before 4.5 can read"), "{said}");
    for (file, wanted) in [("needs-3.4.blend", "3.4.1"), ("needs-3.4.blend", "4.5")] {
        let (is_sent, said) = of(file, wanted, &[]);
        assert!(is_sent && !said.contains("saved by"), "{said}");
    }
    let (is_sent, said) = of("needs-3.4.blend", "latest", &[]);
    assert!(!is_sent && said.contains("--blender") && said.contains("like 4.5"), "{said}");
}

/// The lines after the note about missing files.
fn missing(said: &str) -> Vec<String> {
    let lines = said.lines().skip_while(|line| !line.contains("not there, so the frames"));
    let below = lines.skip(1).take_while(|line| line.starts_with("  "));
    below.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn missing_files_are_named_as_stored_in_the_blend() {
    let at = |path: &str| {
        let shot = Shot::new();
        shot.point("shot.blend", "wood", path);
        missing(&render(&shot, "shot.blend", &[]).1)
    };
    for path in [
        "//gone/wood.png",
        "/srv/gone/wood.png",
        "gone.png",
        "D:\\film\\gone.png",
        "\\\\nas\\film\\gone.png",
    ] {
        assert_eq!(at(path), [format!("{path} (image `wood` in shot.blend): missing")]);
    }
    let near = |path: &str, hint: &str| {
        assert_eq!(at(path), [format!("{path} (image `wood` in shot.blend): missing; {hint}")]);
    };
    near("//Tex/WOOD.png", "`//tex/wood.png` is there, but letter case counts");
    let found = "`//tex/wood.png` is there: if that is meant, let Blender find it (File > External Data > Find \
                 Missing Files)";
    near("D:\\film\\tex\\wood.png", found);
    near("\\\\nas\\film\\tex\\wood.png", found);
    assert_eq!(at("//tex\\wood.png"), [""; 0]);
}

#[test]
fn a_library_that_differs_in_letter_case_is_named_first() {
    let shot = Shot::new();
    shot.rename("lib/props.blend", "lib/Props.blend");
    shot.rename("tex/wood.png", "tex/wood.bmp");
    let lines = missing(&render(&shot, "shot.blend", &[]).1);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("//lib/props.blend (library"), "{lines:?}");
    assert!(
        lines[0].ends_with("`//lib/Props.blend` is there, but letter case counts"),
        "{lines:?}"
    );
    let (is_sent, said) = render(&shot, "shot.blend", &["--strict"]);
    assert!(!is_sent && said.contains("//lib/props.blend"), "{said}");
}

#[test]
fn missing_files_are_sorted_by_loss_with_one_line_for_each_folder() {
    let shot = Shot::new();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/blend/tests/fixtures");
    std::fs::copy(from.join("references-3.4.blend"), shot.path("all.blend")).unwrap();
    let (is_sent, said) =
        render(&shot, "all.blend", &["--engine", "workbench", "--in-order", "on"]);
    assert!(is_sent, "{said}");
    let lines = missing(&said);
    let at = |words: &str| {
        let place = lines.iter().position(|line| line.contains(words));
        place.unwrap_or_else(|| panic!("{words}: {lines:#?}"))
    };
    let order = [
        "//files/library.blend (library",
        "3 pictures of `//files/frames/` (strip `Stage/Frames`",
        "//files/inner/frame_0001.png (strip `Stage/Inner`",
        "//blendcache_all",
        "//files/points.mdd (mesh cache",
        "//files/sound.wav (sound",
    ];
    assert!(order.map(at).is_sorted(), "{lines:#?}");
    // Each line occurs once.
    let mut unique = lines.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), lines.len(), "{lines:#?}");
}

/// Writes a colour configuration with a studio's view and colour space, and its table.
fn studio(shot: &Shot) -> std::path::PathBuf {
    shot.write("ocio/luts/film.spi1d", b"Version 1\n");
    let text = "ocio_profile_version: 1\nsearch_path: luts\ndisplays:\n  sRGB:\n    - !<View> {name: Studio, colorspace: \
                Film}\ncolorspaces:\n  - !<ColorSpace>\n    name: Film\n    from_reference: !<FileTransform> {src: \
                film.spi1d}\n";
    shot.write("ocio/config.ocio", text.as_bytes())
}

#[test]
fn a_view_that_blender_lacks_is_sent_with_the_configuration_that_has_it() {
    let shot = needs();
    let config = studio(&shot);
    let packed = std::fs::File::open(shot.path("needs-3.4.blend")).unwrap();
    let mut bytes = zstd::decode_all(packed).unwrap();
    let filmic: Vec<_> =
        (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"Filmic\0")).collect();
    assert!(!filmic.is_empty());
    filmic.into_iter().for_each(|at| bytes[at..at + 6].copy_from_slice(b"Studio"));
    shot.write("studio.blend", &bytes);

    let words = "the scene has the view `Studio`, which Blender's own colour configuration lacks";
    let (is_sent, said) = render(&shot, "studio.blend", &[]);
    assert!(is_sent && said.contains(words) && said.contains("--ocio FILE"), "{said}");
    let (is_sent, said) = render(&shot, "studio.blend", &["--strict"]);
    assert!(
        !is_sent && said.contains("because of --strict: the scene has the view `Studio`"),
        "{said}"
    );
    let (_, said) = framecrew(&shot, &[], &["inspect", "studio.blend"]);
    assert!(said.contains(words), "{said}");

    let here = [("OCIO", config.as_path())];
    let strict = ["render", "studio.blend", "--cluster", NOWHERE, "--strict"];
    let (code, said) = framecrew(&shot, &here, &strict);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("is sent, too: it has the view `Studio`"), "{said}");
    let (_, said) = framecrew(&shot, &here, &["inspect", "studio.blend"]);
    assert!(said.contains("a submission sends the colour configuration of OCIO"), "{said}");
    // If the file needs nothing of it, it is not sent, and a note says so.
    let (_, said) = framecrew(&shot, &here, &["inspect", "shot.blend"]);
    assert!(said.contains("nodes draw with Blender's own colour configuration; --ocio"), "{said}");

    // One that cannot be read is only noted, unless the file has a view or a space that Blender lacks.
    let at = bytes.windows(10).position(|name| name == b"Non-Color\0").unwrap();
    let mut spaces =
        zstd::decode_all(&*std::fs::read(shot.path("needs-3.4.blend")).unwrap()).unwrap();
    spaces[at..at + 9].copy_from_slice(b"Film-Look");
    shot.write("space.blend", &spaces);
    for gone in ["gone.ocio", "ocio://default"] {
        let here = [("OCIO", Path::new(gone))];
        let words = format!("nodes draw with Blender's own colour configuration: {gone}");
        let strict =
            |file| framecrew(&shot, &here, &["render", file, "--cluster", NOWHERE, "--strict"]);
        let (code, said) = strict("shot.blend");
        assert!(code == 3 && said.contains(&words), "{code}: {said}");
        for file in ["studio.blend", "space.blend"] {
            let (code, said) = strict(file);
            assert!(code == 2 && said.contains("because of --strict: OCIO is set here"), "{said}");
        }
        let (_, said) = framecrew(&shot, &here, &["inspect", "shot.blend"]);
        assert!(said.contains(&words), "{said}");
    }

    let (is_sent, said) =
        render(&shot, "studio.blend", &["--ocio", "ocio/config.ocio", "--strict"]);
    assert!(is_sent && !said.contains("lacks"), "{said}");
    let (is_sent, said) = render(&shot, "studio.blend", &["--ocio", "ocio"]);
    assert!(!is_sent && said.contains("is not a file; name the config.ocio"), "{said}");
}

#[tokio::test]
async fn a_configuration_and_add_ons_are_sent_in_separate_folders() {
    let shot = Shot::new();
    let config = studio(&shot);
    // An archive that only consists of its list of one empty file, `__init__.py`.
    let mut zip = vec![0; 46];
    zip[..4].copy_from_slice(b"PK\x01\x02");
    zip[28] = 11;
    zip.extend(b"__init__.py");
    let mut end = vec![0; 22];
    end[..4].copy_from_slice(b"PK\x05\x06");
    end[12] = 57;
    zip.extend(end);
    let addon = shot.write("tool.zip", &zip);
    let plain = framecrew::JobSpec::animation(shot.path("shot.blend"));
    let before = framecrew::Project::open(plain.clone()).await.unwrap().file_count();
    let project = framecrew::Project::open(plain.color_config(config).addon(addon)).await.unwrap();
    assert_eq!(project.file_count(), before + 3);
    let settings = project.spec().settings.clone().unwrap();
    assert_eq!(settings.color_config, "framecrew-ocio/config.ocio");
    assert_eq!(settings.addons, ["framecrew-addons/tool.zip"]);
}

#[test]
fn an_add_on_that_a_file_needs_is_named() {
    let shot = needs();
    for version in VERSIONS {
        let file = format!("needs-{version}.blend");
        let (_, said) = framecrew(&shot, &[], &["inspect", &file]);
        assert!(
            said.contains("OctaneLikeNode in `Glass`") && said.contains("--addon FILE.zip"),
            "{said}"
        );
        assert!(said.contains("`Game` (LogicLikeTree)"), "{said}");
    }
    let (is_sent, said) =
        render(&shot, "needs-4.5.blend", &["--scene", "Seen", "--addon", "gone.zip"]);
    assert!(!is_sent && said.contains("gone.zip is named with --addon"), "{said}");
    // Nodes that belong to Blender need no add-on.
    let (_, said) = framecrew(&Shot::new(), &[], &["inspect", "shot.blend"]);
    assert!(!said.contains("add-on"), "{said}");
}

#[test]
fn environment_variables_that_change_pictures_are_named() {
    let shot = Shot::new();
    let scripts = [("BLENDER_USER_SCRIPTS", shot.base.path())];
    let (_, said) = framecrew(&shot, &scripts, &["inspect", "shot.blend"]);
    assert!(said.contains("BLENDER_USER_SCRIPTS is set here and may change"), "{said}");
    let (_, said) = framecrew(&shot, &[], &["inspect", "shot.blend"]);
    assert!(!said.contains("set here"), "{said}");
}

#[test]
fn errors_about_arguments_use_the_notation_that_was_typed() {
    let shot = Shot::new();
    let (is_sent, said) = render(&shot, "shot.blend", &["--scale", "50%"]);
    assert!(is_sent, "{said}");
    for (flags, words) in [
        (["--scale", "half"], "like 50"),
        (["--priority", "high"], "-100 to 100: higher goes first"),
        (["-f", "5-1"], "frame range 5-1 runs backwards; did you mean 1-5?"),
    ] {
        let (is_sent, said) = render(&shot, "shot.blend", &flags);
        assert!(!is_sent && said.contains(words), "{said}");
    }
}
