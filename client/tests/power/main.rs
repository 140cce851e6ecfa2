//! Power is lost while an orchestrator works. What it does to its files is recorded (`record.c`), the record is cut
//! somewhere, and from what comes before the cut a disk is made as it may be found then (`disk.rs`). An orchestrator
//! starts on it, and everything that anybody was told before the cut is there.
//!
//! `FRAMECREW_DISKS` is how many disks are tried (120), `FRAMECREW_SEED` which. Needs a C compiler on Linux.
#![cfg(all(target_os = "linux", feature = "local"))]
#![allow(clippy::unwrap_used)]

mod disk;
#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use disk::{Change, Disk, Step};
use fastrand::Rng;
use framecrew::{Cluster, JobSpec, proto::JobState};
use framecrew_blobs::Digest;
use framecrew_orchestrator::{Config, check, serve};
use futures::future::join_all;
use support::{
    number,
    servers::{Crew, DATA, FinishedFrame, connect, finished_frames, orchestrator, watched},
    skip,
};
use tokio::{net::TcpListener, sync::oneshot};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.blend");
/// Lives of the orchestrator, and the frames of the job that each is given.
const LIVES: i32 = 2;
const FRAMES: i32 = 60;
/// Blobs uploaded at once: more than are made durable one by one.
const UPLOADS: usize = 24;
/// Disks on which a missing sync shows at the latest.
const LYING_DISKS: u64 = 200;

/// What people were told, each in words.
#[derive(Debug, Default)]
struct Told {
    blobs: BTreeSet<String>,
    jobs: BTreeMap<u64, BTreeSet<FinishedFrame>>,
}

impl Told {
    fn hear(&mut self, words: &str) {
        let words: Vec<_> = words.split(' ').collect();
        match words[..] {
            ["blob", digest] => drop(self.blobs.insert(digest.to_owned())),
            ["job", job] => drop(self.jobs.insert(job.parse().unwrap(), BTreeSet::new())),
            ["frame", job, frame, revision, digest] => {
                let frame = (frame.parse().unwrap(), revision.parse().unwrap(), digest.to_owned());
                self.jobs.get_mut(&job.parse().unwrap()).unwrap().insert(frame);
            }
            _ => panic!("{words:?}"),
        }
    }
}

/// The file that all that happens is appended to.
struct Record(PathBuf);

impl Record {
    /// Takes down what somebody was told.
    fn tell(&self, words: &str) {
        let mut line = Vec::new();
        for number in [u64::from(b'!'), 0, 0, words.len() as u64] {
            line.extend(number.to_ne_bytes());
        }
        line.extend(words.as_bytes());
        let mut file = fs::File::options().append(true).open(&self.0).unwrap();
        assert_eq!(file.write(&line).unwrap(), line.len(), "at once: others write to it, too");
    }

    fn steps(&self, root: &Path) -> Vec<Step> {
        let record = fs::read(&self.0).unwrap();
        let (mut rest, mut steps) = (&record[..], Vec::new());
        let path = |bytes: &[u8]| {
            Path::new(OsStr::from_bytes(bytes))
                .strip_prefix(root)
                .unwrap_or(Path::new(""))
                .to_owned()
        };
        while !rest.is_empty() {
            let (head, more) = rest.split_at(32);
            let number = |n: usize| u64::from_ne_bytes(head[8 * n..8 * n + 8].try_into().unwrap());
            let [what, name_bytes, offset, data_bytes] = [0, 1, 2, 3].map(|n| number(n) as usize);
            let (name, more) = more.split_at(name_bytes);
            let (data, more) = more.split_at(data_bytes);
            rest = more;
            // SQLite's index of its log is made anew, whatever is found.
            if name.ends_with(b"-shm") {
                continue;
            }
            let name = path(name);
            steps.push(match what as u8 {
                b'c' => Step::Create(name),
                b'm' => Step::MakeFolder(name),
                b'r' => Step::Rename(name, path(data)),
                b'u' => Step::Remove(name),
                b'w' => Step::Change(name, Change::Write(offset, data.to_vec())),
                b't' => Step::Change(name, Change::Size(offset)),
                b's' => Step::Sync(name),
                b'a' => Step::SyncAll,
                b'!' => Step::Acknowledged(String::from_utf8(data.to_vec()).unwrap()),
                other => panic!("no such step: {other}"),
            });
        }
        steps
    }
}

