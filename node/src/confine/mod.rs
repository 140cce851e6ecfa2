//! Walls around what reads a .blend or writes for it: Blender and ffmpeg change nothing outside the folders they
//! are given, read little else than the system, and reach no network, whatever the file makes them do.
//!
//! On Linux the walls are Landlock's, with a seccomp filter for what Landlock does not cover. Both hold for a
//! thread and for all it starts, so a command is started by a thread of its own that has walled itself in: nothing
//! runs between fork and exec, and no helper program is needed. Elsewhere there are none, which the node says when
//! it starts.

mod allowed;
mod environment;

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use tokio::process::{Child, Command};

use self::allowed::is_kept;
pub(crate) use self::allowed::is_narrow;

/// Whether what renders must be confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Confine {
    /// Where the system can.
    #[default]
    Auto,
    /// A node that cannot does not start.
    Require,
    /// Never.
    Off,
}

/// What a command may touch besides what every program needs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Walls {
    /// Folders in which it may change everything. The first one is its home.
    pub(crate) writes: Vec<PathBuf>,
    /// Files and folders that it may read, and run.
    pub(crate) reads: Vec<PathBuf>,
    /// Whether it may look at processes, itself among them: drivers of graphics cards do. That shows the
    /// environments of all the user's processes, so it is nothing for a file's own Python.
    pub(crate) sees_processes: bool,
}

/// Where renderers work, and whether there are walls around them.
#[derive(Debug, Clone)]
pub(crate) struct Workplace {
    /// Folder for what they write.
    pub(crate) work: PathBuf,
    /// Folder of the projects that are laid out.
    pub(crate) layouts: PathBuf,
    pub(crate) confined: bool,
}

impl Workplace {
    /// Where compiled shaders are kept; `None`: where the user's other programs have theirs.
    pub(crate) fn shaders(&self) -> Option<PathBuf> {
        self.confined.then(|| self.layouts.with_file_name("shaders"))
    }

    /// The walls around a program that has `home` for itself. It draws one project after the other, and so may
    /// read all of them; with the file's own Python it gets to see that file's project only.
    pub(crate) fn walls(
        &self,
        home: &Path,
        program: Vec<PathBuf>,
        only: Option<&Path>,
    ) -> Option<Walls> {
        let project = only.map(|file| {
            let inside = file.strip_prefix(&self.layouts).ok();
            let name = inside.and_then(|inside| inside.components().next());
            name.map_or_else(|| file.to_owned(), |name| self.layouts.join(name))
        });
        let projects = project.unwrap_or_else(|| self.layouts.clone());
        self.confined.then(|| Walls {
            writes: vec![home.to_owned()],
            reads: program.into_iter().chain([projects]).chain(environment::reads()).collect(),
            sees_processes: only.is_none(),
        })
    }
}

/// Why there are no walls.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoWalls {
    #[cfg(not(target_os = "linux"))]
    #[error("only Linux has Landlock")]
    System,
    #[cfg(target_os = "linux")]
    #[error("this Linux has no Landlock (it came with 5.13), or was started without it")]
    Landlock,
    #[cfg(target_os = "linux")]
    #[error("this Linux refuses to confine: {0}")]
    Refused(#[from] io::Error),
}

/// Devices without a memory, and graphics cards.
#[cfg(target_os = "linux")]
const DEVICES: [&str; 7] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/dri", "/dev/kfd"];

/// Whether this system has walls; what they are made of, for people.
pub(crate) fn probe() -> Result<String, NoWalls> {
    #[cfg(not(target_os = "linux"))]
    return Err(NoWalls::System);
    #[cfg(target_os = "linux")]
    linux::probe()
}

/// What walls renderers in on this system, for people; the error says why nothing does. Blocks for a moment.
///
/// # Errors
/// When this system cannot confine.
pub fn walls() -> Result<String, String> {
    probe().map_err(|why| why.to_string())
}

/// Starts a command, within walls if there are any. Asks for a tokio runtime.
pub(crate) async fn spawn(mut command: Command, walls: Option<Walls>) -> io::Result<Child> {
    match walls {
        None => command.spawn(),
        #[cfg(not(target_os = "linux"))]
        Some(_) => command.spawn(),
        #[cfg(target_os = "linux")]
        Some(walls) => linux::spawn_within(command, walls).await,
    }
}

/// Returns the folders that a program was installed into, which may be in a person's home. A Python in a virtual
/// environment also reads the installation that the environment was created from.
pub(crate) fn installation(program: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let mut programs = vec![program.to_owned(), fs::canonicalize(program).unwrap_or_default()];
    let base = program.parent().and_then(environment::base_of_venv);
    programs.extend(base.iter().map(|base| base.join("python3")));
    programs.extend(base.and_then(|base| fs::canonicalize(base.join("python3")).ok()));
    for program in programs {
        let Some(folder) = program.parent() else { continue };
        let shared = ["bin", "Scripts", "shims"].map(OsStr::new);
        let whole =
            folder.parent().filter(|_| folder.file_name().is_some_and(|n| shared.contains(&n)));
        folders.push(whole.filter(|whole| is_narrow(whole)).unwrap_or(folder).to_owned());
    }
    folders.retain(|folder| is_narrow(folder));
    folders.dedup();
    folders
}

