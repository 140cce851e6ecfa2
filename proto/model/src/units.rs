//! Times and sizes as people type them in flags: `90s`, `1h30m`, `20GiB`.

use std::time::Duration;

use bytesize::ByteSize;

/// A text that is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write a time in whole seconds, with units, like 90s, 10m, 1h30m or 2d")]
pub struct InvalidTime;

/// A text that is no number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write a size with its unit, like 500MiB or 20GiB")]
pub struct InvalidSize;

/// Reads `90s`, `10m`, `1h30m`, `2d`: whole seconds. A value parser for flags.
///
/// # Errors
/// [`InvalidTime`] for what is not, also for a number without a unit.
pub fn time(text: &str) -> Result<Duration, InvalidTime> {
    let time = humantime::parse_duration(text.trim()).map_err(|_| InvalidTime)?;
    if time.subsec_nanos() == 0 { Ok(time) } else { Err(InvalidTime) }
}

/// As [`time`], and a plain number counts seconds: for flags that took seconds before.
///
/// # Errors
/// As [`time`].
pub fn seconds(text: &str) -> Result<Duration, InvalidTime> {
    text.trim().parse().map(Duration::from_secs).or_else(|_| time(text))
}

/// Reads `500MiB`, `20GiB`, `1.5TB`; a plain number counts bytes. A value parser for flags.
///
/// # Errors
/// [`InvalidSize`] for what is not.
pub fn bytes(text: &str) -> Result<u64, InvalidSize> {
    text.trim().parse().map(|ByteSize(bytes)| bytes).map_err(|_| InvalidSize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_are_whole_seconds() {
        for (text, seconds) in
            [("90s", 90), ("10m", 600), ("1h30m", 5_400), ("2d", 172_800), (" 1h 5s ", 3_605)]
        {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        let endless = format!("{}d", u64::MAX);
        for text in ["", "90", "s", "1.5s", "-1s", "10ms", "5é", "1hm", &endless] {
            assert_eq!(time(text), Err(InvalidTime), "{text}");
        }
    }

    #[test]
    fn a_plain_number_is_seconds_where_it_was() {
        assert_eq!(seconds("60"), Ok(Duration::from_secs(60)));
        assert_eq!(seconds("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(seconds("1.5"), Err(InvalidTime));
    }

    #[test]
    fn sizes_have_units_or_count_bytes() {
        for (text, size) in [
            ("21474836480", 20 << 30),
            ("20GiB", 20 << 30),
            ("20 GiB", 20 << 30),
            ("1GB", 1_000_000_000),
            ("0", 0),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in ["", "GiB", "-1", "20 parsecs", "1.2.3"] {
            assert_eq!(bytes(text), Err(InvalidSize), "{text}");
        }
    }
}
