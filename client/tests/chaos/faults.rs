//! The faults F1 to F22, as far as processes can suffer them: each is made, held for a while, and healed.

use std::{
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use fastrand::Rng;
use framecrew::proto::{
    FrameRange, UploadChunk, UploadHeader, UploadRequest, WatchJobRequest,
    blob_store_client::BlobStoreClient, orchestrator_client::OrchestratorClient,
    upload_request::Part,
};
use framecrew_blobs::Digest;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use rustix::process::Signal;
use serde_json::json;
use tokio::{
    sync::OwnedMutexGuard,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    load::{POISON, SCENE, job_of, submit},
    process::{self, descendants, signal},
    proxy::Weather,
    world::{Kind, Node, World, last_lines},
};

/// A node's lease with its margin, after which its work goes to others.
pub(crate) const LEASE: Duration = Duration::from_secs(17);
/// How long whoever observes the jobs may take to be back after an orchestrator was disturbed.
const OBSERVERS_BACK: Duration = Duration::from_secs(10);
/// How long is waited at most for slices of a lost node to go on elsewhere.
const DISPATCH_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
/// Nodes' renderers are gone so long after their node was killed, at the latest.
const RENDERERS_TIMEOUT: Duration = Duration::from_secs(10);
/// A node that was started so long ago has found its Blenders.
const START_TIME: Duration = Duration::from_secs(15);
/// A poisoned frame has its verdict within a minute; this is for a machine that is busy with other faults.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(120);
/// Watchers that never read.
const STALLED: usize = 100;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    NodeKilled,
    NodeGone,
    NodeDrained,
    RendererKilled,
    RendererHangs,
    NodeStopped,
    NodePaused,
    NodeDeaf,
    NodeUnreachable,
    Partition,
    PartitionOneWay,
    LinkCut,
    LinkFlaps,
    LinkSlow,
    LinkThrottled,
    OrchestratorKilled,
    OrchestratorTerminated,
    OrchestratorStopped,
    DatabaseDiskFull,
    BlobDiskFull,
    NodeDiskFull,
    StoreSlow,
    DatabaseTorn,
    ClockJumps,
    WatchersCut,
    WatchersStalled,
    WatchersHalfOpen,
    UploadDies,
    BadOutput,
    PoisonFrame,
    NodeFailsAll,
    StoreLies,
    Three,
}

use Fault::*;

/// Each with its number, its name, how often it comes among the others, and whether it is over within seconds.
const FAULTS: [(Fault, &str, &str, u32, bool); 33] = [
    (NodeKilled, "F1", "node killed", 12, true),
    (NodeGone, "F2", "node gone for good", 1, false),
    (NodeDrained, "F1", "node terminated", 3, true),
    (RendererKilled, "F3", "renderer killed", 6, true),
    (RendererHangs, "F4", "renderer hangs", 2, false),
    (NodeStopped, "F5", "node stopped beyond its lease", 2, false),
    (NodePaused, "F9", "node stopped within its lease", 4, true),
    (NodeDeaf, "F6", "node hears nothing while its work is cancelled", 1, false),
    (NodeUnreachable, "F7", "node calls and cannot be called", 1, false),
    (Partition, "F7", "partition", 2, false),
    (PartitionOneWay, "F7", "partition one way", 2, false),
    (LinkCut, "F8", "links of a node cut", 6, true),
    (LinkFlaps, "F9", "links of a node flap", 5, true),
    (LinkSlow, "F9", "links of a node delay", 4, true),
    (LinkThrottled, "F13", "links of a node throttled", 3, true),
    (OrchestratorKilled, "F10", "orchestrator killed", 10, true),
    (OrchestratorTerminated, "F10", "orchestrator terminated", 2, true),
    (OrchestratorStopped, "F11", "orchestrator stopped beyond leases", 1, false),
    (DatabaseDiskFull, "F12", "database disk full", 2, true),
    (BlobDiskFull, "F13", "blob disk full", 2, true),
    (NodeDiskFull, "F12", "node disk full", 2, true),
    (StoreSlow, "F13", "orchestrator slow", 3, true),
    (StoreLies, "F13", "a truncated blob for a new node", 1, false),
    (DatabaseTorn, "F14", "database torn (a copy)", 1, true),
    (ClockJumps, "F15", "wall clock jumps", 3, true),
    (BadOutput, "F17", "a renderer that draws nothing good", 2, true),
    (PoisonFrame, "F18", "a frame that kills every node", 1, false),
    (NodeFailsAll, "F19", "a node that fails everything", 2, false),
    (WatchersCut, "F20", "links of clients cut", 4, true),
    (WatchersStalled, "F20", "watchers stalled", 1, true),
    (WatchersHalfOpen, "F20", "links of clients silent", 2, true),
    (UploadDies, "F21", "client dies in mid-upload", 5, true),
    (Three, "F22", "three at once", 3, true),
];

