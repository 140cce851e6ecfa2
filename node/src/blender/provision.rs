//! Gets a Blender that is not there: the `bpy` wheel, in a virtual environment in the cache.

use std::{
    env, fs, io,
    io::{BufRead as _, BufReader},
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use super::{FoundBlender, Kind, ask::answer};
use crate::version::Version;

/// A wheel that PyPI has.
#[derive(Debug, Clone, Copy)]
struct Wheel {
    version: Version,
    /// The CPython that it fits.
    python: &'static str,
}

/// The last patch of each series, oldest first. There are none for other Pythons.
const WHEELS: [Wheel; 7] = [
    wheel(4, 2, 23, "3.11"),
    wheel(4, 3, 0, "3.11"),
    wheel(4, 4, 0, "3.11"),
    USUAL,
    wheel(5, 0, 1, "3.11"),
    wheel(5, 1, 2, "3.13"),
    wheel(5, 2, 3, "3.13"),
];

/// What is provisioned where nothing is asked for: the last long-term version whose wheel fits CPython 3.11.
const USUAL: Wheel = wheel(4, 5, 15, "3.11");

const fn wheel(major: u16, minor: u16, patch: u16, python: &'static str) -> Wheel {
    Wheel { version: Version { major, minor, patch }, python }
}

/// What is downloaded, in bytes, for people and for the progress: measured on Linux and x86-64 with 4.5, 373 MB
/// for the wheel and the rest for what it depends on.
const DOWNLOAD_BYTES: u64 = 401_000_000;

/// What is on disk in the end, in bytes; measured likewise.
const INSTALLED_BYTES: u64 = 970_000_000;

/// How often progress is reported.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// How long a Python may take to say what it has.
const PYTHON_TIMEOUT: Duration = Duration::from_secs(20);

/// How the names of folders begin in which an environment is being made.
const UNFINISHED: &str = ".unfinished-";

/// Lines of pip's that an error carries.
const ERROR_LINES: usize = 4;

/// Number of retries of pip if an index does not answer. Its default of five takes three minutes, and a person is
/// waiting.
const PIP_RETRIES: &str = "1";

/// Seconds that an index may take to answer.
const PIP_TIMEOUT_SECONDS: &str = "10";

/// What provisioning is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProvisionProgress {
    /// It begins.
    Begin {
        /// What is made, like `Blender 4.5.15 (the bpy wheel)`.
        what: String,
        /// Where.
        folder: PathBuf,
        /// About how much is downloaded, in bytes.
        download_bytes: u64,
        /// About how much disk it takes in the end, in bytes.
        installed_bytes: u64,
    },
    /// The wheel is coming.
    Downloading {
        /// Bytes so far.
        done_bytes: u64,
        /// Bytes in all, about.
        total_bytes: u64,
    },
    /// The wheel is being unpacked.
    Installing {
        /// Bytes so far.
        done_bytes: u64,
        /// Bytes in all, about.
        total_bytes: u64,
    },
}

/// Why there is no Blender now, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// No wheel of that version is known.
    #[error("Blender {version} cannot be fetched as a Python module: install it")]
    NoWheel {
        /// The version.
        version: Version,
    },
    /// No interpreter that the wheel fits.
    #[error(
        "Blender {version} as a Python module needs CPython {python}, and there is none on the PATH: install it (Debian: `apt-get install python3 python3-venv`, 12 has 3.11 and 13 has 3.13), or install Blender itself"
    )]
    NoPython {
        /// The version.
        version: Version,
        /// The Python that it needs.
        python: &'static str,
    },
    /// Nobody waits for it any more.
    #[error("fetching Blender {version} was ended, because nothing waits for it any more")]
    Ended {
        /// The version.
        version: Version,
    },
    /// The interpreter cannot install anything.
    #[error(
        "{} has neither pip nor venv's ensurepip: install them (Debian: `apt-get install python3-venv`)",
        python.display()
    )]
    NoPip {
        /// The interpreter.
        python: PathBuf,
    },
    /// No package index can be reached.
    #[error(
        "Blender {version} cannot be fetched: no package index answers{said}; is this machine online? Connect it (behind a proxy set HTTPS_PROXY, for a mirror PIP_INDEX_URL), or install Blender itself"
    )]
    NoNetwork {
        /// The version.
        version: Version,
        /// The system's error, in brackets; may be empty.
        said: String,
    },
    /// A step failed.
    #[error("cannot {action}: {said}")]
    Failed {
        /// The step.
        action: String,
        /// What the program said.
        said: String,
    },
    /// The cache cannot be written.
    #[error("the cache {} cannot be used: {source}", path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Where provisioned environments are, once they are complete.
