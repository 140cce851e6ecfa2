//! The system libraries that Blender links or loads, and how to get them where they are missing.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::{FoundBlender, Kind, ask::answer};
use crate::platform;

/// How long the helpers that we ask may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(20);

/// Debian's and Ubuntu's packages for what Blender's programs and wheels need and a bare system lacks.
const PACKAGES: [(&str, &str); 20] = [
    ("libEGL.so.1", "libegl1"),
    ("libEGL_mesa.so.0", "libegl-mesa0"),
    ("libGL.so.1", "libgl1"),
    ("libGLX.so.0", "libglx0"),
    ("libGLdispatch.so.0", "libglvnd0"),
    ("libICE.so.6", "libice6"),
    ("libOpenGL.so.0", "libopengl0"),
    ("libSM.so.6", "libsm6"),
    ("libX11.so.6", "libx11-6"),
    ("libXau.so.6", "libxau6"),
    ("libXext.so.6", "libxext6"),
    ("libXfixes.so.3", "libxfixes3"),
    ("libXi.so.6", "libxi6"),
    ("libXrender.so.1", "libxrender1"),
    ("libXt.so.6", "libxt6"),
    ("libXxf86vm.so.1", "libxxf86vm1"),
    ("libgomp.so.1", "libgomp1"),
    ("libwayland-client.so.0", "libwayland-client0"),
    ("libxcb.so.1", "libxcb1"),
    ("libxkbcommon.so.0", "libxkbcommon0"),
];

/// What EEVEE and Workbench load while they run, so that no linker misses it.
const LOADED_LATER: [&str; 3] = ["libEGL.so.1", "libEGL_mesa.so.0", "libGL.so.1"];

/// Mesa's software drawing, which EEVEE needs where there is no graphics card; loaded from a folder of its own.
const MESA_DRIVERS: (&str, &str) = ("Mesa's drivers", "libgl1-mesa-dri");

/// A library that Blender needs and the system lacks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MissingLibrary {
    /// Its name, like `libXi.so.6`.
    pub name: String,
    /// Debian's package that has it, where known.
    pub package: Option<&'static str>,
    /// Whether Blender starts without it, and only EEVEE and Workbench do not draw.
    pub only_for_eevee: bool,
}

/// Why the libraries are not there now, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// We may not, or do not know how.
    #[error("Blender lacks {lacks}; run: {command}")]
    ByHand {
        /// The libraries, for people.
        lacks: String,
        /// The line to run.
        command: String,
    },
    /// No package is known.
    #[error("Blender lacks {lacks}; install them with your system's package manager")]
    Unknown {
        /// The libraries, for people.
        lacks: String,
    },
    /// The package manager failed.
    #[error("`{command}` failed: {said}")]
    Failed {
        /// What was run.
        command: String,
        /// What it said.
        said: String,
    },
}

/// The libraries that `blender` needs and this system lacks; empty: it can start and draw. Tells nothing on
/// systems other than Linux, where Blender brings what it needs. Blocks.
#[must_use]
pub fn missing_libraries(blender: &FoundBlender) -> Vec<MissingLibrary> {
    if !cfg!(target_os = "linux") {
        return Vec::new();
    }
    let not_linked = binary(blender).map(|binary| not_found(&binary)).unwrap_or_default();
    missing_beside(not_linked, &known_libraries(), has_mesa_drivers())
}

/// The libraries that a Blender from elsewhere is likely to need and this system lacks, where there is no
/// Blender yet that could be asked. Tells nothing on systems other than Linux. Blocks.
#[must_use]
pub fn likely_missing_libraries() -> Vec<MissingLibrary> {
    if !cfg!(target_os = "linux") {
        return Vec::new();
    }
    let known = known_libraries();
    missing_beside(likely_not_linked(&known), &known, has_mesa_drivers())
}

/// Of what Blenders link, the names that the linker does not know.
fn likely_not_linked(known: &BTreeSet<String>) -> Vec<String> {
    let names = PACKAGES.iter().map(|(name, _)| *name);
    names
        .filter(|name| !LOADED_LATER.contains(name) && !known.contains(*name))
        .map(str::to_owned)
        .collect()
}

/// What the linker misses, and what Blender will miss when it draws.
fn missing_beside(
    not_linked: Vec<String>,
    known: &BTreeSet<String>,
    has_mesa_drivers: bool,
) -> Vec<MissingLibrary> {
    let mut missing: BTreeSet<_> = not_linked
        .into_iter()
        .map(|name| MissingLibrary { package: package(&name), name, only_for_eevee: false })
        .collect();
    for name in LOADED_LATER {
        if !known.contains(name) && !missing.iter().any(|library| library.name == name) {
            missing.insert(MissingLibrary {
                name: name.into(),
                package: package(name),
                only_for_eevee: true,
            });
        }
    }
    if !has_mesa_drivers {
        let (name, package) = MESA_DRIVERS;
        missing.insert(MissingLibrary {
            name: name.into(),
            package: Some(package),
            only_for_eevee: true,
        });
    }
    missing.into_iter().collect()
}

