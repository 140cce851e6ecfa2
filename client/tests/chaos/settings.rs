//! What is asked of a run, from the environment.

use std::{env, str::FromStr, time::Duration};

/// How a run goes.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// What the script of the faults is drawn from.
    pub(crate) seed: u64,
    /// How long faults are made.
    pub(crate) duration: Duration,
    /// Nodes whose renderer is synthetic.
    pub(crate) synthetic: usize,
    /// Nodes with a real Blender.
    pub(crate) blenders: usize,
    /// How long a synthetic frame takes.
    pub(crate) frame: Duration,
    /// Faults in a minute.
    pub(crate) rate: f64,
    /// The only faults to make, by name; empty: all of them.
    pub(crate) only: Vec<String>,
    /// Whether only faults that heal within seconds are made.
    pub(crate) brief: bool,
    /// How often the orchestrator is killed, where that is all that is done, or restarted.
    pub(crate) times: u32,
}

impl Settings {
    /// What is done without being asked: less than a minute, the same each time.
    pub(crate) fn smoke() -> Self {
        Self {
            seed: 1,
            duration: Duration::from_secs(20),
            synthetic: 3,
            blenders: 0,
            frame: Duration::from_millis(100),
            rate: 30.0,
            only: Vec::new(),
            brief: true,
            times: 5,
        }
    }

    /// What the environment asks for: `FRAMECREW_CHAOS_SEED`, `_MINUTES`, `_NODES`, `_BLENDERS`, `_FRAME_MS`,
    /// `_RATE`, `_FAULTS`, `_TIMES`.
    pub(crate) fn from_environment(times: u32) -> Self {
        let minutes: f64 = asked("MINUTES").unwrap_or(10.0);
        let only: String = asked("FAULTS").unwrap_or_default();
        Self {
            seed: asked("SEED").unwrap_or_else(|| fastrand::u64(1..1_000_000)),
            duration: Duration::from_secs_f64(minutes * 60.0),
            synthetic: asked("NODES").unwrap_or(5),
            blenders: asked("BLENDERS").unwrap_or(2),
            frame: Duration::from_millis(asked("FRAME_MS").unwrap_or(250)),
            rate: asked("RATE").unwrap_or(14.0),
            only: only.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            brief: false,
            times: asked("TIMES").unwrap_or(times),
        }
    }
}

fn asked<T: FromStr>(what: &str) -> Option<T> {
    let name = format!("FRAMECREW_CHAOS_{what}");
    let text = env::var(&name).ok()?;
    match text.parse() {
        Ok(value) => Some(value),
        Err(_) => panic!("{name}={text} cannot be read"),
    }
}
