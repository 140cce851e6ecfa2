//! Draws small valid PNGs in a given time, to load everything but Blender.

use std::time::Duration;

use bytes::Bytes;
use image::{ImageFormat, Rgb, RgbImage};
use tokio::{
    task,
    time::{self, Instant},
};

use super::{
    choice::{Fault, InjectedFaults},
    drawing::{Drawing, Drawn, Observation, Progress},
    error::{self, RenderError},
};
use crate::{
    failure::FailureReason,
    output::{self, Checked, Size, frame_name},
};

const SIZE: Size = (64, 36);

/// Samples it says to draw.
const SAMPLES: u32 = 16;

/// Frames from this time on have progress.
const PROGRESS_FROM: Duration = Duration::from_millis(200);

/// Draws frames that differ, each in `time`; with no time at all every frame has the same picture, so that its
/// blob travels once and what remains is the path of the frames.
#[derive(Debug)]
pub(crate) struct Synthetic {
    time: Duration,
    faults: InjectedFaults,
    shared: Option<Checked>,
}

impl Synthetic {
    pub(crate) fn new(time: Duration, faults: InjectedFaults) -> Self {
        let shared = if time.is_zero() { picture(0).ok() } else { None };
        Self { time, faults, shared }
    }

    pub(crate) async fn render(
        &self,
        frame: i32,
        silence: Duration,
        mut observe: impl FnMut(Observation),
    ) -> Result<Drawing, RenderError> {
        let begun = Instant::now();
        if let Some(fault) = self.faults.of(frame) {
            return Err(do_wrong(fault, silence).await);
        }
        let mut checked = match &self.shared {
            Some(shared) => {
                // Nothing here waits, but cancelling must get its turn.
                task::consume_budget().await;
                shared.clone()
            }
            None => picture(frame).map_err(|error| {
                RenderError::new(FailureReason::InvalidOutput, error.to_string())
            })?,
        };
        checked.name = format!("{}.png", frame_name(frame));
        if self.time >= PROGRESS_FROM {
            for samples_done in 1..=SAMPLES {
                time::sleep_until(begun + self.time * samples_done / SAMPLES).await;
                observe(Observation::Progress(self.progress(samples_done)));
            }
        } else if !self.time.is_zero() {
            time::sleep_until(begun + self.time).await;
        }
        Ok(Drawing {
            drawn: Drawn::Checked(checked),
            render_seconds: begun.elapsed().as_secs_f64(),
            peak_memory_bytes: 0,
            crash: None,
        })
    }

    fn progress(&self, samples_done: u32) -> Progress {
        let fraction = f64::from(samples_done) / f64::from(SAMPLES);
        Progress {
            samples_done,
            samples_total: SAMPLES,
            fraction: Some(fraction),
            remaining_seconds: Some(self.time.as_secs_f64() * (1.0 - fraction)),
            memory_bytes: 0,
        }
    }
}

/// How long a frame that kills its node takes to do so: those that eat all memory do it while they are drawn, not
/// before anybody can know that they were begun.
const POISON_TIME: Duration = Duration::from_millis(200);

/// What a renderer that has this fault comes to.
async fn do_wrong(fault: Fault, silence: Duration) -> RenderError {
    match fault {
        Fault::Poison => {
            time::sleep(POISON_TIME).await;
            std::process::abort()
        }
        Fault::Fail => RenderError::new(FailureReason::Renderer, "a fault was asked for: fail"),
        Fault::Hang => {
            time::sleep(silence).await;
            error::silent("the synthetic renderer", silence)
        }
        Fault::OutOfMemory => {
            RenderError::new(FailureReason::OutOfMemory, "a fault was asked for: oom")
        }
        Fault::Blank => {
            let refused = output::check_bytes("blank.png".into(), Bytes::new(), SIZE);
            let said = refused.err().map_or_else(String::new, |error| error.to_string());
            RenderError::new(FailureReason::InvalidOutput, said)
        }
    }
}

/// A gradient whose colours and a row of its pixels tell the frame.
fn picture(frame: i32) -> Result<Checked, output::InvalidOutput> {
    let (width, height) = SIZE;
    let [a, b, c, d] = frame.to_le_bytes();
    let image = RgbImage::from_fn(width, height, |x, y| {
        if y == 0 {
            Rgb([a, b, c ^ d])
        } else {
            Rgb([(x * 4) as u8, (y * 7) as u8, a.wrapping_mul(37)])
        }
    });
    let mut png = std::io::Cursor::new(Vec::new());
    let written = image.write_to(&mut png, ImageFormat::Png);
    let content = Bytes::from(png.into_inner());
    let name = format!("{}.png", frame_name(frame));
    written.map_err(|error| output::InvalidOutput::Undecodable {
        name: name.clone(),
        reason: error.to_string(),
    })?;
    output::check_bytes(name, content, SIZE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn draw(synthetic: &Synthetic, frame: i32) -> (Checked, usize) {
        let mut observed = 0;
        let drawing =
            synthetic.render(frame, Duration::from_secs(30), |_| observed += 1).await.unwrap();
        let Drawn::Checked(checked) = drawing.drawn else {
            panic!("not in memory");
        };
        (checked, observed)
    }

    #[tokio::test(start_paused = true)]
    async fn frames_differ_take_their_time_and_tell_their_progress() {
        let synthetic = Synthetic::new(Duration::from_millis(200), InjectedFaults::default());
        let begun = Instant::now();
        let (one, observed) = draw(&synthetic, 1).await;
        assert!(begun.elapsed() >= Duration::from_millis(200));
        assert_eq!(observed, SAMPLES as usize);
        let (two, _) = draw(&synthetic, 2).await;
        assert_ne!(one.blob.digest, two.blob.digest);
        assert_eq!(two.name, "0002.png");
    }

    #[tokio::test]
    async fn frames_without_time_share_one_picture() {
        let synthetic = Synthetic::new(Duration::ZERO, InjectedFaults::default());
        let (one, observed) = draw(&synthetic, 1).await;
        let (two, _) = draw(&synthetic, 2).await;
        assert_eq!(observed, 0);
        assert_eq!(one.blob.digest, two.blob.digest);
        assert_eq!(two.name, "0002.png");
    }

    #[tokio::test(start_paused = true)]
    async fn faults_fail_as_a_renderer_would() {
        let faults = "fail=5,hang=9,oom=11,blank=13".parse().unwrap();
        let synthetic = Synthetic::new(Duration::ZERO, faults);
        for (frame, reason) in [
            (5, FailureReason::Renderer),
            (9, FailureReason::Timeout),
            (11, FailureReason::OutOfMemory),
            (13, FailureReason::InvalidOutput),
        ] {
            let drawn = synthetic.render(frame, Duration::from_secs(30), |_| ()).await;
            assert_eq!(drawn.unwrap_err().reason, reason);
        }
        draw(&synthetic, 1).await;
    }
}