impl Fault {
    fn entry(self) -> &'static (Fault, &'static str, &'static str, u32, bool) {
        FAULTS.iter().find(|entry| entry.0 == self).unwrap()
    }

    fn name(self) -> String {
        let (_, number, name, ..) = self.entry();
        format!("{number} {name}")
    }

    /// One of those that are asked for, by their weights.
    fn pick(rng: &mut Rng, only: &[String], brief: bool) -> Self {
        let wanted = |entry: &&(Fault, &str, &str, u32, bool)| {
            let is_named = |name: &String| {
                name == entry.1 || format!("{:?}", entry.0).eq_ignore_ascii_case(name)
            };
            (only.is_empty() || only.iter().any(is_named)) && (!brief || entry.4)
        };
        let of: Vec<_> = FAULTS.iter().filter(wanted).collect();
        assert!(!of.is_empty(), "no fault is called {only:?}: they are called F1 to F22");
        let mut at = rng.u32(0..of.iter().map(|entry| entry.3).sum());
        for entry in of {
            match at.checked_sub(entry.3) {
                Some(rest) => at = rest,
                None => return entry.0,
            }
        }
        unreachable!("the weights add up")
    }
}

/// The right to do something to a part of the world.
#[derive(Debug)]
enum Turn {
    Node(Arc<Node>, OwnedMutexGuard<()>),
    Orchestrator(OwnedMutexGuard<()>),
    Clients(OwnedMutexGuard<()>),
    Nobody,
}

/// Makes faults until `end`, at the rate that is asked for, then waits until all are healed.
pub(crate) async fn make(
    world: &Arc<World>,
    end: Instant,
    mut rng: Rng,
    rate: f64,
    only: &[String],
    brief: bool,
) {
    let mut going_on = JoinSet::new();
    while Instant::now() < end {
        // Twice the mean at most, so that faults meet and miss each other.
        sleep(Duration::from_secs_f64(rng.f64() * 2.0 * 60.0 / rate)).await;
        // What it would hit may be busy with another one: then another one it is.
        for _ in 0..20 {
            let fault = Fault::pick(&mut rng, only, brief);
            if fault == Three {
                let mut picked = Vec::new();
                for _ in 0..20 {
                    let fault = Fault::pick(&mut rng, only, brief);
                    if let Some(turn) = turn(world, fault, &mut rng) {
                        picked.push((fault, turn));
                    }
                    if picked.len() == 3 {
                        break;
                    }
                }
                world.history.count(&Three.name());
                for (fault, turn) in picked {
                    going_on.spawn(strike(world.clone(), fault, turn, rng.fork()));
                }
                break;
            }
            if let Some(turn) = turn(world, fault, &mut rng) {
                going_on.spawn(strike(world.clone(), fault, turn, rng.fork()));
                break;
            }
        }
        while going_on.try_join_next().is_some() {}
    }
    going_on.join_all().await;
}

