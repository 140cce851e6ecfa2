//! Broken and hostile input: what a person reads, how the command ends, and that nothing is left behind.

#![allow(clippy::unwrap_used)]

mod project_support;

use std::{fs, io::Write, path::PathBuf};

use assert_cmd::Command;
use project_support::{Shot, tree};

/// Where nobody listens: a job that gets as far as that was found to be sound. A port that no service has.
const NOWHERE: &str = "http://127.0.0.1:1";

/// The exit codes for what cannot be used, and for a cluster that cannot be reached.
const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;

/// What a run said, and how it ended.
struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Said {
    /// Checks the exit code and that the words are there, those of programmers not.
    fn says(&self, what: &str, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{what}: {}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{what}: {word:?} is not in: {}", self.stderr);
        }
        for noise in ["Status {", "code:", "Os {", "panicked", "Error("] {
            assert!(!self.stderr.contains(noise), "{what}: {noise:?} is in: {}", self.stderr);
        }
    }
}

/// Runs `framecrew` in the folder of `shot`, with folders of its own for what is passing.
fn framecrew(shot: &Shot, args: &[&str]) -> Said {
    let passing = tempfile::tempdir().unwrap();
    let mut command = Command::cargo_bin("framecrew").unwrap();
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FRAMECREW_") {
            command.env_remove(name);
        }
    }
    command.env("TMPDIR", passing.path()).env("XDG_CACHE_HOME", passing.path());
    let output = command.current_dir(shot.base.path()).args(args).output().unwrap();
    let mut left = tree(passing.path());
    // What is remembered to be quick the next time is no litter.
    left.retain(|name| !name.starts_with("framecrew/digests") && name != "framecrew");
    assert_eq!(left, Vec::<String>::new(), "nothing passing is left");
    Said {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Renders a .blend at a cluster that is not there, and checks that no file appears or goes away.
fn render(shot: &Shot, file: &str, flags: &[&str]) -> Said {
    let before = tree(shot.base.path());
    let args = [&["render", file, "--cluster", NOWHERE][..], flags].concat();
    let said = framecrew(shot, &args);
    assert_eq!(tree(shot.base.path()), before, "nothing is made");
    assert_eq!(said.stdout, "", "{file}");
    said
}

/// The .blend replaced by these bytes.
fn with_bytes(bytes: &[u8]) -> Shot {
    let shot = Shot::new();
    shot.write("shot.blend", bytes);
    shot
}

fn plain() -> Vec<u8> {
    Shot::new().bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn half(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len() / 2]
}

/// Writes a .blend of one block that has this many bytes, all of them zero, and something more.
fn write_zeros(len_bytes: u32, to: &mut impl Write) {
    let mut head = b"BLENDER-v304DATA".to_vec();
    head.extend(len_bytes.to_le_bytes());
    head.extend([0; 16]);
    to.write_all(&head).unwrap();
    let zeros = vec![0; 16 << 20];
    for _ in 0..=len_bytes / (16 << 20) {
        to.write_all(&zeros).unwrap();
    }
}

#[test]
fn a_file_that_is_no_sound_blend_is_refused_in_words() {
    let zstd = fs::read(Shot::new().path("shot.blend")).unwrap();
    let plain = plain();
    let gzipped = gzip(&plain);
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n";
    let picture = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    let mut mixed = plain.clone();
    // The code of the first block, and its length.
    mixed[16..20].fill(0xff);
    let mut no_dna = plain.clone();
    let dna = no_dna.windows(8).rposition(|bytes| bytes == b"SDNANAME").unwrap();
    no_dna[dna..dna + 4].fill(b'?');
    let table: [(&str, &[u8], &[&str]); 13] = [
        ("empty", b"", &["empty", "save it from Blender again"]),
        ("text", b"Dear Blender, please render this.\n", &["not a .blend"]),
        ("a pointer of Git LFS", lfs.as_bytes(), &["Git LFS pointer", "git lfs pull"]),
        ("a picture", picture, &["not a .blend", "PNG"]),
        ("an archive", b"PK\x03\x04 whatever", &["not a .blend"]),
        ("cut off, plain", half(&plain), &["cut off"]),
        ("cut off, by gzip", half(&gzipped), &["cut off"]),
        ("cut off, by zstd", half(&zstd), &["cut off"]),
        ("cut off within its first bytes", &plain[..9], &["cut off"]),
        ("a rotten block", &mixed, &["shot.blend"]),
        ("rotten structs", &no_dna, &["damaged"]),
        ("of a later form", b"BLENDER99-09v9900 and so on", &["newer", "update Framecrew"]),
        ("Blender's name and nothing else", b"BLENDER", &["cut off"]),
    ];
    for (what, bytes, words) in table {
        let shot = with_bytes(bytes);
        let words = [&["shot.blend"], words].concat();
        render(&shot, "shot.blend", &[]).says(what, USAGE, &words);
        framecrew(&shot, &["inspect", "shot.blend"]).says(what, USAGE, &words);
    }
}

#[test]
fn a_rotten_bit_anywhere_never_takes_the_command_down() {
    let whole = fs::read(Shot::new().path("shot.blend")).unwrap();
    let mut refused = 0;
    for at in (0..whole.len()).step_by(whole.len() / 24) {
        let mut rotten = whole.clone();
        rotten[at] ^= 0x10;
        let shot = with_bytes(&rotten);
        let said = render(&shot, "shot.blend", &[]);
        if said.code == USAGE {
            refused += 1;
            said.says(&format!("byte {at}"), USAGE, &["shot.blend"]);
        } else {
            said.says(&format!("byte {at}"), UNREACHABLE, &[]);
        }
    }
    assert!(refused > 0);
}

#[test]
fn bombs_are_refused_before_they_fill_anything() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    write_zeros((2 << 30) - 4, &mut encoder);
    let shot = with_bytes(&encoder.finish().unwrap());
    let words = ["decompresses to more than", "without compression"];
    render(&shot, "shot.blend", &[]).says("a bomb by zstd", USAGE, &words);

    // Gzip makes at most a thousand of one: that much is read, and kept nowhere.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    write_zeros(256 << 20, &mut encoder);
    let shot = with_bytes(&encoder.finish().unwrap());
    render(&shot, "shot.blend", &[]).says("a bomb by gzip", USAGE, &["damaged"]);
}