/// The recorder, as the dynamic linker loads it. `None`: there is no compiler to make it with.
fn recorder(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("record.c"), folder.join("record.so"));
    fs::write(&source, include_str!("record.c")).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
    if cc.status().is_err() {
        skip("C compiler", "FRAMECREW_REQUIRE_CC");
        return None;
    }
    assert!(library.exists(), "record.c does not compile");
    Some(library)
}

/// Uploads, submits and draws, in more than one life of the orchestrator, with all that is acknowledged taken down.
/// `None`: it cannot be recorded here.
async fn record_work() -> Option<Vec<Step>> {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let recorder = recorder(&root)?;
    let record = Record(root.join("record"));
    fs::write(&record.0, "").unwrap();
    let mut command = orchestrator();
    command.env("LD_PRELOAD", recorder).env("FRAMECREW_RECORD", &record.0);
    command.env("FRAMECREW_RECORDED", &root);
    let mut crew = Crew::start_in(folder, command, &["a", "b"], &["--renderer", "synthetic:2ms"]);
    for life in 0..LIVES {
        let cluster = crew.cluster().await;
        let uploads = (0..UPLOADS).map(async |n| {
            let blob = format!("blob {n} of life {life}").repeat(100);
            let digest = Digest::of(blob.as_bytes());
            cluster.blobs().upload_bytes(blob.into(), digest).await.unwrap();
            record.tell(&format!("blob {digest}"));
        });
        join_all(uploads).await;
        let frames = life * FRAMES + 1..=(life + 1) * FRAMES;
        let job = cluster.submit(JobSpec::animation(DEMO).frames(frames)).await.unwrap();
        record.tell(&format!("job {}", job.id()));
        let view = watched(job.watch(), |(frame, revision, digest)| {
            record.tell(&format!("frame {} {frame} {revision} {digest}", job.id()));
        })
        .await;
        assert_eq!(view.state(), JobState::Finished);
        crew.orchestrator.terminate();
        assert!(crew.orchestrator.ended().await.success(), "{}", crew.orchestrator.log());
        if life + 1 < LIVES {
            crew.orchestrator.restart();
        }
    }
    Some(record.steps(&root))
}

/// What is not there of what was told, or what is not sound; on a disk as it was found.
async fn find_loss(data: &Path, told: &Told) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = serve(listener, Config::new(data.to_owned()), async { drop(stopped.await) });
    let looking = async {
        let cluster = connect(&url).await;
        let found = find_lost_job(&cluster, told).await;
        drop(cluster);
        drop(stop);
        found
    };
    tokio::pin!(serving, looking);
    let found = tokio::select! {
        served = &mut serving => return Err(format!("it does not start: {served:?}")),
        found = &mut looking => found,
    };
    serving.await.map_err(|error| format!("it does not stop: {error}"))?;
    found?;
    for digest in &told.blobs {
        let (shard, rest) = digest.split_at(2);
        match fs::read(data.join("blobs").join(shard).join(rest)) {
            Ok(bytes) if Digest::of(&bytes).to_string() == *digest => {}
            found => return Err(format!("an uploaded blob is lost: {:?}", found.map(|b| b.len()))),
        }
    }
    let checked = check(data, true).await.map_err(|error| error.to_string())?;
    if checked.is_sound() { Ok(()) } else { Err(checked.faults.join("; ")) }
}

async fn find_lost_job(cluster: &Cluster, told: &Told) -> Result<(), String> {
    for (job, frames) in &told.jobs {
        cluster.job(*job).await.map_err(|error| format!("job {job} is lost: {error}"))?;
        let found: BTreeSet<_> = finished_frames(cluster, *job).await.into_iter().collect();
        if let Some(lost) = frames.difference(&found).next() {
            return Err(format!("a frame of job {job} is lost: {lost:?}"));
        }
    }
    Ok(())
}

