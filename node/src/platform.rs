//! What differs between operating systems, in one place, each with a portable fallback.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{process::Command, time};

/// How long to wait until killed processes are gone, and how often to check. Only a process that hangs in the kernel
/// outlives this, and nothing can end that one.
pub(crate) const KILL_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const KILL_CHECK_INTERVAL: Duration = Duration::from_millis(2);

/// Makes the command's process the leader of its own group, so that it can be ended with all it starts.
pub(crate) fn lead_a_group(command: &mut Command) {
    #[cfg(unix)]
    command.process_group(0);
    command.kill_on_drop(true);
}

/// Kills the process group that `leader` leads. A group that is gone already is fine.
pub(crate) fn kill_group(leader: u32) {
    #[cfg(unix)]
    if let Some(group) = group_of(leader) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    #[cfg(not(unix))]
    let _ = leader; // `kill_on_drop` ends the leader.
}

/// Kills a process group with itself, unless that is taken out before.
#[derive(Debug)]
pub(crate) struct KillOnDrop {
    /// Process that leads the group.
    pub(crate) leader: Option<u32>,
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(leader) = self.leader {
            kill_group(leader);
        }
    }
}

/// Whether a process of the group that `leader` leads still exists.
pub(crate) fn group_exists(leader: u32) -> bool {
    #[cfg(unix)]
    return group_of(leader)
        .is_some_and(|group| rustix::process::test_kill_process_group(group).is_ok());
    #[cfg(not(unix))]
    {
        let _ = leader;
        false
    }
}

#[cfg(unix)]
fn group_of(leader: u32) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(i32::try_from(leader).ok()?)
}

/// The signal that ended a process, if one did.
pub(crate) fn signal(status: std::process::ExitStatus) -> Option<i32> {
    #[cfg(unix)]
    return std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    {
        let _ = status;
        None
    }
}

/// Number of the signal that no process can catch. The kernel sends it when memory runs out.
pub(crate) const SIGKILL: i32 = 9;

/// Number of processes that the kernel has killed because memory ran out: in our control group if the kernel counts
/// them there, otherwise on the machine; 0 if it does not count them.
pub(crate) fn out_of_memory_kills() -> u64 {
    static COUNTER: std::sync::OnceLock<Option<PathBuf>> = std::sync::OnceLock::new();
    let ours = COUNTER.get_or_init(|| {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let events = Path::new("/sys/fs/cgroup").join(group).join("memory.events");
        events.is_file().then_some(events)
    });
    let all = Path::new("/proc/vmstat");
    let counters = fs::read_to_string(ours.as_deref().unwrap_or(all)).unwrap_or_default();
    let count = counters.lines().find_map(|l| l.strip_prefix("oom_kill "));
    count.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// Most memory that a process has had, in bytes; 0 where the system does not report it.
pub(crate) fn peak_memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes: Option<u64> =
        peak.and_then(|peak| peak.split_whitespace().next()).and_then(|n| n.parse().ok());
    kibibytes.unwrap_or(0) << 10
}

/// Kills the processes whose working folder is `folder` or below it, such as those of a node that was killed. Only
/// the node that has the lock of the data folder may call this.
pub(crate) fn kill_all_in(folder: &Path) -> usize {
    let mut killed = 0;
    #[cfg(target_os = "linux")]
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        use rustix::process::{self, Pid, PidfdFlags, Signal};
        let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(id) = id.and_then(Pid::from_raw) else { continue };
        // Held before it is looked at, so that its number cannot become another's.
        let Ok(held) = process::pidfd_open(id, PidfdFlags::empty()) else { continue };
        let place = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        if place.starts_with(folder) && process::pidfd_send_signal(held, Signal::KILL).is_ok() {
            killed += 1;
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (folder, &mut killed);
    killed
}

/// The same, until there is none left or `KILL_TIMEOUT` has passed.
pub(crate) async fn end_all_in(folder: &Path) -> usize {
    let ended = kill_all_in(folder);
    let gone = async {
        while kill_all_in(folder) > 0 {
            time::sleep(KILL_CHECK_INTERVAL).await;
        }
    };
    let _ = time::timeout(KILL_TIMEOUT, gone).await;
    ended
}

/// Makes the kernel count a process's peak memory from now on, where it can. The process itself cannot where there
/// are walls around it.
pub(crate) fn forget_peak_memory(process: u32) {
    if cfg!(target_os = "linux") {
        let _ = fs::write(format!("/proc/{process}/clear_refs"), "5");
    }
}

/// Time since a moment in the past that stays the same while the machine runs; sleeping (suspend) counts.
pub(crate) fn uptime() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
    // On macOS and the BSDs the monotonic clock is the nearest thing; a lease then outlasts a suspend until the
    // first heartbeat after it is answered.
    #[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
    #[cfg(unix)]
    {
        let now = rustix::time::clock_gettime(CLOCK);
        Duration::new(
            u64::try_from(now.tv_sec).unwrap_or(0),
            u32::try_from(now.tv_nsec).unwrap_or(0),
        )
    }
    #[cfg(not(unix))]
    {
        static START: std::sync::OnceLock<tokio::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(tokio::time::Instant::now).elapsed()
    }
}

/// Gives the file `from` the second name `to`, or copies it where links are not possible.
pub(crate) fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        Err(_) => fs::copy(from, to).map(drop),
    }
}

/// Number of names of a file; 1 where the system does not report it.
pub(crate) fn names_of_file(file: &fs::Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::nlink(file);
    #[cfg(not(unix))]
    {
        let _ = file;
        1
    }
}

/// Bytes that may still be written to the file system of `path`; `None` where that is unknown.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    fs4::available_space(path).ok()
}

/// Whether this process may change the system.
pub(crate) fn is_root() -> bool {
    #[cfg(unix)]
    return rustix::process::geteuid().is_root();
    #[cfg(not(unix))]
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn what_works_in_a_folder_is_gone_when_it_was_ended() {
        let folder = tempfile::tempdir().unwrap();
        let below = fs::canonicalize(folder.path()).unwrap().join("a/b");
        fs::create_dir_all(&below).unwrap();
        let mut sleep = std::process::Command::new("sleep");
        sleep.arg("1000").current_dir(&below);
        let sleepers = [(); 3].map(|()| sleep.spawn().unwrap());
        assert_eq!(end_all_in(below.parent().unwrap()).await, 3);
        for mut sleeper in sleepers {
            let place = fs::read_link(format!("/proc/{}/cwd", sleeper.id()));
            assert!(place.is_err(), "{place:?}");
            assert!(!sleeper.wait().unwrap().success());
        }
        assert_eq!(end_all_in(&below).await, 0);
    }
}