/// Installs the packages that have the `missing` libraries: as root on Debian and its children by apt-get,
/// telling `report` each command before it runs. Blocks, for a minute or so.
///
/// # Errors
/// Elsewhere, with the line to run; and when apt-get fails.
pub fn install_libraries(
    missing: &[MissingLibrary],
    mut report: impl FnMut(&str),
) -> Result<(), InstallError> {
    let packages: BTreeSet<_> = missing.iter().filter_map(|library| library.package).collect();
    let names: Vec<_> = missing.iter().map(|library| library.name.as_str()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let lacks = names.join(", ");
    if packages.is_empty() {
        return Err(InstallError::Unknown { lacks });
    }
    let packages: Vec<_> = packages.into_iter().collect();
    let update = ["apt-get", "update"].to_vec();
    let install: Vec<_> = ["apt-get", "install", "--yes", "--no-install-recommends"]
        .into_iter()
        .chain(packages)
        .collect();
    if !is_debian() || !platform::is_root() {
        let command = format!("sudo {} && sudo {}", update.join(" "), install.join(" "));
        return Err(InstallError::ByHand { lacks, command });
    }
    for command in [update, install] {
        let text = command.join(" ");
        report(&text);
        let output = Command::new(command[0])
            .args(&command[1..])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .output();
        let said = match output {
            Ok(output) if output.status.success() => continue,
            Ok(output) => last_line(&output.stderr),
            Err(error) => error.to_string(),
        };
        return Err(InstallError::Failed { command: text, said });
    }
    Ok(())
}

fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim().lines().last().unwrap_or_default().to_owned()
}

fn package(library: &str) -> Option<&'static str> {
    let known = PACKAGES.iter().find(|(name, _)| *name == library);
    known.map(|(_, package)| *package)
}

/// The file that the dynamic linker must be able to load.
fn binary(blender: &FoundBlender) -> Option<PathBuf> {
    match blender.kind {
        Kind::Executable => Some(blender.path.clone()),
        Kind::Module => {
            // Finds the module without importing it.
            const ASK: &str = "import importlib.util as u; print(u.find_spec('bpy').origin)";
            let said = answer(Command::new(&blender.path).args(["-c", ASK]), ASK_TIMEOUT)?;
            Some(PathBuf::from(said.trim()))
        }
    }
}

/// What the dynamic linker does not find, by its own account.
fn not_found(binary: &Path) -> Vec<String> {
    let said = answer(Command::new("ldd").arg(binary), ASK_TIMEOUT).unwrap_or_default();
    not_found_in(&said)
}

fn not_found_in(ldd: &str) -> Vec<String> {
    ldd.lines()
        .filter_map(|line| line.trim().strip_suffix("=> not found"))
        .map(|name| name.trim().to_owned())
        .collect()
}

/// Libraries in the linker's cache.
fn known_libraries() -> BTreeSet<String> {
    let said = ["/sbin/ldconfig", "/usr/sbin/ldconfig", "ldconfig"]
        .iter()
        .find_map(|ldconfig| answer(Command::new(ldconfig).arg("-p"), ASK_TIMEOUT));
    said.unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn has_mesa_drivers() -> bool {
    let roots = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let roots = roots.map(|entry| entry.path()).chain(["/usr/lib64".into()]);
    roots
        .map(|root| root.join("dri"))
        .any(|dri| dri.join("swrast_dri.so").exists() || dri.join("libdril_dri.so").exists())
}

fn is_debian() -> bool {
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    system
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| matches!(*key, "ID" | "ID_LIKE"))
        .flat_map(|(_, value)| value.trim_matches('"').split(' '))
        .any(|name| matches!(name, "debian" | "ubuntu"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_linker_misses_is_read() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibXi.so.6 => not found\n\
                   \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\tlibSM.so.6 => not found\n";
        assert_eq!(not_found_in(ldd), ["libXi.so.6", "libSM.so.6"]);
    }

    #[test]
    fn a_bare_machine_is_likely_to_lack_every_library_and_an_equipped_one_none() {
        let bare = BTreeSet::new();
        let lacks = missing_beside(likely_not_linked(&bare), &bare, false);
        assert_eq!(lacks.len(), PACKAGES.len() + 1);
        assert!(lacks.iter().all(|library| library.package.is_some()));
        let for_eevee = lacks.iter().filter(|library| library.only_for_eevee).count();
        assert_eq!(for_eevee, LOADED_LATER.len() + 1);

        let equipped = PACKAGES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert!(missing_beside(likely_not_linked(&equipped), &equipped, true).is_empty());
    }

    #[test]
    fn packages_are_named_for_what_is_known() {
        assert_eq!(package("libXi.so.6"), Some("libxi6"));
        assert_eq!(package("libstrange.so.1"), None);
    }

    #[test]
    fn nothing_missing_needs_nothing_done() {
        assert!(install_libraries(&[], |_| panic!("nothing to run")).is_ok());
    }

    #[test]
    fn an_unknown_library_is_named() {
        let strange =
            MissingLibrary { name: "libstrange.so.1".into(), package: None, only_for_eevee: false };
        let error = install_libraries(&[strange], |_| ()).err();
        let text = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains("libstrange.so.1"), "{text}");
    }
}
