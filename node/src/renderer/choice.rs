//! Which renderer a node has, and the faults that tests inject into a synthetic one.

use std::{collections::HashMap, str::FromStr, time::Duration};

use crate::blender::FoundBlender;

/// What draws the frames.
#[derive(Debug, Clone)]
pub enum RendererChoice {
    /// These Blenders, whichever suits the job.
    Blender(Vec<FoundBlender>),
    /// No Blender: small valid PNGs, each after this time. For load tests.
    Synthetic(Duration),
}

/// A text that names no renderer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a renderer is `blender`, or `synthetic:` and a time like `200ms` or `1.5s`")]
pub struct InvalidRenderer;

impl FromStr for RendererChoice {
    type Err = InvalidRenderer;

    /// Reads `blender` (with no Blender found yet) and `synthetic:200ms`.
    fn from_str(text: &str) -> Result<Self, InvalidRenderer> {
        if text == "blender" {
            return Ok(Self::Blender(Vec::new()));
        }
        let time = text.strip_prefix("synthetic:").ok_or(InvalidRenderer)?;
        let (number, unit_seconds) = match time.strip_suffix("ms") {
            Some(number) => (number, 1e-3),
            None => (time.strip_suffix('s').ok_or(InvalidRenderer)?, 1.0),
        };
        let number: f64 = number.parse().map_err(|_| InvalidRenderer)?;
        Duration::try_from_secs_f64(number * unit_seconds)
            .map(Self::Synthetic)
            .map_err(|_| InvalidRenderer)
    }
}

/// Frames at which a synthetic renderer does something wrong, for tests. The default: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InjectedFaults {
    frames: HashMap<i32, Fault>,
    every: Option<Fault>,
}

/// What a synthetic renderer can do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Kills the node's process.
    Poison,
    /// Fails.
    Fail,
    /// Says nothing for as long as it may.
    Hang,
    /// Runs out of memory.
    OutOfMemory,
    /// Draws an empty file.
    Blank,
}

/// A text that names no faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "faults are like `poison=37,fail=5,hang=9,oom=11,blank=13`: kinds, each with a frame or `*` for every frame"
)]
pub struct InvalidFaults;

impl InjectedFaults {
    pub(crate) fn of(&self, frame: i32) -> Option<Fault> {
        self.frames.get(&frame).copied().or(self.every)
    }

    /// Whether nothing goes wrong.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.every.is_none()
    }
}

impl FromStr for InjectedFaults {
    type Err = InvalidFaults;

    fn from_str(text: &str) -> Result<Self, InvalidFaults> {
        let mut faults = Self::default();
        for fault in text.split(',').filter(|fault| !fault.is_empty()) {
            let (kind, frame) = fault.split_once('=').ok_or(InvalidFaults)?;
            let kind = match kind {
                "poison" => Fault::Poison,
                "fail" => Fault::Fail,
                "hang" => Fault::Hang,
                "oom" => Fault::OutOfMemory,
                "blank" => Fault::Blank,
                _ => return Err(InvalidFaults),
            };
            if frame == "*" {
                faults.every = Some(kind);
            } else {
                faults.frames.insert(frame.parse().map_err(|_| InvalidFaults)?, kind);
            }
        }
        Ok(faults)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_synthetic_renderer_names_its_time() {
        for (text, millis) in [("200ms", 200), ("0ms", 0), ("1.5s", 1_500)] {
            let choice: RendererChoice = format!("synthetic:{text}").parse().unwrap();
            let RendererChoice::Synthetic(time) = choice else {
                panic!("{choice:?}");
            };
            assert_eq!(time, Duration::from_millis(millis));
        }
    }

    #[test]
    fn what_names_no_renderer_is_refused() {
        for text in ["", "povray", "synthetic", "synthetic:", "synthetic:5", "synthetic:-1s"] {
            assert!(text.parse::<RendererChoice>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn faults_are_kinds_with_frames() {
        let faults: InjectedFaults = "poison=37,fail=5,fail=-6,oom=*".parse().unwrap();
        assert_eq!(faults.of(37), Some(Fault::Poison));
        assert_eq!(faults.of(-6), Some(Fault::Fail));
        assert_eq!(faults.of(1), Some(Fault::OutOfMemory));
        assert!("".parse::<InjectedFaults>().unwrap().is_empty());
        for text in ["fail", "fail=", "fail=x", "burn=5", "fail=1;oom=2"] {
            assert!(text.parse::<InjectedFaults>().is_err(), "{text:?}");
        }
    }
}