pub(super) fn folders(cache: &Path) -> impl Iterator<Item = PathBuf> {
    WHEELS.iter().rev().map(|wheel| folder(cache, wheel.version))
}

fn folder(cache: &Path, version: Version) -> PathBuf {
    cache.join(format!("bpy-{version}"))
}

/// Versions of Blender that can be fetched as modules with the Pythons of this machine, newest first. Blocks.
#[must_use]
pub fn provisionable() -> Vec<Version> {
    let mut pythons = Vec::new();
    for python in ["3.11", "3.13"] {
        if Python::find(python).is_some_and(|found| found.has_pip || found.has_ensurepip) {
            pythons.push(python);
        }
    }
    let fitting = WHEELS.iter().rev().filter(|wheel| pythons.contains(&wheel.python));
    fitting.map(|wheel| wheel.version).collect()
}

/// The interpreter of a virtual environment.
pub(super) fn python_of(venv: &Path) -> PathBuf {
    if cfg!(windows) {
        venv.join("Scripts").join("python.exe")
    } else {
        venv.join("bin").join("python")
    }
}

/// Installs the usual Blender as [`provision_version`] does.
///
/// # Errors
/// With what to do next.
pub fn provision(
    cache: &Path,
    mut report: impl FnMut(ProvisionProgress),
) -> Result<FoundBlender, ProvisionError> {
    provision_version(cache, USUAL.version, |progress| {
        report(progress);
        ControlFlow::Continue(())
    })
}

/// Installs Blender as a Python module into `cache` (about 400 MB to download) and reports what it does, which may
/// end it. What is there already is used. The environment gets its name when it is complete, so a half-made one is
/// never taken for one; only one process provisions at a time, others wait for it. Blocks.
///
/// Whether the module can be imported depends on the system's libraries too: ask
/// [`missing_libraries`](super::missing_libraries).
///
/// # Errors
/// With what to do next.
pub fn provision_version(
    cache: &Path,
    version: Version,
    mut report: impl FnMut(ProvisionProgress) -> ControlFlow<()>,
) -> Result<FoundBlender, ProvisionError> {
    let wheel = WHEELS.iter().find(|wheel| wheel.version == version);
    let Wheel { python, .. } = *wheel.ok_or(ProvisionError::NoWheel { version })?;
    let cache_error = |source| ProvisionError::Cache { path: cache.to_owned(), source };
    fs::create_dir_all(cache).map_err(cache_error)?;
    let cache = &fs::canonicalize(cache).map_err(cache_error)?;
    let lock = fs::File::create(cache.join("provision.lock")).map_err(cache_error)?;
    lock.lock().map_err(cache_error)?;
    forget_unfinished(cache);

    let complete = folder(cache, version);
    let blender = FoundBlender { version, kind: Kind::Module, path: python_of(&complete) };
    if blender.path.exists() {
        return Ok(blender);
    }
    let python = Python::find(python).ok_or(ProvisionError::NoPython { version, python })?;
    if !python.has_pip && !python.has_ensurepip {
        return Err(ProvisionError::NoPip { python: python.path });
    }
    let ended = || ProvisionError::Ended { version };
    let begin = report(ProvisionProgress::Begin {
        what: format!("Blender {version} (the bpy wheel)"),
        folder: complete.clone(),
        download_bytes: DOWNLOAD_BYTES,
        installed_bytes: INSTALLED_BYTES,
    });
    if begin.is_break() {
        return Err(ended());
    }
    let unfinished =
        tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(cache).map_err(cache_error)?;
    // The environment works under any name: its programs that do not are never used.
    let venv = unfinished.path().join("venv");
    let temporary = unfinished.path().join("tmp");
    fs::create_dir(&temporary).map_err(cache_error)?;
    let pip = python.make_venv(&venv)?;
    install(pip, version, &temporary, &venv, &mut report)?;
    fs::rename(&venv, &complete).map_err(cache_error)?;
    Ok(blender)
}