#[test]
fn what_was_asked_for_in_vain_is_named_with_what_there_is() {
    let table: [(&str, &str, &[&str], &[&str]); 11] = [
        ("nothing", "gone.blend", &[], &["gone.blend", "does not exist"]),
        ("a folder", "tex", &[], &["tex", "is a folder"]),
        ("a library", "lib/props.blend", &[], &["has no scene to render"]),
        ("a scene", "shot.blend", &["--scene", "Nowhere"], &["no scene `Nowhere`", "`Scene`"]),
        ("a camera", "shot.blend", &["--camera", "Drone"], &["no camera `Drone`", "`Camera`"]),
        (
            "a view layer",
            "shot.blend",
            &["--view-layer", "Fog"],
            &["no view layer `Fog`", "`ViewLayer`"],
        ),
        ("a depth", "shot.blend", &["--depth", "32"], &["32 bits", "PNG has 8 or 16"]),
        (
            "a depth for a format",
            "shot.blend",
            &["--format", "jpeg", "--depth", "16"],
            &["16 bits", "JPEG has 8", "--depth"],
        ),
        ("frames backwards", "shot.blend", &["-f", "9-1"], &["runs backwards"]),
        ("no frames", "shot.blend", &["-f", "abc"], &["abc"]),
        ("too many frames", "shot.blend", &["-f", "1-2000000"], &["more than a job may have"]),
    ];
    let shot = Shot::new();
    for (what, file, flags, words) in table {
        render(&shot, file, flags).says(what, USAGE, words);
    }
    render(&shot, "shot.blend", &["-f", "-9--1"]).says("negative frames", UNREACHABLE, &[]);
}

