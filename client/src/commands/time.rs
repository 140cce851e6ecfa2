//! Lengths of time, as people type them.

use std::time::Duration;

/// A text that is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a time is whole numbers with units, like 90s, 10m, 1h30m or 2d")]
pub(crate) struct InvalidTime;

/// Reads `90s`, `10m`, `1h30m`, `2d`.
pub(crate) fn time(text: &str) -> Result<Duration, InvalidTime> {
    let mut rest = text.trim();
    let mut seconds: u64 = 0;
    if rest.is_empty() {
        return Err(InvalidTime);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(InvalidTime)?;
        let (count, after) = rest.split_at(digits);
        let (unit, after) = after.split_at(after.chars().next().map_or(0, char::len_utf8));
        let unit_seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(InvalidTime),
        };
        let count: u64 = count.parse().map_err(|_| InvalidTime)?;
        let part = count.checked_mul(unit_seconds).ok_or(InvalidTime)?;
        seconds = seconds.checked_add(part).ok_or(InvalidTime)?;
        rest = after;
    }
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("1h30m", 5_400), ("2d", 172_800)] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        let endless = format!("{}d", u64::MAX);
        for text in ["", "90", "s", "1.5h", "-1s", "1 h", "10ms", "5é", "1hm", &endless] {
            assert_eq!(time(text), Err(InvalidTime), "{text}");
        }
    }
}