/// Removes what processes left that were killed while they provisioned, up to a gigabyte each. Whoever calls holds
/// the lock. What cannot be removed is in nobody's way.
fn forget_unfinished(cache: &Path) {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    for entry in entries.filter(|it| it.file_name().to_string_lossy().starts_with(UNFINISHED)) {
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// An interpreter that the wheel fits.
#[derive(Debug)]
struct Python {
    path: PathBuf,
    has_pip: bool,
    has_ensurepip: bool,
}

impl Python {
    /// The first Python of this version, like `3.11`, on the PATH.
    fn find(version: &str) -> Option<Self> {
        pythons(version).into_iter().find_map(|path| Self::ask(path, version))
    }

    fn ask(path: PathBuf, version: &str) -> Option<Self> {
        const QUESTION: &str = "\
import sys, importlib.util as util
print(sys.implementation.name, '%d.%d' % sys.version_info[:2],
      *(name for name in ('venv', 'pip', 'ensurepip') if util.find_spec(name)))";
        let said = answer(Command::new(&path).args(["-c", QUESTION]), PYTHON_TIMEOUT)?;
        let modules = said.trim().strip_prefix("cpython ")?.strip_prefix(version)?;
        let has = |name| modules.split(' ').any(|module| module == name);
        has("venv").then_some(Self { has_pip: has("pip"), has_ensurepip: has("ensurepip"), path })
    }

    /// Makes the environment and returns the command that installs into it.
    fn make_venv(&self, venv: &Path) -> Result<Command, ProvisionError> {
        let mut command = Command::new(&self.path);
        // Debian splits ensurepip off, so the plain way may fail where this one works.
        run(command.args(["-m", "venv", "--without-pip"]).arg(venv), "make a virtual environment")?;
        let inside = python_of(venv);
        if self.has_pip {
            let mut pip = Command::new(&self.path);
            pip.args(["-m", "pip", "--python"]).arg(inside);
            return Ok(pip);
        }
        run(
            Command::new(&inside).args(["-m", "ensurepip"]),
            "put pip into the virtual environment",
        )?;
        let mut pip = Command::new(inside);
        pip.args(["-m", "pip"]);
        Ok(pip)
    }
}

fn pythons(version: &str) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = env::split_paths(&path).collect();
    [&format!("python{version}"), "python3", "python"]
        .iter()
        .map(|name| format!("{name}{}", env::consts::EXE_SUFFIX))
        .flat_map(|name| folders.iter().map(move |folder| folder.join(&name)))
        .filter(|path| path.is_file())
        .collect()
}

fn run(command: &mut Command, action: &str) -> Result<(), ProvisionError> {
    let failed = |said: String| ProvisionError::Failed { action: action.into(), said };
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(failed(last_lines(said.lines())))
}

fn last_lines<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let lines: Vec<_> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(ERROR_LINES)..].join(" / ")
}