/// The .blend, not compressed, with another engine.
fn with_engine(engine: &str) -> Shot {
    let mut bytes = plain();
    let from = b"CYCLES\0";
    let found = bytes.windows(from.len()).enumerate().filter(|(_, window)| window == from);
    let places: Vec<usize> = found.map(|(at, _)| at).collect();
    let [at] = places[..] else { panic!("{places:?}") };
    bytes[at..at + engine.len()].copy_from_slice(engine.as_bytes());
    bytes[at + engine.len()] = 0;
    with_bytes(&bytes)
}

#[test]
fn an_engine_that_no_blender_has_is_refused_until_another_is_named() {
    for (engine, words) in [
        ("APPLESEED_RENDER", ["`APPLESEED_RENDER`, which is not part of Blender", "--engine"]),
        ("BLENDER_RENDER", ["Blender Render, which Blender has not had since 2.80", "--engine"]),
    ] {
        let shot = with_engine(engine);
        render(&shot, "shot.blend", &[]).says(engine, USAGE, &words);
        render(&shot, "shot.blend", &["--engine", "cycles"]).says(engine, UNREACHABLE, &[]);
        let said = framecrew(&shot, &["inspect", "shot.blend"]);
        assert_eq!(said.code, 1);
        assert!(
            said.stdout.contains("BLOCKS") && said.stdout.contains("--engine"),
            "{}",
            said.stdout
        );
    }
}