/// What a fault would hit, if that is to be had now.
fn turn(world: &World, fault: Fault, rng: &mut Rng) -> Option<Turn> {
    match fault {
        OrchestratorKilled
        | OrchestratorTerminated
        | OrchestratorStopped
        | StoreSlow
        | DatabaseTorn => {
            world.orchestrator.turn.clone().try_lock_owned().ok().map(Turn::Orchestrator)
        }
        DatabaseDiskFull | BlobDiskFull => {
            let turn = world.orchestrator.turn.clone().try_lock_owned().ok()?;
            world.orchestrator.data.is_mounted().then_some(Turn::Orchestrator(turn))
        }
        ClockJumps if rng.bool() => {
            let turn = world.orchestrator.turn.clone().try_lock_owned().ok()?;
            world.orchestrator.clock.as_ref()?;
            Some(Turn::Orchestrator(turn))
        }
        WatchersCut | WatchersHalfOpen => {
            world.clients_turn.clone().try_lock_owned().ok().map(Turn::Clients)
        }
        WatchersStalled | UploadDies => Some(Turn::Nobody),
        PoisonFrame => world.nodes.iter().any(|node| node.can_do_wrong()).then_some(Turn::Nobody),
        Three => None,
        _ => {
            let kind = match fault {
                RendererKilled | RendererHangs | StoreLies => Some(Kind::Blender),
                ClockJumps | BadOutput | NodeFailsAll => Some(Kind::Synthetic),
                _ => None,
            };
            let of = |node: &&Arc<Node>| kind.is_none_or(|kind| kind == node.kind);
            let nodes: Vec<_> = world.nodes.iter().filter(of).collect();
            let node = rng.choice(&nodes)?;
            // One of each kind is left alone, so that the work goes on.
            let peers = world.nodes.iter().filter(|peer| peer.kind == node.kind);
            let well = peers.filter(|peer| peer.turn.try_lock().is_ok()).count();
            let can = match fault {
                NodeDiskFull => node.life().disk.is_mounted(),
                ClockJumps => node.clock.is_some(),
                BadOutput | NodeFailsAll => node.can_do_wrong(),
                _ => true,
            };
            if well < 2 || !can {
                return None;
            }
            let turn = node.turn.clone().try_lock_owned().ok()?;
            Some(Turn::Node((*node).clone(), turn))
        }
    }
}

/// Makes one fault and heals it.
fn strike(world: Arc<World>, fault: Fault, turn: Turn, mut rng: Rng) -> BoxFuture<'static, ()> {
    async move {
        let name = fault.name();
        world.history.count(&name);
        let on = match &turn {
            Turn::Node(node, _) => node.life().name.clone(),
            Turn::Orchestrator(_) => "orchestrator".into(),
            Turn::Clients(_) | Turn::Nobody => "clients".into(),
        };
        world.history.tell("fault", &json!({ "fault": name, "on": on }));
        match turn {
            Turn::Node(node, turn) => {
                on_node(&world, fault, &node, &mut rng).await;
                drop(turn);
            }
            Turn::Orchestrator(turn) => {
                world.orchestrator.disturb();
                on_orchestrator(&world, fault, &mut rng).await;
                world.orchestrator.disturb();
                drop(turn);
            }
            Turn::Clients(turn) => {
                on_clients(&world, fault, &mut rng).await;
                drop(turn);
            }
            Turn::Nobody if fault == UploadDies => upload_dies(&world, &mut rng).await,
            Turn::Nobody if fault == PoisonFrame => poison(&world, &mut rng).await,
            Turn::Nobody => watchers_stall(&world, &mut rng).await,
        }
        world.history.tell("healed", &json!({ "fault": name, "on": on }));
    }
    .boxed()
}

fn seconds(rng: &mut Rng, from: f64, to: f64) -> Duration {
    Duration::from_secs_f64(from + rng.f64() * (to - from))
}

