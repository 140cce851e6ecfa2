//! Looks for Blenders and asks each for its version.

use std::{
    collections::BTreeSet,
    env, fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use tokio::time::Instant;

use super::{FoundBlender, Kind, provision};

/// How long a program may take to tell its version. Importing the module from a cold disk takes seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How often it is looked whether a program has answered.
const ANSWER_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Programs that are asked, at most: no machine has more, but a PATH may.
const CANDIDATES_MAX: usize = 64;

/// What the module is asked. It may hang at exit, so it does not exit in the usual way.
const ASK_MODULE: &str = "\
import os, sys
import bpy
print('Blender', bpy.app.version_string, flush=True)
os._exit(0)";

/// Finds the Blenders of this machine, newest first: those `given`, programs named `blender` on the PATH and
/// in the usual places, and Python interpreters that can import `bpy`, among them those provisioned in
/// `cache`. Runs each of them, all at once; one that does not answer in 30 seconds is left out. Blocks.
#[must_use]
pub fn find(given: &[PathBuf], cache: &Path) -> Vec<FoundBlender> {
    match tempfile::tempdir() {
        Ok(temporary) => find_in(given, cache, temporary.path()),
        Err(_) => find_in(given, cache, &env::temp_dir()),
    }
}

/// The same; what is run puts its temporary files into a folder that the caller removes: a Blender that is asked
/// for its version leaves some behind.
#[must_use]
pub fn find_in(given: &[PathBuf], cache: &Path, temporary: &Path) -> Vec<FoundBlender> {
    let askers: Vec<_> = candidates(given, cache)
        .into_iter()
        .map(|path| {
            let temporary = temporary.to_owned();
            thread::spawn(move || ask(&path, &temporary))
        })
        .collect();
    let mut found: Vec<_> =
        askers.into_iter().filter_map(|asker| asker.join().ok().flatten()).collect();
    // The first of equals is the one that was named first.
    found.sort_by_key(|blender| (std::cmp::Reverse(blender.version), blender.kind));
    found
}

/// Runs a program and reads which Blender it is, if it is one.
pub(crate) fn ask(path: &Path, temporary: &Path) -> Option<FoundBlender> {
    let kind = if is_python(path) { Kind::Module } else { Kind::Executable };
    let mut command = Command::new(path);
    match kind {
        Kind::Executable => command.arg("--version"),
        Kind::Module => command.args(["-c", ASK_MODULE]),
    };
    let output = answer(command.env("TMPDIR", temporary), ANSWER_TIMEOUT)?;
    let version = output.lines().find_map(|line| line.trim().strip_prefix("Blender "))?;
    Some(FoundBlender { version: version.parse().ok()?, kind, path: path.to_owned() })
}

/// What a command writes to its standard output, if it ends well and in time.
pub(crate) fn answer(command: &mut Command, timeout: Duration) -> Option<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let mut stdout = child.stdout.take()?;
    let reader = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return reader.join().ok()?.ok(),
            Ok(None) if begun.elapsed() < timeout => thread::sleep(ANSWER_CHECK_INTERVAL),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

fn is_python(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("python")
}

fn candidates(given: &[PathBuf], cache: &Path) -> Vec<PathBuf> {
    let mut candidates = given.to_vec();
    let folders: Vec<_> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    let in_folders = |name: &str| {
        let name = format!("{name}{}", env::consts::EXE_SUFFIX);
        folders.iter().map(move |folder| folder.join(&name))
    };
    candidates.extend(in_folders("blender"));
    candidates.extend(usual_places());
    candidates.extend(provision::folders(cache).map(|folder| provision::python_of(&folder)));
    if let Some(venv) = env::var_os("VIRTUAL_ENV") {
        candidates.push(provision::python_of(Path::new(&venv)));
    }
    for name in ["python3", "python3.11", "python3.13"] {
        candidates.extend(in_folders(name));
    }
    let mut seen = BTreeSet::new();
    candidates.retain(|path| path.is_file() && !is_snap(path) && seen.insert(identity(path)));
    candidates.truncate(CANDIDATES_MAX);
    candidates
}

/// Whether it is snap's own program under another name. It gains privileges to start what it is called for, which
/// nothing that is confined may; the program itself is in one of the usual places.
fn is_snap(path: &Path) -> bool {
    fs::canonicalize(path).is_ok_and(|path| path.file_name().is_some_and(|name| name == "snap"))
}

/// The same for two names of one program. A Python in a virtual environment is a link to the system's, but
/// has other modules: its folder counts too.
fn identity(path: &Path) -> (PathBuf, PathBuf) {
    let resolved = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().filter(|_| is_python(path));
    (resolved(path), folder.map(resolved).unwrap_or_default())
}

fn usual_places() -> Vec<PathBuf> {
    let mut places: Vec<_> = [
        "/usr/bin/blender",
        "/usr/local/bin/blender",
        "/snap/blender/current/blender",
        "/Applications/Blender.app/Contents/MacOS/Blender",
    ]
    .map(PathBuf::from)
    .into();
    // Where people unpack the archives from the web site.
    let home = env::home_dir().unwrap_or_default();
    let roots = [
        PathBuf::from("/opt"),
        home.clone(),
        home.join("Applications"),
        PathBuf::from(r"C:\Program Files\Blender Foundation"),
    ];
    let program = format!("blender{}", env::consts::EXE_SUFFIX);
    for entry in roots.iter().filter_map(|root| fs::read_dir(root).ok()).flatten() {
        let Ok(entry) = entry else { continue };
        let name = entry.file_name().to_string_lossy().to_lowercase();
        if name.starts_with("blender") {
            places.push(entry.path().join(&program));
        }
    }
    places
}