/// Ends pip when we stop caring.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn install(
    mut pip: Command,
    version: Version,
    temporary: &Path,
    venv: &Path,
    report: &mut impl FnMut(ProvisionProgress) -> ControlFlow<()>,
) -> Result<(), ProvisionError> {
    let action = format!("install Blender {version} with pip");
    let failed = |said: String| ProvisionError::Failed { action: action.clone(), said };
    let package = format!("bpy=={version}");
    pip.args(["install", "--no-input", "--disable-pip-version-check"])
        .args(["--progress-bar", "off", "--only-binary", ":all:"])
        .args(["--retries", PIP_RETRIES, "--timeout", PIP_TIMEOUT_SECONDS])
        .arg(package)
        // Everything pip has under way lies here: its size is the progress, with any version of pip.
        .env("TMPDIR", temporary)
        .env("PYTHONUNBUFFERED", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = KillOnDrop(pip.spawn().map_err(|error| failed(error.to_string()))?);
    let (lines, said) = mpsc::channel();
    let pipes: [Option<Box<dyn io::Read + Send>>; 2] = [
        child.0.stdout.take().map(|pipe| Box::new(pipe) as _),
        child.0.stderr.take().map(|pipe| Box::new(pipe) as _),
    ];
    for pipe in pipes.into_iter().flatten() {
        let lines = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
    }
    drop(lines);
    let mut installing = false;
    let mut all = Vec::new();
    loop {
        match said.recv_timeout(REPORT_INTERVAL) {
            Ok(line) => {
                installing |= line.starts_with("Installing collected");
                all.push(line);
            }
            Err(RecvTimeoutError::Timeout) => {
                let (folder, total_bytes) =
                    if installing { (venv, INSTALLED_BYTES) } else { (temporary, DOWNLOAD_BYTES) };
                let done_bytes = bytes_in(folder).min(total_bytes);
                let go_on = report(if installing {
                    ProvisionProgress::Installing { done_bytes, total_bytes }
                } else {
                    ProvisionProgress::Downloading { done_bytes, total_bytes }
                });
                if go_on.is_break() {
                    return Err(ProvisionError::Ended { version });
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.0.wait().map_err(|error| failed(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    if let Some(said) = no_index(&all) {
        return Err(ProvisionError::NoNetwork { version, said });
    }
    let errors = all.iter().map(String::as_str).filter(|line| line.starts_with("ERROR"));
    let errors = last_lines(errors);
    Err(failed(if errors.is_empty() { last_lines(all.iter().map(String::as_str)) } else { errors }))
}

/// Returns why pip could not reach any index, as ` (Connection refused)`, or `None` if an index answered. pip
/// itself only reports that it found no version.
fn no_index(said: &[String]) -> Option<String> {
    let found_none = said.iter().any(|line| line.contains("(from versions: none)"));
    let broken = said.iter().rev().find(|line| line.contains("connection broken by"));
    let broken = broken.filter(|_| found_none)?;
    let reason = broken.rsplit_once("[Errno ").and_then(|(_, rest)| rest.split_once("] "));
    let reason = reason.and_then(|(_, rest)| rest.split_once("')"));
    Some(reason.map_or_else(String::new, |(reason, _)| format!(" ({reason})")))
}

/// Bytes of the files below a folder. What vanishes meanwhile is not counted.
fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(file) if file.is_dir() => bytes_in(&entry.path()),
            Ok(file) => file.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Far longer than pip takes to give up, so that a slow machine fails nothing.
    const PATIENCE: Duration = Duration::from_secs(300);

    #[test]
    fn a_missing_network_is_reported() {
        let Some(python) = Python::find("3.11").filter(|it| it.has_pip || it.has_ensurepip) else {
            eprintln!("skipped: there is no Python 3.11 with pip on the PATH");
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let venv = folder.path().join("venv");
        let mut pip = python.make_venv(&venv).unwrap();
        // Nothing listens at this address.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let index = format!("http://{}/simple", free.local_addr().unwrap());
        drop(free);
        pip.env("PIP_INDEX_URL", index).env("PIP_EXTRA_INDEX_URL", "").env_remove("PIP_NO_INDEX");
        pip.env("PIP_CONFIG_FILE", "/dev/null").env("NO_PROXY", "*");
        let mut waited = Duration::ZERO;
        let mut go_on = |_| {
            waited += REPORT_INTERVAL;
            if waited < PATIENCE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let error = install(pip, USUAL.version, folder.path(), &venv, &mut go_on).unwrap_err();
        // The reason in between is in pip's words, which differ between versions.
        let text = error.to_string();
        assert!(text.contains("no package index answers"), "{text}");
        assert!(text.contains("; is this machine online?"), "{text}");
    }

    #[test]
    fn a_wheel_that_an_index_lacks_is_not_reported_as_a_missing_network() {
        let none = "ERROR: No matching distribution found for bpy==4.5.15 (from versions: none)";
        assert_eq!(no_index(&[none.to_owned()]), None);
        let broken = "WARNING: Retrying (Retry(total=0)) after connection broken by \
            'ConnectTimeoutError(<x>, 'Connection to a timed out. (connect timeout=10.0)')': /simple/bpy/";
        let said = [broken.to_owned(), none.to_owned()];
        assert_eq!(no_index(&said).as_deref(), Some(""));
        assert_eq!(no_index(&said[..1]), None, "it was another step that failed");
        let refused = "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('<x>: Failed \
                       to establish a new connection: [Errno 111] Connection refused')': /simple/bpy/";
        let said = [refused.to_owned(), none.to_owned()];
        assert_eq!(no_index(&said).as_deref(), Some(" (Connection refused)"));
    }

    #[test]
    fn what_a_killed_process_left_half_made_is_removed_and_what_is_complete_is_used() {
        let cache = tempfile::tempdir().unwrap();
        let left = cache.path().join(format!("{UNFINISHED}x/venv"));
        fs::create_dir_all(&left).unwrap();
        let python = python_of(&folder(cache.path(), USUAL.version));
        fs::create_dir_all(python.parent().unwrap()).unwrap();
        fs::write(&python, "").unwrap();
        let go_on = |_| ControlFlow::Continue(());
        let blender = provision_version(cache.path(), USUAL.version, go_on).unwrap();
        assert_eq!(blender.version, USUAL.version);
        assert!(python.exists() && !left.exists() && !left.parent().unwrap().exists());
    }
}
