//! What every confined program may read and inherit.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

/// Folders and files of the system that programs read. Of /etc only what they need: there are secrets in it. Of
/// /proc nothing about processes, whose environments are there.
#[cfg(target_os = "linux")]
pub(crate) const SYSTEM: [&str; 48] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/opt",
    "/nix/store",
    "/gnu/store",
    "/run/opengl-driver",
    "/snap/blender",
    "/var/cache/fontconfig",
    "/proc/cpuinfo",
    "/proc/devices",
    "/proc/driver",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/modules",
    "/proc/stat",
    "/proc/sys",
    "/proc/uptime",
    "/proc/version",
    "/sys",
    "/etc/OpenCL",
    "/etc/alternatives",
    "/etc/alsa",
    "/etc/asound.conf",
    "/etc/drirc",
    "/etc/egl",
    "/etc/fonts",
    "/etc/glvnd",
    "/etc/group",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/locale.alias",
    "/etc/localtime",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/openal",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/timezone",
    "/etc/vulkan",
];

/// Environment that a confined command keeps: names, and beginnings of names that end in `_`. What is not here
/// may be a secret.
const ENVIRONMENT: [&str; 27] = [
    "PATH",
    "LANG",
    "LANGUAGE",
    "LC_",
    "TZ",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "OCIO",
    "OMP_",
    "BLENDER_",
    "CYCLES_",
    "CUDA_",
    "OPTIX_",
    "NVIDIA_",
    "HIP_",
    "ROCR_",
    "ONEAPI_",
    "SYCL_",
    "ZE_",
    "VK_",
    "MESA_",
    "LIBGL_",
    "GALLIUM_",
    "EGL_",
    "__EGL_",
    "__GLX_",
];

/// Whether a folder is small enough to be opened as a whole: not the root, not somebody's home. What counts is where
/// its path leads: `..` and links may lead from a small folder to a home.
pub(crate) fn is_narrow(folder: &Path) -> bool {
    let real = |path: PathBuf| fs::canonicalize(&path).unwrap_or(path);
    let is_absolute = folder.is_absolute();
    let folder = real(folder.to_owned());
    let all = real("/home".into());
    let homes = [env::home_dir(), Some("/root".into()), Some("/Users".into())];
    let mut homes = homes.into_iter().flatten().map(real).chain([all.clone()]);
    is_absolute
        && folder.parent().is_some()
        && !homes.any(|home| home.starts_with(&folder))
        && folder.parent() != Some(&*all)
}

pub(crate) fn is_kept(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    ENVIRONMENT.iter().any(|kept| name == *kept || (kept.ends_with('_') && name.starts_with(kept)))
}
