//! Times as the API writes them, and durations as people read them.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// `metav1.Time`: RFC 3339 in whole seconds.
pub(crate) fn now() -> String {
    format(Timestamp::now())
}

/// `metav1.Time` of a timestamp.
pub(crate) fn format(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Reads a time field; `None` when it is absent or malformed.
pub(crate) fn parse(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// How long ago, for the AGE column: `<unknown>` without a time.
pub(crate) fn age(value: &Value) -> String {
    parse(value).map_or_else(|| "<unknown>".to_owned(), |at| human(Timestamp::now().duration_since(at)))
}

/// Like kubectl prints durations: `<invalid>` for the future, then 2m, 5m30s, 3h20m, 4d5h, 2y34d.
pub(crate) fn human(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    let pair = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        pair(minutes, "m", seconds % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        pair(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if days < 8 {
        pair(days, "d", hours % 24, "h")
    } else if days < 365 * 2 {
        format!("{days}d")
    } else if days < 365 * 8 {
        pair(days / 365, "y", days % 365, "d")
    } else {
        format!("{}y", days / 365)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_like_kubectls() {
        let cases = [
            (-10, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (330, "5m30s"),
            (10_799, "179m"),
            (12_000, "3h20m"),
            (172_799, "47h"),
            (277_200, "3d5h"),
            (86_400 * 30, "30d"),
            (86_400 * 731, "2y1d"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human(SignedDuration::from_secs(seconds)), text);
        }
    }
}