async fn on_node(world: &Arc<World>, fault: Fault, node: &Arc<Node>, rng: &mut Rng) {
    match fault {
        NodeKilled => {
            let lost = Lost::of(world, node, "a node's process dies");
            let renderers = node.life().server.id().map(descendants).unwrap_or_default();
            node.life().server.kill();
            let again = rng.u32(0..3) == 0;
            if again {
                sleep(seconds(rng, 0.0, 3.0)).await;
            }
            node.life().server.start();
            if !again {
                lost.go_on(world).await;
            }
            renderers_end(world, &renderers).await;
        }
        NodeGone => {
            let lost = Lost::of(world, node, "a node falls silent");
            node.life().server.kill();
            lost.go_on(world).await;
            world.replace(node);
        }
        StoreLies => {
            let digest = Digest::of(SCENE).to_string();
            let (shard, rest) = digest.split_at(2);
            let blob = world.orchestrator.blobs.path().join(shard).join(rest);
            let beside = blob.with_extension("chaos");
            let put = |bytes: &[u8]| {
                // Whole at once, as a file system that lost the end of a file would show it.
                let put = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, &blob));
                if let Err(error) = put {
                    world.history.tell("not truncated", &json!(error.to_string()));
                }
            };
            if blob.exists() {
                put(&SCENE[..SCENE.len() / 2]);
                node.life().server.kill();
                world.replace(node);
                sleep(seconds(rng, 4.0, 10.0)).await;
                put(SCENE);
            }
        }
        NodeDrained => {
            let status = {
                let process = node.life().server.release();
                process::terminate(process).await
            };
            let (name, said) = {
                let life = node.life();
                (life.name.clone(), last_lines(life.server.log()))
            };
            // The last frame that it draws may be the poisoned one.
            let is_well = status
                .is_some_and(|status| status.success() || world.was_poisoned(&name, status, &said));
            if !is_well {
                world.history.finding(format!("{name} did not end well on SIGTERM: {status:?}"));
            }
            sleep(seconds(rng, 0.0, 2.0)).await;
            node.life().server.start();
        }
        RendererKilled | RendererHangs => {
            // What a node starts at first are not renderers: it asks each Blender for its version.
            let since = node.life().server.started.elapsed();
            sleep(START_TIME.saturating_sub(since)).await;
            let renderers = node.life().server.id().map(descendants).unwrap_or_default();
            let how = match fault {
                RendererHangs => Signal::STOP,
                _ if rng.bool() => Signal::SEGV,
                _ => Signal::KILL,
            };
            for renderer in &renderers {
                signal(renderer.id, how);
            }
            if fault == RendererHangs {
                sleep(seconds(rng, 12.0, 15.0)).await;
            }
        }
        NodeStopped => {
            let lost = Lost::of(world, node, "a node falls silent");
            node.life().server.signal(Signal::STOP);
            let stopped = Instant::now();
            lost.go_on(world).await;
            let whole = LEASE + seconds(rng, 1.0, 5.0);
            sleep(whole.saturating_sub(stopped.elapsed())).await;
            node.life().server.signal(Signal::CONT);
        }
        NodePaused => {
            node.life().server.signal(Signal::STOP);
            sleep(seconds(rng, 0.5, 8.0)).await;
            node.life().server.signal(Signal::CONT);
        }
        NodeDeaf => {
            node.set(Weather::default(), Weather::silent());
            let at_work = world.ledger.at_work(&node.life().name);
            if let Some(((job, _), _)) = rng.choice(&at_work) {
                crate::load::cancel(world.clone(), *job, rng.usize(..), Duration::ZERO).await;
            }
            sleep(seconds(rng, 30.0, 70.0)).await;
            node.heal();
        }
        NodeUnreachable => {
            let down = if rng.bool() { Weather::silent() } else { Weather::cut() };
            node.set(Weather::default(), down);
            sleep(seconds(rng, 45.0, 120.0)).await;
            node.heal();
        }
        Partition => {
            let lost = Lost::of(world, node, "a node falls silent");
            node.set(Weather::silent(), Weather::silent());
            if rng.bool() {
                lost.go_on(world).await;
                sleep(seconds(rng, 1.0, 6.0)).await;
            } else {
                sleep(seconds(rng, 2.0, 14.0)).await;
            }
            node.heal();
        }
        PartitionOneWay => {
            let asks = Weather { hold_requests: true, ..Weather::default() };
            let answers = Weather { hold_answers: true, ..Weather::default() };
            let (up, down) = if rng.bool() { (asks, answers) } else { (answers, asks) };
            node.set(up, down);
            sleep(seconds(rng, 3.0, 24.0)).await;
            node.heal();
        }
        LinkCut => {
            let is_up = rng.bool();
            let link = if is_up { &node.up } else { &node.down };
            link.set(Weather::cut());
            sleep(seconds(rng, 0.0, 8.0)).await;
            node.heal();
        }
        LinkFlaps => {
            for _ in 0..rng.u32(3..12) {
                node.up.reset();
                node.down.reset();
                sleep(seconds(rng, 0.05, 0.8)).await;
            }
        }
        LinkSlow => {
            let delay = Duration::from_millis(rng.u64(20..300));
            let slow = Weather { delay, ..Weather::default() };
            node.set(slow, slow);
            sleep(seconds(rng, 4.0, 10.0)).await;
            node.heal();
        }
        LinkThrottled => {
            let slow = Weather { bytes_per_second: Some(16_384), ..Weather::default() };
            node.set(slow, slow);
            sleep(seconds(rng, 4.0, 10.0)).await;
            node.heal();
        }
        NodeDiskFull => {
            node.may_end.store(true, Ordering::Relaxed);
            node.life().disk.fill();
            sleep(seconds(rng, 2.0, 10.0)).await;
            node.life().disk.empty();
            sleep(Duration::from_secs(1)).await;
            node.may_end.store(false, Ordering::Relaxed);
        }
        ClockJumps => jump(node.clock.as_deref(), rng).await,
        BadOutput => {
            node.restart_with(rng.choice(["blank=*", "oom=*", "hang=*"]).unwrap());
            sleep(seconds(rng, 2.0, 6.0)).await;
            node.restart_with("");
        }
        NodeFailsAll => {
            node.restart_with("fail=*");
            sleep(seconds(rng, 10.0, 30.0)).await;
            node.restart_with("");
        }
        _ => unreachable!("{fault:?} is not a node's"),
    }
}