/// The command's own settings stay; of ours it inherits what is no secret.
#[cfg(target_os = "linux")]
fn limit_environment(command: &mut Command, walls: &Walls) {
    let set: Vec<OsString> = command.as_std().get_envs().map(|(name, _)| name.to_owned()).collect();
    for (name, _) in env::vars_os() {
        if !is_kept(&name) && !set.contains(&name) {
            command.env_remove(name);
        }
    }
    let path = env::var_os("PATH").unwrap_or_default();
    command.env("PATH", environment::readable_path(&path, &walls.reads));
    let home = walls.writes.first().cloned().unwrap_or_default();
    // Debian's Blender asks the sound server at its start, whatever it is started for: here there is none.
    command.env("HOME", &home).env("PULSE_SERVER", "{}").env("PULSE_RUNTIME_PATH", home);
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{collections::BTreeMap, fs, io, path::PathBuf, thread};

    use landlock::{
        ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, RestrictionStatus,
        Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, Scope,
        path_beneath_rules,
    };
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    use tokio::{
        process::{Child, Command},
        runtime::Handle,
        sync::oneshot,
    };

    use super::{DEVICES, NoWalls, Walls, allowed::SYSTEM, limit_environment};

    /// What we know of Landlock and have tried. A kernel with less gives less.
    const KNOWN: ABI = ABI::V6;

    /// Calls that no renderer needs and that get around Landlock: to every kind of network and to services on
    /// this machine, to other ways of asking the kernel, to files by other means than their paths, and to
    /// the permissions of files that may only be read.
    const REFUSED: &[libc::c_long] = &[
        libc::SYS_socket,
        libc::SYS_io_uring_setup,
        libc::SYS_open_by_handle_at,
        libc::SYS_ptrace,
        libc::SYS_process_vm_writev,
        libc::SYS_bpf,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_truncate,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_fchmodat2,
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_setxattr,
        libc::SYS_lsetxattr,
        libc::SYS_fsetxattr,
        libc::SYS_removexattr,
        libc::SYS_lremovexattr,
        libc::SYS_fremovexattr,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chown,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lchown,
    ];

    /// Bit of a call's number in the second set of them that x86-64 kernels may have.
    #[cfg(target_arch = "x86_64")]
    const X32: libc::c_long = 0x4000_0000;

    pub(super) fn probe() -> Result<String, NoWalls> {
        let thread = thread::Builder::new().name("confine".into());
        let probed = thread.spawn(|| wall_in(&Walls::default()))?.join();
        let status = probed.unwrap_or_else(|_| Err(io::Error::other("a panic")))?;
        match status.landlock {
            LandlockStatus::Available { effective_abi, kernel_abi } => {
                let abi = kernel_abi.unwrap_or(effective_abi as i32);
                Ok(format!("Landlock, ABI {abi}"))
            }
            LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => Err(NoWalls::Landlock),
        }
    }

    pub(super) async fn spawn_within(mut command: Command, walls: Walls) -> io::Result<Child> {
        limit_environment(&mut command, &walls);
        let runtime = Handle::current();
        let (tell, told) = oneshot::channel();
        thread::Builder::new().name("confine".into()).spawn(move || {
            // Nothing that starts a thread may be called here: it would have the walls and outlive us.
            let _runtime = runtime.enter();
            let _ = tell.send(wall_in(&walls).and_then(|_| command.spawn()));
        })?;
        told.await.map_err(|_| io::Error::other("the thread that starts it panicked"))?
    }

    /// Confines this thread, and what it starts, for good.
    fn wall_in(walls: &Walls) -> io::Result<RestrictionStatus> {
        let status = restrict(walls).map_err(io::Error::other)?;
        // The other half, for what the ruleset cannot say.
        seccompiler::apply_filter(&filter()?).map_err(io::Error::other)?;
        Ok(status)
    }

    fn restrict(walls: &Walls) -> Result<RestrictionStatus, RulesetError> {
        let read = AccessFs::from_read(KNOWN);
        // No links out of the folder for whoever reads what was written, no devices, no programs.
        let change = AccessFs::ReadFile
            | AccessFs::ReadDir
            | AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::MakeReg
            | AccessFs::MakeDir
            | AccessFs::RemoveFile
            | AccessFs::RemoveDir
            | AccessFs::Refer;
        let device: BitFlags<AccessFs> =
            AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile | AccessFs::IoctlDev;
        let system = SYSTEM.iter().map(PathBuf::from).chain(all_in("/etc", "python"));
        let processes = walls.sees_processes.then_some("/proc");
        let devices = DEVICES.iter().map(PathBuf::from).chain(all_in("/dev", "nvidia"));
        // Paths that do not exist are left out.
        Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))?
            .handle_access(AccessNet::from_all(KNOWN))?
            .scope(Scope::from_all(KNOWN))?
            .create()?
            .add_rules(path_beneath_rules(system, read))?
            .add_rules(path_beneath_rules(processes, read))?
            .add_rules(path_beneath_rules(&walls.reads, read))?
            .add_rules(path_beneath_rules(&walls.writes, change))?
            .add_rules(path_beneath_rules(devices, device))?
            .restrict_self()
    }

    fn all_in(folder: &str, beginning: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(beginning))
            .map(|entry| entry.path())
            .collect()
    }

    fn filter() -> io::Result<BpfProgram> {
        let architecture = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
        let mut refused = BTreeMap::new();
        for call in REFUSED {
            refused.insert(*call, Vec::new());
            #[cfg(target_arch = "x86_64")]
            refused.insert(*call | X32, Vec::new());
        }
        let (others, these) = (SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32));
        SeccompFilter::new(refused, others, these, architecture)
            .and_then(BpfProgram::try_from)
            .map_err(io::Error::other)
    }
}
