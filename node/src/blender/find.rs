//! Looks for Blenders and asks each for its version.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use tokio::time;

use super::{
    FoundBlender, Kind,
    ask::{Ran, lossy, run},
    offered::Offered,
    provision,
    telling::telling,
};

/// How long a program may take to tell its version. Importing the module from a cold disk takes seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Programs that are asked, at most: no machine has more, but a PATH may.
const CANDIDATES_MAX: usize = 64;

/// What the module is asked. It may hang at exit, so it does not exit in the usual way.
const ASK_MODULE: &str = "\
import os, sys
import bpy
print('Blender', bpy.app.version_string, flush=True)
os._exit(0)";

/// The result of a search for Blenders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// Programs that reported their version, newest first.
    pub found: Vec<FoundBlender>,
    /// Programs that may be Blenders.
    pub unsure: Vec<Unsure>,
}

/// A program that may be a Blender, but did not answer in time or does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsure {
    /// The program.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
    /// Whether it did not answer. If not, it ended with an error.
    pub is_silent: bool,
}

impl Unsure {
    /// Describes it for the cluster, without a version, which is not known.
    pub(crate) fn describe(&self) -> Offered {
        let kind = if is_python(&self.path) { Kind::Module } else { Kind::Executable };
        let (path, unusable) = (self.path.clone(), self.why.clone());
        Offered { path, unusable, ..Offered::new(kind.into()) }
    }
}

/// What a program turned out to be.
#[derive(Debug)]
pub(crate) enum Asked {
    Blender(FoundBlender),
    Unsure(Unsure),
    /// Not a Blender.
    Other,
}

/// Finds the Blenders of this machine, newest first: those `given`, programs named `blender` on the PATH and
/// in the usual places, and Python interpreters that can import `bpy`, among them those provisioned in
/// `cache`. Runs each of them, all at once; one that does not answer in 30 seconds is left out. Blocks.
#[must_use]
pub fn find(given: &[PathBuf], cache: &Path) -> Vec<FoundBlender> {
    search(given, cache).found
}

/// Does the same, and also returns the programs that did not answer. Blocks.
#[must_use]
pub fn search(given: &[PathBuf], cache: &Path) -> Search {
    match tempfile::tempdir() {
        Ok(temporary) => search_in(given, cache, temporary.path()),
        Err(_) => search_in(given, cache, &env::temp_dir()),
    }
}

/// The same; what is run puts its temporary files into a folder that the caller removes: a Blender that is asked
/// for its version leaves some behind.
#[must_use]
pub fn search_in(given: &[PathBuf], cache: &Path, temporary: &Path) -> Search {
    let askers: Vec<_> = candidates(given, cache)
        .into_iter()
        .map(|path| {
            let temporary = temporary.to_owned();
            thread::spawn(move || ask(&path, &temporary))
        })
        .collect();
    let mut search = Search::default();
    for asker in askers {
        match asker.join() {
            Ok(Asked::Blender(blender)) => search.found.push(blender),
            Ok(Asked::Unsure(unsure)) => search.unsure.push(unsure),
            Ok(Asked::Other) | Err(_) => {}
        }
    }
    // The first of equals is the one that was named first.
    search.found.sort_by_key(|blender| (std::cmp::Reverse(blender.version), blender.kind));
    search
}

/// Runs a program and reads which Blender it is, if it is one. Blocks.
pub(crate) fn ask(path: &Path, temporary: &Path) -> Asked {
    let mut command = Command::new(path);
    command.args(question(path)).env("TMPDIR", temporary);
    understand(path, run(&mut command, ANSWER_TIMEOUT), ANSWER_TIMEOUT)
}

/// Does the same for a program that may be slow. Dropping the future ends the program.
pub(crate) async fn ask_patiently(path: &Path, temporary: &Path, patience: Duration) -> Asked {
    let mut command = tokio::process::Command::new(path);
    command.args(question(path)).env("TMPDIR", temporary);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let ran = match time::timeout(patience, command.output()).await {
        Err(_) => Ran::Silent,
        Ok(Err(error)) => Ran::Badly(error.to_string()),
        Ok(Ok(output)) if output.status.success() => Ran::Well(lossy(output.stdout)),
        Ok(Ok(output)) => Ran::Badly(lossy(output.stderr)),
    };
    understand(path, ran, patience)
}

fn question(path: &Path) -> Vec<&'static str> {
    if is_python(path) { vec!["-c", ASK_MODULE] } else { vec!["--version"] }
}

fn understand(path: &Path, ran: Ran, patience: Duration) -> Asked {
    let kind = if is_python(path) { Kind::Module } else { Kind::Executable };
    let unsure =
        |why: String, is_silent| Asked::Unsure(Unsure { path: path.to_owned(), why, is_silent });
    let shown = path.display();
    match ran {
        Ran::Well(said) => {
            let version = said.lines().find_map(|line| line.trim().strip_prefix("Blender "));
            match version.and_then(|version| version.parse().ok()) {
                Some(version) => {
                    Asked::Blender(FoundBlender { version, kind, path: path.to_owned() })
                }
                None => Asked::Other,
            }
        }
        // A Python without the module is not a Blender. If the module is there and lacks a library of the system, the
        // traceback need not name its folder.
        Ran::Badly(said) if kind == Kind::Module && has_no_module(&said) => Asked::Other,
        Ran::Badly(said) => {
            let why = telling(&said);
            unsure(format!("{shown} does not run: {why}"), false)
        }
        Ran::Silent => {
            let seconds = patience.as_secs();
            unsure(format!("{shown} has not reported its version within {seconds} s"), true)
        }
    }
}

/// Whether a Python that failed has no `bpy`. What fails without a traceback has not come that far, such as the shim of
/// a Python that is not installed.
fn has_no_module(said: &str) -> bool {
    !said.contains("Traceback") || said.contains("No module named 'bpy'")
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

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]

    use super::*;

    fn of_python(said: &str) -> Asked {
        understand(Path::new("/venv/bin/python3"), Ran::Badly(said.into()), ANSWER_TIMEOUT)
    }

    #[test]
    fn a_module_that_lacks_a_library_is_named_with_the_library() {
        let asked = of_python(
            "Traceback (most recent call last):\n  File \"<string>\", line 2, in <module>\nImportError: libXi.so.6: \
             cannot open shared object file: No such file or directory\n",
        );
        let Asked::Unsure(unsure) = asked else { panic!("{asked:?}") };
        assert!(unsure.why.contains("/venv/bin/python3 does not run"), "{}", unsure.why);
        assert!(unsure.why.contains("libXi.so.6") && !unsure.is_silent, "{}", unsure.why);
    }

    #[test]
    fn a_python_without_the_module_is_no_blender() {
        let said = "Traceback (most recent call last):\n  File \"<string>\", line 2, in <module>\nModuleNotFoundError: \
                    No module named 'bpy'\n";
        for said in ["", "\n", "pyenv: python3.11: command not found\n", said] {
            let asked = of_python(said);
            assert!(matches!(asked, Asked::Other), "{asked:?}");
        }
    }
}