#[test]
fn what_is_missing_is_told_before_anything_is_paid_for_and_refused_when_strict() {
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\nsize 12345\n";
    type Case<'a> = (&'a str, &'a dyn Fn(&Shot), &'a [&'a str]);
    let table: [Case<'_>; 7] = [
        (
            "a picture that is not there",
            &|shot| fs::remove_file(shot.path("tex/wood.png")).unwrap(),
            &["//tex/wood.png", "missing"],
        ),
        (
            "a library that is not there",
            &|shot| fs::remove_file(shot.path("lib/props.blend")).unwrap(),
            &["//lib/props.blend", "library", "missing"],
        ),
        (
            "a library that is cut off",
            &|shot| {
                let whole = fs::read(shot.path("lib/props.blend")).unwrap();
                shot.write("lib/props.blend", half(&whole));
            },
            &["//lib/props.blend", "cut off"],
        ),
        (
            "a picture that Git keeps elsewhere",
            &|shot| drop(shot.write("tex/wood.png", lfs.as_bytes())),
            &["//tex/wood.png", "Git LFS pointer"],
        ),
        (
            "a folder in the place of a picture",
            &|shot| {
                fs::remove_file(shot.path("tex/wood.png")).unwrap();
                fs::create_dir(shot.path("tex/wood.png")).unwrap();
            },
            &["//tex/wood.png", "a folder, not a file"],
        ),
        (
            "a secret by an absolute path",
            &|shot| {
                let secret = shot.write("home/.ssh/id_rsa", b"-----BEGIN OPENSSH PRIVATE KEY-----");
                shot.point("shot.blend", "wood", secret.to_str().unwrap());
            },
            &["id_rsa", "not of a kind that Blender reads; it stays here"],
        ),
        (
            "a secret by a way up",
            &|shot| shot.point("shot.blend", "wood", "//../../../../../../../../../../etc/passwd"),
            &["etc/passwd", "it stays here"],
        ),
    ];
    for (what, arrange, words) in table {
        let shot = Shot::new();
        arrange(&shot);
        let note = [words, &["note: "]].concat();
        render(&shot, "shot.blend", &[]).says(what, UNREACHABLE, &note);
        let refusal = [words, &["--strict"]].concat();
        render(&shot, "shot.blend", &["--strict"]).says(what, USAGE, &refusal);
    }
}

#[test]
fn libraries_that_link_each_other_and_themselves_are_no_trap() {
    let shot = Shot::new();
    shot.copy("shot.blend", "lib/props.blend");
    shot.point("lib/props.blend", "props.blend", "//../shot.blend");
    shot.point("lib/props.blend", "wood", "//../tex/wood.png");
    render(&shot, "shot.blend", &["--strict"]).says("a cycle", UNREACHABLE, &[]);
    shot.point("shot.blend", "props.blend", "//shot.blend");
    render(&shot, "shot.blend", &["--strict"]).says("itself", UNREACHABLE, &[]);
}

#[test]
fn paths_that_differ_only_in_case_are_refused() {
    let shot = Shot::new();
    shot.rename("tex/metal.png", "tex/WOOD.png");
    shot.point("lib/props.blend", "metal", "//../tex/WOOD.png");
    if fs::read_dir(shot.path("tex")).unwrap().count() < 2 {
        return skipped("case does not count on this disk");
    }
    let words = ["wood.png", "WOOD.png", "differ only in case", "rename one"];
    render(&shot, "shot.blend", &[]).says("case", USAGE, &words);
}

#[test]
fn names_of_any_length_are_taken_or_missing() {
    let shot = Shot::new();
    let text = format!("//{}.png", "x".repeat(700));
    shot.point("shot.blend", "wood", &text);
    render(&shot, "shot.blend", &[]).says("a name of 700 letters", UNREACHABLE, &["missing"]);
    let deep = vec!["d".repeat(200); 4].join("/");
    shot.write(&format!("{deep}/wood.png"), b"\x89PNG\r\n\x1a\n");
    shot.point("shot.blend", "wood", &format!("//{deep}/wood.png"));
    render(&shot, "shot.blend", &["--strict"]).says("800 letters", UNREACHABLE, &[]);
}

#[cfg(unix)]
mod on_unix {
    use std::{
        os::unix::fs::{PermissionsExt as _, symlink},
        process,
    };

    use super::*;

    #[test]
    fn a_link_out_of_the_project_is_refused_until_it_is_meant() {
        let (shot, elsewhere) = (Shot::new(), Shot::new());
        fs::remove_file(shot.path("tex/wood.png")).unwrap();
        symlink(elsewhere.path("tex/wood.png"), shot.path("tex/wood.png")).unwrap();
        let to = elsewhere.path("tex/wood.png").canonicalize().unwrap();
        let words =
            ["tex/wood.png", "is a link that leads out", to.to_str().unwrap(), "--follow-links"];
        render(&shot, "shot.blend", &[]).says("a link", USAGE, &words);
        render(&shot, "shot.blend", &["--follow-links"]).says("meant", UNREACHABLE, &[]);

        let shot = Shot::new();
        fs::remove_dir_all(shot.path("tex")).unwrap();
        symlink(elsewhere.path("tex"), shot.path("tex")).unwrap();
        render(&shot, "shot.blend", &[]).says(
            "a folder",
            USAGE,
            &["/tex is a link", "--follow-links"],
        );

        let shot = Shot::new();
        shot.rename("tex", "textures");
        symlink("textures", shot.path("tex")).unwrap();
        render(&shot, "shot.blend", &["--strict"]).says("inside", UNREACHABLE, &[]);

        let shot = Shot::new();
        let secret = elsewhere.write("id_rsa", b"secret");
        fs::remove_file(shot.path("tex/wood.png")).unwrap();
        symlink(secret, shot.path("tex/wood.png")).unwrap();
        let words = ["//tex/wood.png", "it stays here"];
        render(&shot, "shot.blend", &["--follow-links"]).says("to a secret", UNREACHABLE, &words);
    }

    #[test]
    fn a_pipe_in_the_place_of_a_picture_is_not_waited_for() {
        let shot = Shot::new();
        for name in ["tex/wood.png", "pipe.blend"] {
            let _ = fs::remove_file(shot.path(name));
            assert!(
                process::Command::new("mkfifo").arg(shot.path(name)).status().unwrap().success()
            );
        }
        let words = ["//tex/wood.png", "a pipe or device, not a file"];
        render(&shot, "shot.blend", &[]).says("a pipe", UNREACHABLE, &words);
        render(&shot, "pipe.blend", &[]).says("a pipe", USAGE, &["a pipe or device"]);
    }

    #[test]
    fn what_may_not_be_read_is_named() {
        if rustix::process::geteuid().is_root() {
            return skipped("root may read everything");
        }
        let shot = Shot::new();
        fs::set_permissions(shot.path("shot.blend"), fs::Permissions::from_mode(0o000)).unwrap();
        render(&shot, "shot.blend", &[]).says("forbidden", USAGE, &["shot.blend", "permissions"]);
    }

    #[test]
    fn a_hundred_thousand_files_are_taken_and_one_more_is_refused() {
        let shot = Shot::new();
        shot.copy("row.blend", "row.blend");
        let first = shot.copy("tex/wood.png", "row/wood1.png");
        let link = |number: u32| {
            let name = shot.path(&format!("row/wood{number}.png"));
            fs::hard_link(&first, &name).or_else(|_| fs::copy(&first, name).map(drop)).unwrap();
        };
        // With the .blend there are 100,000.
        (2..100_000).for_each(link);
        let said = framecrew(&shot, &["inspect", "row.blend"]);
        assert!(said.stdout.contains("sends 100000 files"), "{}{}", said.stdout, said.stderr);
        assert_eq!(said.code, 0);
        link(100_000);
        let words = ["row.blend", "more than 100,000 files"];
        let said = framecrew(&shot, &["render", "row.blend", "--cluster", NOWHERE]);
        said.says("files", USAGE, &words);
    }

    /// A small disk of its own, which only root can have.
    struct SmallDisk(PathBuf);

    impl SmallDisk {
        fn mount(at: PathBuf, size: &str) -> Option<Self> {
            fs::create_dir_all(&at).unwrap();
            let size = format!("size={size}");
            let mount = process::Command::new("mount")
                .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
                .arg(&at)
                .output();
            mount.is_ok_and(|output| output.status.success()).then_some(Self(at))
        }
    }

    const NO_SMALL_DISK: &str = "no small disk can be mounted; it takes root";

    #[cfg(feature = "local")]
    #[test]
    fn a_full_disk_under_the_output_folder_ends_the_command_in_words() {
        let shot = Shot::new();
        let Some(disk) = SmallDisk::mount(shot.path("small"), "32k") else {
            return skipped(NO_SMALL_DISK);
        };
        let args = [
            "render",
            "shot.blend",
            "-f",
            "1-40",
            "--local",
            "--renderer",
            "synthetic:1ms",
            "-o",
            "small/out",
        ];
        let said = framecrew(&shot, &args);
        said.says("a full disk", USAGE, &["small/out", "no storage space", "-o DIR"]);
        let left = tree(&disk.0.join("out"));
        assert!(left.iter().all(|name| name.ends_with(".png")), "{left:?}");
        for name in left {
            assert!(
                image::open(disk.0.join("out").join(name)).is_ok(),
                "no broken frame has a name"
            );
        }
    }

    #[cfg(feature = "local")]
    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_disk_under_the_orchestrator_refuses_the_job_in_words_and_keeps_nothing_of_it() {
        use framecrew::{JobSpec, LocalCluster, LocalConfig};

        let shot = Shot::new();
        let Some(disk) = SmallDisk::mount(shot.path("small"), "8m") else {
            return skipped(NO_SMALL_DISK);
        };
        let renderer = framecrew_node::RendererChoice::Synthetic(std::time::Duration::ZERO);
        let local = LocalCluster::start(LocalConfig::new(1, &disk.0, renderer)).await.unwrap();
        let noise: Vec<u8> = (0..16 << 20).map(|_| fastrand::u8(..)).collect();
        shot.write("tex/wood.png", &noise);
        let spec = JobSpec::animation(shot.path("shot.blend"));
        let text = local.cluster().submit(spec).await.unwrap_err().to_string();
        assert!(text.contains("disk has") && text.contains("make room"), "{text}");
        assert!(local.cluster().jobs(10).await.unwrap().is_empty());
        local.shutdown().await;
    }

    impl Drop for SmallDisk {
        fn drop(&mut self) {
            let _ = process::Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
}

/// Says why a test tests nothing here. Not by eprintln, which the test harness keeps to itself.
fn skipped(why: &str) {
    let _ = std::io::stderr().write_all(format!("skipped: {why}\n").as_bytes());
}