async fn on_orchestrator(world: &Arc<World>, fault: Fault, rng: &mut Rng) {
    let orchestrator = &world.orchestrator;
    match fault {
        OrchestratorKilled => {
            let pause = if rng.u32(0..4) == 0 { seconds(rng, 0.0, 3.0) } else { Duration::ZERO };
            kill_orchestrator(world, pause).await;
        }
        OrchestratorTerminated => {
            let status = {
                let process = orchestrator.server().release();
                process::terminate(process).await
            };
            if status.is_none_or(|status| !status.success()) {
                world
                    .history
                    .finding(format!("the orchestrator did not end well on SIGTERM: {status:?}"));
            }
            orchestrator.server().start();
            world.serves().await;
        }
        OrchestratorStopped => {
            orchestrator.server().signal(Signal::STOP);
            sleep(LEASE + seconds(rng, 1.0, 5.0)).await;
            orchestrator.server().signal(Signal::CONT);
            world.serves().await;
        }
        StoreSlow => {
            let begun = Instant::now();
            let whole = seconds(rng, 3.0, 8.0);
            while begun.elapsed() < whole {
                orchestrator.server().signal(Signal::STOP);
                sleep(seconds(rng, 0.0, 0.3)).await;
                orchestrator.server().signal(Signal::CONT);
                sleep(seconds(rng, 0.0, 0.3)).await;
            }
        }
        DatabaseDiskFull | BlobDiskFull => {
            let disk = if fault == BlobDiskFull { &orchestrator.blobs } else { &orchestrator.data };
            orchestrator.may_end.store(true, Ordering::Relaxed);
            disk.fill();
            sleep(seconds(rng, 2.0, 8.0)).await;
            disk.empty();
            world.serves().await;
            orchestrator.may_end.store(false, Ordering::Relaxed);
        }
        DatabaseTorn => torn(world, rng).await,
        ClockJumps => jump(orchestrator.clock.as_deref(), rng).await,
        _ => unreachable!("{fault:?} is not the orchestrator's"),
    }
}

/// Kills the orchestrator, starts it again after a pause, and measures until it serves.
pub(crate) async fn kill_orchestrator(world: &World, pause: Duration) {
    world.orchestrator.server().kill();
    sleep(pause).await;
    let begun = Instant::now();
    world.orchestrator.server().start();
    if world.serves().await {
        world.history.took("an orchestrator that was killed serves again", begun.elapsed());
    }
}

