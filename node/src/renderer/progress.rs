//! What Blender's lines say about how far a frame is. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::drawing::Progress;

/// What a line of Blender's is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Line {
    /// It tells how far the frame is.
    Progress(Reading),
    /// It appears with every frame and tells nothing new.
    Routine,
    /// It is for people.
    Other,
}

/// What a progress line tells.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Reading {
    /// Samples drawn and to draw, where the line tells. With tiles, those of all tiles.
    pub(crate) samples: Option<(u32, u32)>,
    pub(crate) remaining: Option<Duration>,
    /// Bytes; 0: the line does not tell.
    pub(crate) memory_bytes: u64,
}

/// Reads a line of either dialect:
/// `Fra:12 Mem:40.00M (Peak 49M) | Time:… | Remaining:… | … | Sample 32/96` (2.8 to 4.x) and
/// `00:03.413  render           | Fra: 1 | Remaining: 01:43.73 | Mem: 1699M | Sample 1/128` (from 5.0).
pub(crate) fn parse(line: &str) -> Line {
    let line = line.trim();
    let line = match line.split_once('|') {
        Some((prefix, rest)) if is_log_prefix(prefix) => rest.trim(),
        _ => line,
    };
    if !line.starts_with("Fra:") {
        let routine = line.starts_with("Saved: '")
            || (line.starts_with("Time: ") && line.contains("(Saving: "))
            || line == "Blender quit";
        return if routine { Line::Routine } else { Line::Other };
    }
    let mut reading = Reading::default();
    for part in line.split('|').map(str::trim) {
        if let Some(text) = part.strip_prefix("Remaining:") {
            reading.remaining = parse_time(text);
        } else if let Some(at) = part.find("Mem:").filter(|_| reading.memory_bytes == 0) {
            reading.memory_bytes = parse_memory(&part[at + "Mem:".len()..]);
        }
    }
    // The last part tells what is being done; names of scenes and objects come before it.
    let doing = line.rsplit('|').next().unwrap_or_default().trim();
    reading.samples = parse_samples(doing);
    Line::Progress(reading)
}

/// Engine and scene, where Blender says, once and by the way, that it will draw a scene with another engine than
/// the one the file asks for. Nothing else shows it.
pub(crate) fn unavailable_engine(line: &str) -> Option<(&str, &str)> {
    let (_, named) = line.split_once("Engine '")?;
    let (engine, rest) = named.split_once("' not available for scene '")?;
    let (scene, _) = rest.rsplit_once("' (")?;
    Some((engine, scene))
}

/// `00:03.413  render`: a time and a category.
pub(crate) fn is_log_prefix(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let time = words.next().and_then(parse_time);
    time.is_some() && words.next().is_some() && words.next().is_none()
}

/// `Sample 32/96`, `Rendered 1/4 Tiles, Sample 32/96`, `Rendering 3 / 16 samples`.
fn parse_samples(doing: &str) -> Option<(u32, u32)> {
    if let Some(text) = doing.strip_prefix("Rendering ") {
        return parse_pair(text.strip_suffix(" samples")?);
    }
    let (tiles, doing) = match doing.split_once(" Tiles, ") {
        Some((tiles, doing)) => (parse_pair(tiles.strip_prefix("Rendered ")?)?, doing),
        None => ((0, 1), doing),
    };
    let text = doing.strip_prefix("Sample ")?;
    let (done, total) = parse_pair(text.split(',').next()?)?;
    let all = total.saturating_mul(tiles.1);
    let before = total.saturating_mul(tiles.0);
    Some((before.saturating_add(done).min(all), all))
}

fn parse_pair(text: &str) -> Option<(u32, u32)> {
    let (done, total) = text.split_once('/')?;
    Some((done.trim().parse().ok()?, total.trim().parse().ok()?))
}

