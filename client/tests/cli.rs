//! What people see who type something wrong: the exit code and the words.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
};

use assert_cmd::Command;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.blend");

/// What a run said, and how it ended.
struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Said {
    /// Checks the exit code, that nothing was printed as a result, and that the error has all these words.
    fn refuses(&self, code: i32, words: &[&str]) {
        assert_eq!(self.stdout, "");
        self.refuses_in_the_end(code, words);
    }

    /// The same after something may have been printed.
    fn refuses_in_the_end(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in: {}", self.stderr);
        }
        for noise in ["Status {", "code:", "Os {", "panicked", "Error("] {
            assert!(!self.stderr.contains(noise), "{noise:?} is in: {}", self.stderr);
        }
    }
}

/// Runs `framecrew` in a folder, without the environment's own settings.
fn framecrew(folder: &Path, args: &[&str]) -> Said {
    let mut command = Command::cargo_bin("framecrew").unwrap();
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FRAMECREW_") {
            command.env_remove(name);
        }
    }
    let output = command.current_dir(folder).args(args).output().unwrap();
    Said {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// A URL at which nothing listens.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// What can be connected to, but never answers: an attempt to submit would not come to an end.
fn mute() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let folder = folder();
    let said = framecrew(folder.path(), &["render", "gone.blend"]);
    said.refuses(2, &["gone.blend", "does not exist"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is made");
}

#[test]
fn a_file_that_is_no_blend_is_refused() {
    let folder = folder();
    write(
        folder.path(),
        "notes.blend",
        b"PK\x03\x04 this is a zip archive, whatever its name says",
    );
    let said = framecrew(folder.path(), &["render", "notes.blend"]);
    said.refuses(2, &["notes.blend", "not a .blend"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is made");
}

#[test]
fn a_truncated_blend_is_refused() {
    let folder = folder();
    let whole = fs::read(DEMO).unwrap();
    for share in [3, 2] {
        write(folder.path(), "cut.blend", &whole[..whole.len() / share]);
        let said = framecrew(folder.path(), &["render", "cut.blend", "-f", "1"]);
        said.refuses(2, &["cut.blend"]);
    }
    write(folder.path(), "empty.blend", b"");
    framecrew(folder.path(), &["render", "empty.blend"]).refuses(2, &["empty.blend", "empty"]);
}

#[test]
fn a_folder_instead_of_a_file_is_refused() {
    let folder = folder();
    framecrew(folder.path(), &["render", "."]).refuses(2, &["is a folder"]);
}

#[test]
fn a_reversed_range_is_refused() {
    let folder = folder();
    let said = framecrew(folder.path(), &["render", DEMO, "-f", "24-1"]);
    said.refuses(2, &["runs backwards", "did you mean 1-24?"]);
}

#[test]
fn a_colon_is_refused_with_both_of_its_meanings() {
    let folder = folder();
    let said = framecrew(folder.path(), &["render", DEMO, "-f", "1:10"]);
    said.refuses(2, &["from:to", "every n-th", "1-10x2"]);
}

#[test]
fn faulty_frames_are_refused_before_the_file_is_looked_at() {
    let folder = folder();
    for (frames, word) in
        [("1-10x0", "step of 0"), ("1-5,3", "twice"), ("1-2000000", "1000000"), ("", "no frames")]
    {
        framecrew(folder.path(), &["render", "gone.blend", "-f", frames]).refuses(2, &[word]);
    }
}

#[test]
fn a_scene_that_is_not_in_the_file_is_refused_with_those_that_are() {
    let folder = folder();
    let said = framecrew(folder.path(), &["render", DEMO, "--scene", "Nowhere"]);
    said.refuses(2, &["no scene `Nowhere`", "--scene"]);
}

#[test]
fn settings_out_of_range_are_refused_with_the_range() {
    let folder = folder();
    for flag in [
        ["--samples", "0"],
        ["--scale", "1001"],
        ["--priority", "101"],
        ["--engine", "povray"],
        ["--denoise", "maybe"],
        ["--format", "BMP"],
        ["--depth", "9"],
        ["--movie", "out.avi"],
    ] {
        framecrew(folder.path(), &["render", DEMO, flag[0], flag[1]])
            .refuses(2, &[flag[0], flag[1]]);
    }
}

#[test]
fn times_without_units_and_limits_out_of_range_are_refused() {
    let folder = folder();
    for flag in ["--node-silence", "--frame-silence", "--frame-limit"] {
        framecrew(folder.path(), &["render", DEMO, flag, "90"]).refuses(2, &[flag, "90s, 10m"]);
    }
    let limits = ["--node-silence", "3s", "--frame-silence", "2d", "--frame-limit", "31d"];
    let said = framecrew(folder.path(), &[&["render", "gone.blend"], &limits[..]].concat());
    said.refuses(2, &["node silence: must be 15 s", "frame silence: must be", "frame limit: must"]);
}

#[test]
fn a_movie_of_a_kind_that_is_not_made_is_refused_with_those_that_are() {
    let folder = folder();
    for movie in ["out.avi", "out", "mp4"] {
        let said = framecrew(folder.path(), &["render", DEMO, "--movie", movie]);
        said.refuses(2, &[movie, ".mp4", ".mkv", ".mov", ".webm"]);
        let said = framecrew(folder.path(), &["fetch", "1", "--movie", movie]);
        said.refuses(2, &[movie, ".mp4"]);
    }
}

#[test]
fn a_movie_of_openexr_is_refused_before_the_file_is_looked_at() {
    let folder = folder();
    for format in ["OPEN_EXR", "exr", "OPEN_EXR_MULTILAYER", "EXR_MULTILAYER"] {
        let args = ["render", "gone.blend", "--movie", "out.mp4", "--format", format];
        framecrew(folder.path(), &args).refuses(2, &["OpenEXR", "--format", "PNG"]);
    }
}

#[test]
fn a_movie_that_cannot_be_written_is_refused_before_anything_is_submitted() {
    let folder = folder();
    let file = write(folder.path(), "file", b"");
    fs::create_dir(folder.path().join("folder.mp4")).unwrap();
    let (_mute, url) = mute();
    let below = file.join("out.mp4");
    for movie in [below.to_str().unwrap(), "folder.mp4"] {
        let args = ["render", DEMO, "-o", "out", "--movie", movie, "--cluster", &url];
        framecrew(folder.path(), &args).refuses(2, &[movie]);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is made");
}

#[test]
fn a_movie_is_fetched_alone() {
    let folder = folder();
    for with in [["-o", "out"], ["-f", "1-9"]] {
        let args = [&["fetch", "1", "--movie", "out.mp4"][..], &with].concat();
        framecrew(folder.path(), &args).refuses(2, &["--movie", "drop -o and -f"]);
    }
}

#[test]
fn a_view_layer_that_is_not_in_the_file_is_refused_with_those_that_are() {
    let folder = folder();
    let said = framecrew(folder.path(), &["render", DEMO, "--view-layer", "Nowhere"]);
    said.refuses(2, &["no view layer `Nowhere`", "`ViewLayer`", "--view-layer"]);
}

#[test]
fn an_orchestrator_that_is_not_there_is_named_with_how_to_start_one() {
    let folder = folder();
    let url = nowhere();
    let output = folder.path().join("out");
    let output = output.to_str().unwrap();
    for args in [
        vec!["render", DEMO, "-o", output],
        vec!["watch", "1"],
        vec!["jobs"],
        vec!["job", "1"],
        vec!["nodes"],
        vec!["cancel", "1"],
        vec!["fetch", "1"],
        vec!["logs", "1"],
    ] {
        let args = [&args[..], &["--cluster", &url]].concat();
        framecrew(folder.path(), &args).refuses(3, &[&url, "framecrew up"]);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is made");
}

/// Commands that cannot do anything without an orchestrator.
const OF_CLUSTER: [&[&str]; 9] = [
    &["render", DEMO, "--detach"],
    &["watch", "1"],
    &["jobs"],
    &["job", "1"],
    &["nodes"],
    &["cancel", "1"],
    &["retry", "1"],
    &["fetch", "1"],
    &["logs", "1"],
];

/// Runs all of them at once, as each may take its time, at what accepts every connection and gives it to `serve`.
fn all_give_up_on(serve: impl Fn(TcpStream) + Clone + Send + 'static) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.unwrap(), serve.clone());
            thread::spawn(move || serve(stream));
        }
    });
    let folder = folder();
    thread::scope(|scope| {
        for command in OF_CLUSTER {
            let (url, folder) = (&url, folder.path());
            scope.spawn(move || {
                let args = [command, &["--cluster", url]].concat();
                framecrew(folder, &args).refuses_in_the_end(3, &[url]);
            });
        }
    });
}

#[test]
fn what_speaks_another_protocol_is_unreachable_too() {
    all_give_up_on(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
    });
}

#[test]
fn what_speaks_another_protocol_and_does_not_hang_up_is_unreachable_too() {
    all_give_up_on(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
}

#[test]
fn what_accepts_and_never_answers_is_unreachable_too() {
    all_give_up_on(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
}

#[test]
fn what_is_no_url_is_refused() {
    let folder = folder();
    let said = framecrew(folder.path(), &["jobs", "--cluster", "localhost:4000"]);
    said.refuses(2, &["localhost:4000", "http://127.0.0.1:4000"]);
}

#[test]
fn an_output_folder_below_a_file_is_refused_before_anything_is_submitted() {
    let folder = folder();
    let file = write(folder.path(), "file", b"");
    let output = file.join("frames");
    let output = output.to_str().unwrap();
    let (_mute, url) = mute();
    let said = framecrew(folder.path(), &["render", DEMO, "-o", output, "--cluster", &url]);
    said.refuses(2, &[output, "cannot write", "-o DIR"]);
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_folder_that_takes_no_files_is_refused() {
    let folder = folder();
    let (_mute, url) = mute();
    let args = ["render", DEMO, "-o", "/proc/frames", "--cluster", &url];
    let said = framecrew(folder.path(), &args);
    said.refuses(2, &["/proc/frames", "cannot write"]);
}

#[test]
fn logs_in_a_file_have_no_colours() {
    let folder = folder();
    let mut command = Command::cargo_bin("framecrew").unwrap();
    command.args(["jobs", "--cluster", &nowhere()]).current_dir(folder.path());
    let output = command.env("FRAMECREW_LOG", "trace").env_remove("NO_COLOR").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("TRACE") || stderr.contains("DEBUG"), "it logs: {stderr}");
    assert!(!stderr.contains('\x1b'), "{stderr}");
}

#[test]
fn a_job_number_that_is_none_is_refused() {
    for command in ["watch", "job", "fetch", "cancel", "retry", "logs"] {
        for number in ["seven", "0", "1.5", "99999999999999999999"] {
            framecrew(folder().path(), &[command, number]).refuses(2, &[number, "framecrew jobs"]);
        }
    }
}

#[test]
fn an_unknown_command_is_refused() {
    let folder = folder();
    framecrew(folder.path(), &["rendr"]).refuses(2, &["rendr"]);
}

#[test]
fn help_tells_of_every_command_and_of_the_exit_codes() {
    let folder = folder();
    let said = framecrew(folder.path(), &["--help"]);
    assert_eq!(said.code, 0);
    for word in [
        "render",
        "watch",
        "jobs",
        "fetch",
        "cancel",
        "nodes",
        "logs",
        "doctor",
        "Exit codes",
        "130",
    ] {
        assert!(said.stdout.contains(word), "{word}");
    }
}

#[test]
fn the_program_prints_its_completions_and_its_manual() {
    let folder = folder();
    let said = framecrew(folder.path(), &["completions", "bash"]);
    assert!(said.code == 0 && said.stdout.contains("_framecrew()"), "{}", said.stdout);
    let said = framecrew(folder.path(), &["man", "render"]);
    assert!(said.code == 0 && said.stdout.contains(".TH framecrew-render"), "{}", said.stdout);
    framecrew(folder.path(), &["man", "rendr"]).refuses(2, &["no command `rendr`"]);
}

#[test]
fn the_help_of_render_groups_its_flags_and_says_what_they_cost() {
    let folder = folder();
    let said = framecrew(folder.path(), &["render", "--help"]);
    assert_eq!(said.code, 0);
    for words in [
        "Frames:",
        "Render settings",
        "Project:",
        "Scheduling:",
        "--view-layer <NAME>",
        "--depth <BITS>",
        "OPEN_EXR_MULTILAYER",
        "WEBP",
        "--movie <FILE>",
        "ProRes",
        "--run-scripts",
        "--allow-scripts",
        "--node-silence <TIME>",
        "--frame-limit <TIME>",
        "--strict",
        "--follow-links",
        "FRAMECREW_MOVIE",
    ] {
        assert!(said.stdout.contains(words), "{words:?} is not in: {}", said.stdout);
    }
}

#[cfg(feature = "local")]
mod local {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_what_to_do() {
        let folder = folder();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let data = folder.path().join("data");
        let args = [
            "up",
            "--renderer",
            "synthetic:1ms",
            "--listen",
            &address,
            "--data",
            data.to_str().unwrap(),
        ];
        framecrew(folder.path(), &args).refuses(2, &[&address, "in use", "--listen"]);
        assert!(!data.exists(), "nothing is made");
    }

    #[test]
    fn a_port_in_use_is_found_before_a_blender_is_looked_for() {
        let folder = folder();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let mut command = Command::cargo_bin("framecrew").unwrap();
        command
            .args(["up", "--listen", &address, "--data", "data"])
            .current_dir(folder.path())
            // No Blender, and no Python to get one with.
            .env("PATH", folder.path())
            .env("XDG_CACHE_HOME", folder.path().join("cache"));
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(&address) && stderr.contains("in use"), "{stderr}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is made");
    }

    #[test]
    fn a_renderer_without_a_cluster_of_its_own_is_refused() {
        let folder = folder();
        framecrew(folder.path(), &["render", DEMO, "--renderer", "synthetic:1ms"])
            .refuses(2, &["--local"]);
    }

    #[test]
    fn a_cluster_is_not_named_to_a_command_that_brings_its_own() {
        let folder = folder();
        for command in [&["up"][..], &["demo"], &["render", DEMO, "--local"]] {
            let args = [command, &["--cluster", "http://127.0.0.1:4000"]].concat();
            framecrew(folder.path(), &args).refuses(2, &["--cluster"]);
        }
    }

    #[test]
    fn a_renderer_that_is_none_is_refused() {
        let folder = folder();
        framecrew(folder.path(), &["up", "--renderer", "povray"])
            .refuses(2, &["povray", "synthetic"]);
    }

    #[test]
    fn a_local_render_cannot_be_left_to_a_cluster() {
        let folder = folder();
        framecrew(folder.path(), &["render", DEMO, "--local", "--detach"])
            .refuses(2, &["--detach", "--local"]);
    }
}