/// Kills the orchestrator and damages a copy of its database: an orchestrator must not start on that, and say so.
async fn torn(world: &World, rng: &mut Rng) {
    let copy = tempfile::tempdir_in(world.folder()).unwrap();
    world.orchestrator.server().kill();
    for entry in fs::read_dir(world.orchestrator.data.path()).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    world.orchestrator.server().start();
    world.serves().await;
    let database = copy.path().join("framecrew.db");
    let mut bytes = fs::read(&database).unwrap();
    let whole = bytes.len();
    // A page that a disk lost, or an end that was never written.
    let how = if rng.bool() {
        let at = rng.usize(0..whole / 4096) * 4096;
        bytes[at..at + 4096].fill(0);
        format!("a page of zeros at {at} of {whole}")
    } else {
        bytes.truncate(rng.usize(1..whole / 4096) * 4096);
        format!("{} of {whole} bytes", bytes.len())
    };
    fs::write(&database, bytes).unwrap();
    // What had not come into it yet would mend it.
    let _ = fs::remove_file(copy.path().join("framecrew.db-wal"));
    let _ = fs::remove_file(copy.path().join("framecrew.db-shm"));
    let data = copy.path().display().to_string();
    let (log, address) = (copy.path().join("log"), crate::proxy::free_address().to_string());
    let args = ["--listen", &address, "--data", &data].map(str::to_owned);
    let mark = (process::MARK, world.mark().into());
    let program = world.programs.path(process::ORCHESTRATOR);
    let mut server = process::Server::new(program, args.into(), vec![mark], log.clone());
    server.start();
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = server.ended() {
            break Some(status);
        }
        if begun.elapsed() > Duration::from_secs(20) {
            break None;
        }
        sleep(POLL).await;
    };
    let said = fs::read_to_string(log).unwrap_or_default();
    match status {
        Some(status) if !status.success() && said.contains("database") => {
            world.history.count("torn databases that were refused");
        }
        status => world.history.finding(format!(
            "F14: a database with {how} was not refused ({status:?}): {}",
            said.lines().last().unwrap_or_default()
        )),
    }
}

/// Moves a process's wall clock by up to a day, either way, and back.
async fn jump(clock: Option<&Path>, rng: &mut Rng) {
    let Some(clock) = clock else { return };
    let by = rng.i64(-86_400..86_400);
    // In place: the process has the file mapped.
    let set = |seconds: i64| {
        use std::os::unix::fs::FileExt as _;
        let file = fs::File::options().write(true).open(clock).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    };
    set(by);
    sleep(seconds(rng, 2.0, 8.0)).await;
    set(0);
}

async fn on_clients(world: &World, fault: Fault, rng: &mut Rng) {
    let link = rng.choice(&world.links).unwrap();
    match fault {
        WatchersCut => {
            for _ in 0..rng.u32(1..6) {
                link.set(Weather::cut());
                sleep(seconds(rng, 0.0, 1.0)).await;
                link.set(Weather::default());
                sleep(seconds(rng, 0.0, 1.0)).await;
            }
        }
        _ => {
            link.set(Weather::silent());
            sleep(seconds(rng, 5.0, 20.0)).await;
            // What was silent never comes back: both ends find out by themselves.
            link.set(Weather::cut());
            link.set(Weather::default());
        }
    }
}

/// A client begins to upload and is gone: nothing of it may be stored.
async fn upload_dies(world: &World, rng: &mut Rng) {
    let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(200_000).collect();
    let digest = Digest::of(&bytes).to_string();
    let header = UploadHeader { digest: digest.clone(), size_bytes: bytes.len() as u64 };
    let part = |part| UploadRequest { part: Some(part) };
    let chunks = bytes.chunks(50_000).take(3).scan(0, move |offset, data| {
        let chunk = UploadChunk { offset: *offset, data: data.to_vec().into() };
        *offset += data.len() as u64;
        Some(part(Part::Chunk(chunk)))
    });
    let parts: Vec<_> = std::iter::once(part(Part::Header(header))).chain(chunks).collect();
    let patience = seconds(rng, 0.0, 1.0);
    let mut rpc = BlobStoreClient::new(world.channel(rng.usize(..)));
    let stream = futures::stream::iter(parts).chain(futures::stream::pending());
    // Dropped in the middle, with its connection.
    let _ = timeout(patience, rpc.upload(stream)).await;
    world.ledger.never_stored(digest);
}