/// `01:43.73`, `1:02:03.40`.
fn parse_time(text: &str) -> Option<Duration> {
    if !text.contains(':') {
        return None;
    }
    let mut seconds = 0.0;
    for part in text.trim().split(':') {
        let number: f64 = part.parse().ok()?;
        seconds = seconds * 60.0 + number;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// `40.00M (Peak 49M)`, `1699M`, `1.20G`: bytes.
fn parse_memory(text: &str) -> u64 {
    let word = text.split_whitespace().next().unwrap_or_default();
    let unit = match word.chars().last() {
        Some('K') => 10,
        Some('M') => 20,
        Some('G') => 30,
        _ => return 0,
    };
    let number: f64 = word[..word.len() - 1].parse().unwrap_or(0.0);
    (number * f64::from(1_u32 << unit)) as u64
}

/// How far a frame is, also between two lines.
///
/// Without a window Cycles tells its first sample, and from then on no more often than every 30 seconds. It
/// tells how long it expects to take, though; between lines the fraction follows that. Samples are only ever
/// what Blender said.
#[derive(Debug, Default)]
pub(crate) struct Estimate {
    reading: Reading,
    /// When samples were last told, what share was done then, and when the whole was expected.
    told: Option<(Instant, f64, Option<Duration>)>,
}

/// Share that an estimate does not go beyond: only Blender says that a frame is done.
const ESTIMATE_MAX: f64 = 0.99;

impl Estimate {
    /// Takes a reading in. True when it tells more than the one before.
    pub(crate) fn observe(&mut self, now: Instant, reading: Reading) -> bool {
        if reading.memory_bytes > 0 {
            self.reading.memory_bytes = reading.memory_bytes;
        }
        let Some((done, total)) = reading.samples else {
            return false;
        };
        let fraction = f64::from(done) / f64::from(total.max(1));
        self.told = Some((now, fraction.min(1.0), reading.remaining));
        let further = self.reading.samples != reading.samples;
        self.reading.samples = reading.samples;
        further
    }

    /// How far the frame is.
    pub(crate) fn at(&self, now: Instant) -> Progress {
        let (samples_done, samples_total) = self.reading.samples.unwrap_or_default();
        let (fraction, remaining) = match self.told {
            None => (None, None),
            Some((_, fraction, None)) => (Some(fraction), None),
            Some((told, fraction, Some(expected))) => {
                let passed = now - told;
                let share = passed.as_secs_f64() / expected.as_secs_f64().max(f64::MIN_POSITIVE);
                let guess = fraction + (1.0 - fraction) * share.min(1.0);
                let remaining = expected.saturating_sub(passed);
                (
                    Some(guess.min(ESTIMATE_MAX).max(fraction)),
                    (!remaining.is_zero()).then_some(remaining.as_secs_f64()),
                )
            }
        };
        Progress {
            samples_done,
            samples_total,
            fraction,
            remaining_seconds: remaining,
            memory_bytes: self.reading.memory_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Real lines, each before what it means.
    const FIXTURE: &str = include_str!("../../tests/fixtures/blender-lines.txt");

    fn meaning(line: &str) -> String {
        match parse(line) {
            Line::Routine => "routine".into(),
            Line::Other => "other".into(),
            Line::Progress(reading) => {
                let mut text = String::from("progress");
                if let Some((done, total)) = reading.samples {
                    text += &format!(" samples={done}/{total}");
                }
                if let Some(remaining) = reading.remaining {
                    text += &format!(" remaining={:.2}", remaining.as_secs_f64());
                }
                if reading.memory_bytes > 0 {
                    text += &format!(" memory={}", reading.memory_bytes);
                }
                text
            }
        }
    }

    #[test]
    fn real_lines_mean_what_the_fixture_says() {
        let mut lines = FIXTURE.lines().filter(|line| !line.starts_with('#'));
        let mut checked = 0;
        while let (Some(line), Some(expected)) = (lines.next(), lines.next()) {
            assert_eq!(meaning(line), expected.trim_start_matches("=> "), "{line}");
            checked += 1;
        }
        assert!(checked > 30, "{checked}");
    }

    #[test]
    fn an_engine_that_is_not_there_is_read() {
        let line = "Error: Engine 'FOREIGN' not available for scene 'It's' (an add-on may need to be installed or enabled)";
        assert_eq!(unavailable_engine(line), Some(("FOREIGN", "It's")));
        assert_eq!(unavailable_engine("Engine 'A' started"), None);
    }

    #[test]
    fn names_that_look_like_progress_are_not() {
        let line = "Fra:1 Mem:8.40M (Peak 8.40M) | Time:00:00.00 | Scene, Sample 5/5 | Synchronizing object | Sample 3/4x";
        assert_eq!(meaning(line), "progress memory=8808038");
        assert_eq!(meaning("Frame: 1/2"), "other");
    }

    #[test]
    fn no_text_makes_it_panic() {
        for text in [
            "",
            "|",
            "Fra:",
            "Fra:|Mem:",
            "Fra: | Mem:M",
            "Fra:1 | Remaining:::",
            "Mem:ÄM",
            "Fra:1 | Mem:Ä",
            "Fra:1 | Sample 9/0",
            "Fra:1 | Sample 4294967295/4294967295",
            "Fra:1 | Rendered 9/2 Tiles, Sample 4000000000/4000000000",
        ] {
            let _ = parse(text);
        }
    }

    #[test]
    fn between_two_lines_the_fraction_follows_the_expected_time() {
        let mut estimate = Estimate::default();
        let begun = Instant::now();
        assert_eq!(estimate.at(begun).fraction, None);
        let reading = |done, remaining| Reading {
            samples: Some((done, 64)),
            remaining: Some(Duration::from_secs(remaining)),
            memory_bytes: 5,
        };
        assert!(estimate.observe(begun, reading(0, 10)));
        let half = estimate.at(begun + Duration::from_secs(5));
        assert_eq!((half.fraction, half.remaining_seconds), (Some(0.5), Some(5.0)));
        assert_eq!(half.samples_done, 0, "samples are never guessed");
        let late = estimate.at(begun + Duration::from_secs(60));
        assert_eq!((late.fraction, late.remaining_seconds), (Some(ESTIMATE_MAX), None));
        assert!(!estimate.observe(begun, reading(0, 10)), "nothing new");
        assert!(estimate.observe(begun, reading(64, 0)));
        assert_eq!(estimate.at(begun).fraction, Some(1.0));
    }
}
