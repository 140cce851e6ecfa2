//! Adapts the node's environment to a Blender within walls. The Blender may read the files that variables name,
//! and its PATH only keeps folders whose Python it can read.

#[cfg(target_os = "linux")]
use std::ffi::OsStr;
use std::{
    env,
    ffi::OsString,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::allowed;

/// Variables that are passed on but do not list files to read. PATH is checked folder by folder, and the other is
/// set anew for each Blender.
const NO_FILES: [&str; 2] = ["PATH", "BLENDER_USER_RESOURCES"];

/// Maximum number of bytes of a colour configuration that are searched for file names. The largest in use have a
/// megabyte.
const COLOR_CONFIG_BYTES_MAX: u64 = 8 << 20;

/// Maximum number of files and folders that variables may make readable.
const NAMED_MAX: usize = 256;

/// Files and folders that a confined Blender may read because the node's environment names them. The machine's
/// owner has set these variables for every Blender on it, for example to a colour configuration.
pub(crate) fn reads() -> Vec<PathBuf> {
    named(env::vars_os().filter(|(name, _)| allowed::is_kept(name)))
}

fn named(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<PathBuf> {
    let mut named = Vec::new();
    for (name, value) in variables {
        if NO_FILES.iter().any(|other| name == *other) {
            continue;
        }
        // Resolved before it is judged: `..` or a link may lead to a home.
        let paths = env::split_paths(&value).filter(|path| path.is_absolute());
        for path in paths {
            let Ok(real) = fs::canonicalize(&path) else { continue };
            if name == "OCIO" {
                named.extend(of_color_config(&path, &real));
            }
            named.push(real);
        }
    }
    // A folder that holds a home, or everything, is more than anyone meant.
    named.retain(|path| path.is_file() || (path.is_dir() && allowed::is_narrow(path)));
    named.truncate(NAMED_MAX);
    named
}

/// What a colour configuration (OpenColorIO) reads: files in its folder, in those of its search path, and those it
/// names in full. Of a folder that holds more than tables, as a home or /etc does, only the files it names.
fn of_color_config(config: &Path, real: &Path) -> Vec<PathBuf> {
    let mut text = String::new();
    // One that is not text is an archive, and holds everything itself.
    if let Ok(file) = fs::File::open(real) {
        let _ = file.take(COLOR_CONFIG_BYTES_MAX).read_to_string(&mut text);
    }
    let search_path = search_path(&text);
    let mut folders = Vec::new();
    // Where a link leads to the configuration, the tables may lie beside either.
    for folder in [config, real].into_iter().filter_map(Path::parent) {
        let searched = search_path.iter().map(|path| folder.join(path));
        let found = [folder.to_owned()].into_iter().chain(searched);
        for folder in found.filter_map(|folder| fs::canonicalize(folder).ok()) {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
    }
    let mut paths: Vec<_> = folders.iter().filter(|path| holds_tables(path)).cloned().collect();
    for source in sources(&text) {
        // A path in full stays as it is when joined.
        let places =
            folders.iter().filter_map(|folder| fs::canonicalize(folder.join(&source)).ok());
        for place in places {
            if place.is_file() && !paths.iter().any(|path| place.starts_with(path)) {
                paths.push(place);
            }
        }
    }
    paths
}

/// Whether a folder can be one for colour tables. Folders right below the root, such as /etc and /var, hold much else.
fn holds_tables(folder: &Path) -> bool {
    let is_top = folder.parent().is_some_and(|parent| parent.parent().is_none());
    folder.is_dir() && !is_top && allowed::is_narrow(folder)
}

/// The folders in `search_path: a:b`, or in the list that follows it.
fn search_path(config: &str) -> Vec<PathBuf> {
    let mut lines = config.lines().skip_while(|line| !line.starts_with("search_path:"));
    let Some(first) = lines.next() else { return Vec::new() };
    let here = first.trim_start_matches("search_path:").trim();
    let items = lines.map(str::trim).take_while(|line| line.starts_with("- "));
    let items = items.map(|line| line.trim_start_matches("- "));
    let texts: Vec<_> = match here {
        "" => items.collect(),
        list => list.trim_matches(['[', ']']).split([':', ',']).collect(),
    };
    texts.into_iter().map(|text| PathBuf::from(unquoted(text))).collect()
}

/// Returns the files in `src: file` of its transforms.
fn sources(config: &str) -> impl Iterator<Item = PathBuf> {
    config.split("src:").skip(1).map(|rest| {
        let end = rest.find([',', '}', '\n']).unwrap_or(rest.len());
        PathBuf::from(unquoted(&rest[..end]))
    })
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches(['"', '\''])
}

/// Returns the folders of a PATH in which every Python can be started within the walls. A program that finds a
/// Python on its PATH uses it as its own, and does not start if it cannot read it.
#[cfg(target_os = "linux")]
pub(crate) fn readable_path(path: &OsStr, reads: &[PathBuf]) -> OsString {
    let roots: Vec<_> = allowed::SYSTEM
        .iter()
        .map(Path::new)
        .chain(reads.iter().map(PathBuf::as_path))
        .filter_map(|root| fs::canonicalize(root).ok())
        .collect();
    let is_readable = |path: &Path| {
        fs::canonicalize(path).is_ok_and(|path| roots.iter().any(|root| path.starts_with(root)))
    };
    let is_whole = |folder: &PathBuf| {
        is_readable(folder)
            && pythons(folder).iter().all(|python| is_readable(python))
            && base_of_venv(folder).is_none_or(|base| is_readable(&base))
    };
    env::join_paths(env::split_paths(path).filter(is_whole)).unwrap_or_default()
}

/// Returns the programs in a folder that have a name of Python's.
#[cfg(target_os = "linux")]
fn pythons(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_python = |name: &OsStr| {
        let name = name.to_string_lossy();
        let version = name.strip_prefix("python");
        version.is_some_and(|version| version.chars().all(|c| c.is_ascii_digit() || c == '.'))
    };
    entries.filter(|entry| is_python(&entry.file_name())).map(|entry| entry.path()).collect()
}

/// Returns the folder of the Python that a virtual environment was created from, given the environment's folder of
/// programs.
pub(crate) fn base_of_venv(programs: &Path) -> Option<PathBuf> {
    let places = [programs.parent()?.join("pyvenv.cfg"), programs.join("pyvenv.cfg")];
    let config = places.iter().find_map(|place| fs::read_to_string(place).ok())?;
    let mut settings = config.lines().filter_map(|line| line.split_once('='));
    settings.find_map(|(name, value)| (name.trim() == "home").then(|| value.trim().into()))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(folder.path()).unwrap();
        (folder, path)
    }

    #[test]
    fn a_python_behind_the_walls_is_not_on_the_path() {
        let (_folder, venv) = folder();
        let path = env::join_paths([&venv, Path::new("/usr/bin")]).unwrap();
        assert_eq!(readable_path(&path, &[]), "/usr/bin");
        assert_eq!(readable_path(&path, &[venv]), path);
    }

    #[test]
    fn a_readable_folder_whose_python_leads_behind_the_walls_is_not_on_the_path() {
        let (_folder, root) = folder();
        let (home, opt) = (root.join("home/3.11/bin"), root.join("opt"));
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("python3.11"), "").unwrap();
        let reads = [opt.clone()];
        // Environments made by venv, by uv or virtualenv through a chain of links, as a copy, and with a dangling
        // link.
        let venv = |name: &str, make: &dyn Fn(&Path)| {
            let programs = opt.join(name).join("bin");
            fs::create_dir_all(&programs).unwrap();
            make(&programs);
            programs
        };
        let python = home.join("python3.11");
        let bad = [
            venv("linked", &|at| symlink(&python, at.join("python3.11")).unwrap()),
            venv("chained", &|at| {
                symlink(&python, at.join("python")).unwrap();
                symlink("python", at.join("python3")).unwrap();
            }),
            venv("copied", &|at| {
                fs::write(at.join("python3"), "").unwrap();
                let config =
                    format!("include-system-site-packages = false\nhome = {}\n", home.display());
                fs::write(at.with_file_name("pyvenv.cfg"), config).unwrap();
            }),
            venv("dangling", &|at| symlink("/gone/python3", at.join("python3")).unwrap()),
        ];
        let good = [
            venv("own", &|at| fs::write(at.join("python3"), "").unwrap()),
            venv("other", &|at| symlink(&python, at.join("python-config")).unwrap()),
        ];
        let path = env::join_paths(bad.iter().chain(&good)).unwrap();
        assert_eq!(readable_path(&path, &reads), env::join_paths(&good).unwrap());
        let reads = [opt, root.join("home")];
        let found = readable_path(&path, &reads);
        assert_eq!(env::split_paths(&found).count(), 5, "all but the one that leads nowhere");
        assert!(
            super::super::installation(&bad[2].join("python3")).contains(&root.join("home/3.11"))
        );
    }

    #[test]
    fn files_named_by_variables_and_colour_configurations_are_readable() {
        let (_folder, root) = folder();
        for name in ["ocio/luts", "shared/luts", "lib", "plain"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        let config = root.join("ocio/config.ocio");
        let (lut, driver) = (root.join("plain/film.cube"), root.join("plain/icd.json"));
        fs::write(&lut, "").unwrap();
        fs::write(&driver, "").unwrap();
        let text = format!(
            "ocio_profile_version: 2\nsearch_path: luts:../shared/luts\ncolorspaces:\n  - !<ColorSpace>\n    \
             from_reference: !<FileTransform> {{src: {}, interpolation: linear}}\n",
            lut.display()
        );
        fs::write(&config, text).unwrap();
        let set = [
            ("OCIO", config.as_os_str().to_owned()),
            ("LD_LIBRARY_PATH", env::join_paths([root.join("lib"), "/".into()]).unwrap()),
            ("VK_ICD_FILENAMES", driver.clone().into()),
            ("CYCLES_DEVICE", "CPU".into()),
            ("PATH", root.join("plain").into()),
        ];
        let named = named(set.into_iter().map(|(name, value)| (name.into(), value)));
        let expected = [
            root.join("ocio"),
            root.join("ocio/luts"),
            root.join("shared/luts"),
            lut,
            config,
            root.join("lib"),
            driver,
        ];
        assert_eq!(named, expected);
    }

    #[test]
    fn tables_beside_a_link_to_a_colour_configuration_are_readable() {
        let (_folder, root) = folder();
        for name in ["ocio/luts", "versions"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("versions/3.ocio"), "search_path: luts\n").unwrap();
        let config = root.join("ocio/config.ocio");
        symlink("../versions/3.ocio", &config).unwrap();
        let named = named([("OCIO".into(), config.into())].into_iter());
        let expected = ["ocio", "ocio/luts", "versions", "versions/3.ocio"];
        assert_eq!(named, expected.map(|name| root.join(name)));
    }

    #[test]
    fn a_colour_configuration_opens_no_home_and_no_folder_of_the_system() {
        let (_folder, root) = folder();
        fs::create_dir_all(root.join("ocio/luts")).unwrap();
        symlink(env::home_dir().unwrap(), root.join("ocio/home")).unwrap();
        symlink("/", root.join("ocio/luts/all")).unwrap();
        let config = root.join("ocio/config.ocio");
        let set = |text: &str| {
            fs::write(&config, text).unwrap();
            named([("OCIO".into(), config.clone().into())].into_iter())
        };
        let kept = [root.join("ocio"), config.clone()];
        let up = "../".repeat(root.components().count() + 2);
        for wide in ["home", "home/.", "luts/all", "luts/all/home", "/etc", &up] {
            let opened = set(&format!("search_path: {wide}\n"));
            assert_eq!(opened, kept, "{wide}");
        }
        // The file that it names there is open, and nothing beside it.
        let opened = set("search_path: /etc\n  - !<FileTransform> {src: passwd}\n");
        assert_eq!(opened, [root.join("ocio"), "/etc/passwd".into(), config.clone()]);
        let opened = set("  - !<FileTransform> {src: /etc}\n");
        assert_eq!(opened, kept, "a folder is no table");
    }

    #[test]
    fn a_search_path_is_text_or_a_list() {
        for text in [
            "search_path: \"a:b/c\"\n",
            "search_path:\n  - a\n  - b/c\nroles:\n  - d\n",
            "search_path: [a, b/c]\n",
        ] {
            assert_eq!(search_path(text), [PathBuf::from("a"), "b/c".into()], "{text:?}");
        }
        assert!(search_path("roles:\n").is_empty());
    }
}