/// A job of which one frame kills whoever draws it.
async fn poison(world: &Arc<World>, rng: &mut Rng) {
    let range = |first, last| FrameRange { first, last, step: 1 };
    let frames = vec![range(1, 5), range(POISON, POISON), range(6, 20)];
    let spec = job_of(Kind::Synthetic, frames);
    if let Some(job) = submit(world, Kind::Synthetic, spec, rng).await {
        let begun = Instant::now();
        while !world.ledger.is_over(job) {
            if begun.elapsed() > VERDICT_TIMEOUT {
                world.history.finding(format!("I14: job {job} with a poisoned frame does not end"));
                // It would go on killing nodes.
                crate::load::cancel(world.clone(), job, 0, Duration::ZERO).await;
                return;
            }
            sleep(POLL).await;
        }
    }
}

/// Watchers that open a stream and never read it.
async fn watchers_stall(world: &World, rng: &mut Rng) {
    let jobs: Vec<u64> = world.ledger.jobs().into_keys().collect();
    let mut rpc = OrchestratorClient::new(world.channel(rng.usize(..)));
    let mut held = Vec::new();
    for _ in 0..STALLED {
        let Some(job) = rng.choice(&jobs) else { return };
        let request = WatchJobRequest { job_id: *job, ..WatchJobRequest::default() };
        if let Ok(Ok(stream)) = timeout(Duration::from_secs(1), rpc.watch_job(request)).await {
            held.push(stream);
        }
    }
    sleep(seconds(rng, 2.0, 10.0)).await;
}

/// What a node was at when it was lost.
struct Lost {
    node: String,
    what: &'static str,
    slices: Vec<((u64, i32), i64)>,
    since: Instant,
    /// Others of its kind to which nothing is done: they can take over.
    peers: Vec<Arc<Node>>,
}

impl Lost {
    fn of(world: &World, node: &Node, what: &'static str) -> Self {
        let name = node.life().name.clone();
        let slices = world.ledger.at_work(&name);
        let peers = world.nodes.iter().filter(|peer| peer.kind == node.kind && is_well(peer));
        Self { node: name, what, slices, since: Instant::now(), peers: peers.cloned().collect() }
    }

    /// Waits until others are at it, and measures how long that took.
    async fn go_on(self, world: &World) {
        let Self { node, what, slices, since, peers } = self;
        for (slice, started) in slices {
            let mut known = None;
            while !world.ledger.went_on(slice, &node, started) {
                if since.elapsed() > DISPATCH_TIMEOUT {
                    world.history.tell("late", &json!({ "slice": slice, "node": node }));
                    break;
                }
                if known.is_none() && !world.ledger.is_at_work(slice, &node, started) {
                    known = Some(since.elapsed());
                }
                sleep(POLL).await;
            }
            // Only what nothing else has held up says something, and only if somebody was there to see it.
            let disturbed_at = *world.orchestrator.disturbed_at.lock().unwrap();
            let is_clear = disturbed_at.is_none_or(|at| at + OBSERVERS_BACK < since)
                && world.orchestrator.turn.try_lock().is_ok()
                && peers.iter().any(|peer| is_well(peer));
            if is_clear {
                let begun = since.elapsed();
                world
                    .history
                    .took(&format!("{what}, and its slice waits again"), known.unwrap_or(begun));
                world.history.took(&format!("{what}, and its slice is begun again"), begun);
            }
        }
    }
}

/// Whether nothing is done to a node, and it has had the time to find its Blender.
fn is_well(node: &Node) -> bool {
    node.turn.try_lock().is_ok() && node.life().server.started.elapsed() > START_TIME
}

/// I15: no renderer lives on without its node.
async fn renderers_end(world: &World, renderers: &[process::Entry]) {
    let begun = Instant::now();
    let lives = |entry: &&process::Entry| {
        fs::read_to_string(format!("/proc/{}/cmdline", entry.id))
            .is_ok_and(|command| command.replace('\0', " ") == entry.command && !command.is_empty())
    };
    while let Some(entry) = renderers.iter().find(lives) {
        if begun.elapsed() > RENDERERS_TIMEOUT {
            world.history.finding(format!("I15: a renderer outlived its node: {}", entry.command));
            return;
        }
        sleep(POLL).await;
    }
}
