//! A scene's frame rate, as an exact ratio, and its sound.

use std::{fmt, path::PathBuf};

/// What a scene says about its movie.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Soundtrack {
    pub(crate) rate: Rate,
    pub(crate) sound: Option<Sound>,
}

/// A scene's sound between two frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sound {
    pub(crate) file: PathBuf,
    /// Frames of silence before it: scenes have no sound before frame 0.
    pub(crate) delay_frames: u32,
}

/// Frames a second as a ratio: 30000/1001 is no number that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    numerator: u32,
    denominator: u32,
}

/// Bounds of what is believed; Blender allows 1 to 32,767 frames in 1 µs to 1,000,000 s.
const FPS_MIN: f64 = 0.01;
const FPS_MAX: f64 = 1_000.0;

/// What bases are multiplied with until they are whole: 1.001 has three digits, and single precision seven.
const SCALES: [u32; 3] = [1, 1_000, 100_000];

impl Rate {
    /// The rate of a scene that shows `fps` frames in `base` seconds. One that cannot be is Blender's usual.
    pub(crate) fn new(fps: u32, base: f64) -> Self {
        let is_believable = (FPS_MIN..=FPS_MAX).contains(&(f64::from(fps) / base));
        if !is_believable {
            return Self::default();
        }
        let scaled = |scale: u32| base * f64::from(scale);
        // What a base has beyond its digits comes from single precision.
        let is_whole =
            |scale: &u32| (scaled(*scale) - scaled(*scale).round()).abs() < scaled(*scale) * 1e-6;
        let scale = SCALES.into_iter().find(is_whole).unwrap_or(SCALES[SCALES.len() - 1]);
        let denominator = scaled(scale).round() as u32;
        match fps.checked_mul(scale) {
            Some(numerator) if denominator > 0 => Self { numerator, denominator },
            _ => Self::default(),
        }
    }
}

impl Default for Rate {
    /// Blender's usual.
    fn default() -> Self {
        Self { numerator: 24, denominator: 1 }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.numerator, self.denominator)
    }
}

/// How long so many frames are shown, in seconds.
pub(crate) fn duration_seconds(rate: Rate, frames: u32) -> f64 {
    f64::from(frames) * f64::from(rate.denominator) / f64::from(rate.numerator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_rates_are_exact() {
        for (fps, base, is) in [
            (24, 1.0, "24/1"),
            (30, f64::from(1.001_f32), "30000/1001"),
            (24, f64::from(1.001_f32), "24000/1001"),
            (60, 1.0, "60/1"),
            (1, 2.0, "1/2"),
            (25, f64::from(0.5_f32), "25000/500"),
            (30, f64::from(1.2345_f32), "3000000/123450"),
        ] {
            assert_eq!(Rate::new(fps, base).to_string(), is);
        }
    }

    #[test]
    fn a_rate_that_cannot_be_is_the_usual_one() {
        for (fps, base) in
            [(0, 1.0), (24, 0.0), (24, -1.0), (24, f64::NAN), (1, 1e9), (32_000, 1e-6)]
        {
            assert_eq!(Rate::new(fps, base), Rate::default());
        }
    }
}
