//! Random clusters, one for each seed.

use std::{
    collections::BTreeSet,
    env, panic,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use super::{Fault, Happening, Odds, Plan, World};
use crate::domain::{
    Blender, BlenderKind, BlenderVersion, FailureReason, FrameRange, FrameSet, FrameState,
    JobState, NodeDescription, Requirements,
};

const RUNS: u64 = 200;
/// When faults end: safety holds always, liveness from here on.
const FAULTS_END: Duration = Duration::from_secs(10 * 60);
/// How much faster or slower than the orchestrator's the clocks of machines run at most.
const CLOCKS_APART: f64 = 0.015;
const VERSIONS: [&str; 3] = ["3.4.1", "4.2.3", "4.5.15"];
const TAGS: [&str; 2] = ["gpu", "big"];

fn version(text: &str) -> BlenderVersion {
    text.parse().unwrap()
}

fn description(slots: u32, version: Option<BlenderVersion>, tags: &[&str]) -> NodeDescription {
    NodeDescription {
        slots,
        blenders: vec![Blender { version, kind: BlenderKind::Executable, ..Blender::default() }],
        tags: tags.iter().map(ToString::to_string).collect(),
        ..NodeDescription::default()
    }
}

impl World {
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.dice.usize(0..of.len())]
    }

    fn some<'a>(&mut self, of: &[&'a str], odds: f64) -> Vec<&'a str> {
        of.iter().copied().filter(|_| self.chance(odds)).collect()
    }

    fn between(&mut self, least: Duration, most: Duration) -> Duration {
        least + most.saturating_sub(least).mul_f64(self.dice.f64())
    }

    fn random_machine(&mut self, number: usize) {
        let slots = self.dice.u32(1..=3);
        let version = version(self.pick(&VERSIONS));
        let tags = self.some(&TAGS, 0.5);
        let machine =
            self.add_machine(&format!("node-{number}"), description(slots, Some(version), &tags));
        self.machines[machine].rate = 1.0 + CLOCKS_APART * (2.0 * self.dice.f64() - 1.0);
    }

    fn random_plan(&mut self, poisoned: bool) -> Plan {
        let most = self.pick(&[3, 20, 60]);
        let len = self.dice.i32(1..=most);
        let first = self.dice.i32(-50..50);
        let range = |first, step| FrameRange { first, last: first + 2 * (len - 1), step };
        let frames = match self.dice.u8(0..3) {
            // The whole shot in steps first, then what lies between.
            0 => vec![range(first, 2), range(first + 1, 2)],
            1 => vec![range(first, 3)],
            _ => vec![range(first, 1)],
        };
        let frames = FrameSet::new(frames).unwrap();
        let frames = if self.chance(0.15) { frames.in_order() } else { frames };
        let all: Vec<i32> = frames.iter().collect();
        let poison = if poisoned { self.dice.usize(0..3) } else { 0 };
        let file_version = version(self.pick(&["3.4", "4.2"]));
        let blender = self.chance(0.2).then(|| version(self.pick(&["4.2", "4.5.15"])));
        let tags = self.some(&TAGS, 0.2).into_iter().map(String::from).collect();
        Plan {
            poison_is_swift: self.chance(0.3),
            poison: (0..poison).map(|_| all[self.dice.usize(0..all.len())]).collect(),
            frames,
            requirements: Requirements { blender, tags, ..Requirements::of_file(file_version) },
            priority: self.dice.i32(-1..=1),
            node_silence: Duration::from_secs(self.pick(&[0, 0, 20, 45, 120])),
            broken: self.chance(0.05),
            seconds: self.pick(&[0.1, 2.0, 10.0]),
            spread: self.pick(&[0.0, 0.5, 1.2]),
        }
    }

    /// Faults at random moments until they end.
    fn random_faults(&mut self, machines: usize) {
        for _ in 0..self.dice.u32(0..60) {
            let at = self.between(Duration::ZERO, FAULTS_END);
            let short = self.between(Duration::from_millis(20), Duration::from_secs(5));
            let long = self.between(Duration::from_secs(5), Duration::from_secs(30));
            let machine = self.dice.usize(0..machines);
            let fault = |fault| Happening::Fault(machine, fault);
            let reason = self.pick(&[
                FailureReason::Renderer,
                FailureReason::OutOfMemory,
                FailureReason::InvalidOutput,
                FailureReason::Infrastructure,
            ]);
            let mended = at + self.between(Duration::from_secs(5), Duration::from_secs(120));
            let minutes = self.between(Duration::from_secs(30), Duration::from_secs(180));
            let happening = match self.dice.u8(0..21) {
                0 | 1 => fault(Fault::Crash(Some(short))),
                2 => fault(Fault::Crash(Some(long))),
                3 => fault(Fault::Crash(None)),
                4 => fault(Fault::Mute(long)),
                5 => fault(Fault::Mute(short)),
                6 => fault(Fault::Deaf(long)),
                7 => fault(Fault::Deaf(short)),
                8 => fault(Fault::Leave(short)),
                9 => Happening::CrashOrchestrator(short),
                10 => Happening::CrashAfterCommit(short),
                // Both ways.
                11 | 12 => {
                    self.plan(at, fault(Fault::Mute(long)));
                    fault(Fault::Deaf(long))
                }
                13 => Happening::Stall(short),
                14 => Happening::Stall(long),
                15 => fault(Fault::Drain),
                16 | 17 => {
                    self.plan(mended, fault(Fault::Mend));
                    fault(Fault::Break(reason))
                }
                18 => {
                    self.plan(mended, fault(Fault::Mend));
                    fault(Fault::Stubborn)
                }
                19 => fault(Fault::Unreachable(minutes)),
                _ => Happening::CrashOrchestrator(long),
            };
            self.plan(at, happening);
        }
    }

    /// Everybody who is to come back does, and there is a machine that can render every job.
    fn end_faults(&mut self) {
        self.odds = Odds::default();
        for machine in 0..self.machines.len() {
            self.machines[machine].mend();
        }
        self.add_machine("healthy", description(2, None, &TAGS));
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    // In some clusters nothing is at fault but poisonous frames, and then nothing else may suffer.
    let only_poison = world.chance(0.25);
    let machines = world.dice.usize(1..=12);
    (0..machines).for_each(|number| world.random_machine(number));
    let mut odds = |most: f64| world.pick(&[0.0, most / 10.0, most]);
    world.odds = Odds {
        jitter: true,
        call_lost: odds(0.3),
        event_again: odds(0.3),
        event_overtakes: odds(0.3),
        slow_message: odds(0.2),
        refused: odds(0.3),
        failed: if only_poison { 0.0 } else { odds(0.3) },
        dies_untold: odds(1.0),
    };
    world.invariants.disorder = world.odds.slow_message > 0.0 || world.odds.event_overtakes > 0.0;
    world.invariants.dies_untold = world.odds.dies_untold > 0.0;
    if !only_poison {
        world.random_faults(machines);
    }
    let jobs = world.dice.usize(1..=8);
    for job in 0..jobs {
        let poisoned = only_poison || world.chance(0.2);
        let mut plan = world.random_plan(poisoned);
        plan.broken &= !only_poison;
        let at = world.between(Duration::ZERO, FAULTS_END.mul_f64(0.9));
        world.plan(at, Happening::Submit(plan));
        if !only_poison && world.chance(0.2) {
            let at = world.between(at, FAULTS_END);
            world.plan(at, Happening::CancelJob(job));
        }
        if world.chance(0.2) {
            let at = world.between(at, FAULTS_END);
            world.plan(at, Happening::ReviseJob(job));
        }
        if !only_poison && world.chance(0.3) {
            let at = world.between(at, FAULTS_END);
            world.plan(at, Happening::RetryJob(job));
        }
    }
    // Something happens at that time even where every machine is gone.
    world.plan(FAULTS_END, Happening::Wake);
    world.run_until("the end of faults", |world| world.now >= FAULTS_END);
    world.end_faults();
    world.run_until_all_over();

    let poison = |world: &World, job| world.plans[&job].poison.clone();
    for job in world.plans.keys().copied().collect::<Vec<_>>() {
        let failed = world.invariants.frames(job, FrameState::Failed);
        if only_poison {
            let failed: BTreeSet<i32> = failed.into_iter().collect();
            assert_eq!(failed, poison(&world, job), "I14: poison fails no other frame");
        }
        if world.invariants.state(job) == JobState::Finished {
            assert!(poison(&world, job).is_empty(), "a poisonous frame cannot be finished");
        }
    }

    // Whatever has happened, whoever is well has room for work again.
    let frames = FrameSet::new(vec![FrameRange { first: 1, last: 40, step: 1 }]).unwrap();
    let requirements = Requirements::of_file(version("3.4"));
    let poison = BTreeSet::new();
    let (seconds, spread) = (1.0, 0.1);
    let before = world.now;
    let node_silence = Duration::ZERO;
    let priority = 0;
    world.submit(Plan {
        frames,
        requirements,
        priority,
        node_silence,
        seconds,
        spread,
        poison,
        poison_is_swift: false,
        broken: false,
    });
    world.run_until_all_over();
    assert!(world.now - before < Duration::from_secs(120), "I20: well nodes are used");
}

#[test]
fn two_hundred_random_clusters_keep_every_invariant_through_ten_minutes_of_faults() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let runs = number("FRAMECREW_SIM_RUNS");
    let seeds = match number("FRAMECREW_SIM_SEED") {
        Some(seed) => seed..seed + runs.unwrap_or(1),
        None => 0..runs.unwrap_or(RUNS),
    };
    let next = AtomicU64::new(seeds.start);
    let work = || {
        while let seed = next.fetch_add(1, Ordering::Relaxed)
            && seed < seeds.end
        {
            if let Err(failure) = panic::catch_unwind(|| run(seed)) {
                next.store(seeds.end, Ordering::Relaxed);
                println!("repeat this cluster with FRAMECREW_SIM_SEED={seed}");
                panic::resume_unwind(failure);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
}