/// Loses power so many times, and gives back the first loss.
async fn try_disks(steps: &[Step], disks: u64, seed: u64) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    let told: Vec<_> = (0..steps.len()).filter(|at| steps[*at].is_told()).collect();
    // Anywhere, and as often where somebody has just been told something.
    let mut cut =
        |n| if n % 2 == 0 { rng.usize(0..=steps.len()) } else { *rng.choice(&told).unwrap() + 1 };
    let mut cuts: Vec<usize> = (0..disks).map(&mut cut).collect();
    cuts.sort_unstable();
    // In memory where that can be: nobody's power is lost while it is looked at.
    let memory = PathBuf::from("/dev/shm");
    let places = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let (mut disk, mut told, mut done) = (Disk::default(), Told::default(), 0);
    for cut in cuts {
        for step in &steps[done..cut] {
            disk.apply(step);
            if let Step::Acknowledged(words) = step {
                told.hear(words);
            }
        }
        done = cut;
        let root = tempfile::tempdir_in(&places).unwrap();
        disk.lose_power(root.path(), &mut rng);
        let lost = find_loss(&root.path().join(DATA), &told).await;
        lost.map_err(|lost| format!("seed {seed}, cut at {cut} of {}: {lost}", steps.len()))?;
    }
    Ok(())
}

/// The steps on a disk that says of some things that they are durable, and lies.
fn lying(steps: &[Step], about: impl Fn(&Path) -> bool) -> Vec<Step> {
    let is_true = |step: &&Step| !matches!(step, Step::Sync(path) if about(path));
    steps.iter().filter(is_true).cloned().collect()
}

/// The same steps, with a sync of everything as one of each path that is there by then: a disk that lies about
/// some of them does so then as well.
fn spelled_out(steps: &[Step]) -> Vec<Step> {
    let mut there = BTreeSet::new();
    let mut spelled = Vec::new();
    for step in steps {
        match step {
            Step::Create(path) | Step::MakeFolder(path) => {
                there.extend(path.ancestors().map(Path::to_owned));
            }
            Step::Remove(path) => there.retain(|other| !other.starts_with(path)),
            Step::Rename(from, to) => {
                let moved = |path: &PathBuf| path.strip_prefix(from).map(|rest| to.join(rest)).ok();
                there = there.iter().map(|path| moved(path).unwrap_or(path.clone())).collect();
            }
            Step::SyncAll => {
                spelled.extend(there.iter().cloned().map(Step::Sync));
                continue;
            }
            Step::Change(..) | Step::Sync(_) | Step::Acknowledged(_) => {}
        }
        spelled.push(step.clone());
    }
    spelled
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_before_the_power_was_lost_is_there() {
    let Some(steps) = record_work().await else { return };
    let count = |what: fn(&Step) -> bool| steps.iter().filter(|step| what(step)).count();
    let told = count(Step::is_told);
    assert_eq!(told, LIVES as usize * (UPLOADS + 1 + FRAMES as usize));

    let (disks, seed) = (number("FRAMECREW_DISKS", 120), number("FRAMECREW_SEED", 1));
    let begun = std::time::SystemTime::now();
    assert_eq!(try_disks(&steps, disks, seed).await, Ok(()));
    println!(
        "{} steps, {told} acknowledged, {} syncs, {} of all; {disks} disks in {:?}",
        steps.len(),
        count(|step| matches!(step, Step::Sync(_))),
        count(|step| matches!(step, Step::SyncAll)),
        begun.elapsed().unwrap()
    );

    // And each of these syncs is needed: without it there are losses, and they are found.
    let steps = spelled_out(&steps);
    let depth = |path: &Path| path.components().count();
    let log = lying(&steps, |path| path.ends_with("framecrew.db-wal"));
    let blobs = lying(&steps, |path| depth(path) == 4);
    let shards = lying(&steps, |path| depth(path) == 3);
    let names = lying(&steps, |path| depth(path) == 1);
    for (what, steps) in [("log", log), ("blobs", blobs), ("shards", shards), ("names", names)] {
        let found = try_disks(&steps, LYING_DISKS, seed).await;
        println!("a disk that lies about the {what}: {found:?}");
        assert!(found.is_err(), "nobody notices a disk that lies about the {what}");
    }
}
