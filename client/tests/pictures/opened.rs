//! Finds out which files were opened, using `strace`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use crate::support::skip;

/// Whether there is an `strace` that may trace. Without it, opened files are not checked.
static HAS_STRACE: LazyLock<bool> = LazyLock::new(|| {
    let works = Command::new("strace").args(["-D", "-qq", "true"]).output();
    let works = works.is_ok_and(|output| output.status.success());
    if !works {
        skip("strace that may trace processes", "FRAMECREW_REQUIRE_STRACE");
    }
    works
});

/// A command that writes its opens, and those of its child processes, to a log.
pub(crate) fn traced(program: &Path, log: &Path) -> Command {
    if !*HAS_STRACE {
        return Command::new(program);
    }
    let mut command = Command::new("strace");
    // The program remains our child process, so that it gets signals. The log contains the folders of file
    // descriptors.
    command.args(["-D", "-f", "-y", "-qq", "--seccomp-bpf", "-e", "signal=none"]);
    command.args(["-e", "trace=?open,openat,?openat2", "-o"]).arg(log).arg("--").arg(program);
    command
}

/// Path of the log for a run of plain Blender, named by its first row.
pub(crate) fn plain_log(root: &Path, first: &str) -> PathBuf {
    root.join(format!("{first}.strace"))
}

/// An open, successful or refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Open {
    pub(crate) path: PathBuf,
    /// Flags such as `O_RDONLY|O_CLOEXEC`.
    pub(crate) flags: String,
    /// The error, such as `EACCES`; `None` if it succeeded.
    pub(crate) error: Option<String>,
}

impl Open {
    /// Whether it opens existing data, rather than a new file.
    fn reads(&self) -> bool {
        !["O_WRONLY", "O_CREAT", "O_DIRECTORY", "O_PATH"]
            .iter()
            .any(|flag| self.flags.contains(flag))
    }
}

/// Returns the opens in the logs, each once.
pub(crate) fn read(logs: &[PathBuf]) -> BTreeSet<Open> {
    let mut opens = BTreeSet::new();
    for log in logs {
        let text = fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        // A call that is interrupted by one of another thread is logged in two parts.
        let mut begun = HashMap::new();
        for line in text.lines() {
            let Some((process, call)) = line.trim_start().split_once(' ') else { continue };
            let call = call.trim_start();
            if let Some(start) = call.strip_suffix("<unfinished ...>") {
                begun.insert(process.to_owned(), start.trim_end().to_owned());
            } else if let Some((_, rest)) = call.split_once("resumed>") {
                if let Some(start) = begun.remove(process) {
                    opens.extend(open(&format!("{start}{rest}")));
                }
            } else {
                opens.extend(open(call));
            }
        }
    }
    opens
}

/// Parses `openat(AT_FDCWD</at>, "path", FLAGS, 0666) = 3</at/path>`.
fn open(call: &str) -> Option<Open> {
    let arguments = call.strip_prefix("open")?;
    let (before, rest) = arguments.split_once('"')?;
    let (name, rest) = rest.split_once('"')?;
    let (flags, result) = rest.rsplit_once(") = ")?;
    let flags = flags.trim_start_matches(", ").split(", ").next()?.to_owned();
    let error = match result.strip_prefix("-1 ") {
        Some(error) => Some(error.split(' ').next()?.to_owned()),
        None => None,
    };
    let folder = before.split_once('<').and_then(|(_, folder)| folder.split_once('>'));
    let folder = folder.map_or("/", |(folder, _)| folder);
    let path = Path::new(&unescaped(folder)).join(unescaped(name));
    Some(Open { path, flags, error })
}

/// `strace` writes characters other than printable ASCII as octal numbers.
fn unescaped(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;

    let mut bytes = Vec::new();
    let mut rest = text.bytes().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let mut number = 0_u32;
        let mut digits = 0;
        while digits < 3
            && let Some(digit) = rest.peek().filter(|byte| (b'0'..=b'7').contains(byte))
        {
            number = number * 8 + u32::from(digit - b'0');
            digits += 1;
            rest.next();
        }
        if digits > 0 {
            bytes.push(u8::try_from(number).unwrap());
        } else {
            bytes.extend(rest.next());
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// Returns the files below `root` that were opened for reading, by the row that they belong to.
pub(crate) fn by_row(opens: &BTreeSet<Open>, root: &Path) -> BTreeMap<String, BTreeSet<PathBuf>> {
    let mut rows = BTreeMap::<String, BTreeSet<PathBuf>>::new();
    for open in opens.iter().filter(|open| open.error.is_none() && open.reads()) {
        // Resolves links and `..`.
        let Ok(path) = open.path.canonicalize() else { continue };
        let Ok(within) = path.strip_prefix(root) else { continue };
        let Some(row) = within.components().next() else { continue };
        if path.is_file() {
            rows.entry(row.as_os_str().to_string_lossy().into_owned()).or_default().insert(path);
        }
    }
    rows
}

/// Returns the existing files below the node's folder that Blender may not open the way it wants to. It is correct
/// that it cannot create files, as long as the pictures are right.
pub(crate) fn refused(opens: &BTreeSet<Open>, node: &Path) -> Vec<String> {
    let is_refused = |open: &&Open| {
        matches!(open.error.as_deref(), Some("EACCES" | "EPERM" | "EROFS"))
            && open.path.starts_with(node)
            && !open.flags.contains("O_CREAT")
    };
    let told = |open: &Open| {
        let path = open.path.strip_prefix(node).unwrap().display();
        format!("{path} with {}: {}", open.flags, open.error.as_deref().unwrap_or_default())
    };
    opens.iter().filter(is_refused).map(told).collect()
}

/// Whether opens can be traced at all.
pub(crate) fn is_known() -> bool {
    *HAS_STRACE
}

#[test]
fn opens_are_parsed_from_the_output_of_strace() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let lines = r#"12 openat(AT_FDCWD</shot>, "/p/caf\351.png", O_RDONLY|O_CLOEXEC) = 3</p/caf\351.png>
13 openat(AT_FDCWD</shot>, "a \"b", O_RDWR <unfinished ...>
12 openat(7</p/q>, "c", O_WRONLY|O_CREAT, 0666) = -1 EACCES (Permission denied)
13 <... openat resumed>) = 4</shot/a b>
"#;
    fs::write(log.path(), lines.replace(r#"a \"b"#, "a b")).unwrap();
    let opens = read(&[log.path().into()]);
    let told: Vec<_> = opens
        .iter()
        .map(|open| {
            (open.path.to_string_lossy().into_owned(), open.flags.as_str(), open.error.as_deref())
        })
        .collect();
    assert_eq!(
        told,
        [
            ("/p/caf\u{fffd}.png".into(), "O_RDONLY|O_CLOEXEC", None),
            ("/p/q/c".into(), "O_WRONLY|O_CREAT", Some("EACCES")),
            ("/shot/a b".into(), "O_RDWR", None),
        ]
    );
}
