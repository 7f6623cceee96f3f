//! The time of day, in nanoseconds since the epoch and in the CRI log's format.

use std::time::{SystemTime, UNIX_EPOCH};

/// The length of a [`stamp`].
pub(crate) const STAMP: usize = 30;
const NANOSECONDS: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// Nanoseconds since the epoch; 0 on a machine whose clock is before it.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

/// RFC 3339 in UTC with nanoseconds, always as long: `2026-11-21T01:02:03.000000004Z`.
pub(crate) fn stamp(at: i64) -> [u8; STAMP] {
    let (seconds, nanoseconds) = (at.div_euclid(NANOSECONDS), at.rem_euclid(NANOSECONDS));
    let (year, month, day) = date(seconds.div_euclid(DAY));
    let of_day = seconds.rem_euclid(DAY);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], of_day / 3600);
    digits(&mut text[14..16], of_day / 60 % 60);
    digits(&mut text[17..19], of_day % 60);
    digits(&mut text[20..29], nanoseconds);
    text
}

fn digits(text: &mut [u8], mut number: i64) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Year, month and day of a day since the epoch. Years are counted from March, so that the day that a leap
/// year adds is its last; 400 years are 146097 days.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps() {
        for (at, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (1_000_000_000_123_456_789, "2001-09-09T01:46:40.123456789Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
            (1_709_251_199_999_999_999, "2024-02-29T23:59:59.999999999Z"),
            (1_709_251_200_000_000_000, "2024-03-01T00:00:00.000000000Z"),
            (4_107_542_400_000_000_001, "2100-03-01T00:00:00.000000001Z"),
        ] {
            assert_eq!(std::str::from_utf8(&stamp(at)), Ok(text));
        }
    }
}
