//! events

use std::process::ExitCode;
use std::time::Duration;

use orlop_runtime::Error;
use serde_json::json;

use super::{Context, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct Events {
    /// The time between two statistics, as in 5s, 500ms or 1m30s
    #[arg(long, default_value = "5s", value_parser = duration)]
    interval: Duration,
    /// Print the statistics once
    #[arg(long)]
    stats: bool,
    /// The name of the container
    id: String,
}

impl Events {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        let show = |data| println!("{}", json!({"type": "stats", "id": self.id, "data": data}));
        let first = cli.runtime.stats(&self.id)?;
        if self.stats {
            show(first);
            return Ok(ExitCode::SUCCESS);
        }
        loop {
            std::thread::sleep(self.interval);
            match cli.runtime.stats(&self.id) {
                Ok(data) => show(data),
                Err(Error::NotRunning(_) | Error::NotFound(_)) => return Ok(ExitCode::SUCCESS),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A duration as Go writes it.
fn duration(text: &str) -> Result<Duration, String> {
    let odd = || format!("{text:?} is no duration of more than 0, as in 5s, 500ms or 1m30s");
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').ok_or_else(odd)?;
        let number: f64 = rest[..digits].parse().map_err(|_| odd())?;
        rest = &rest[digits..];
        let units = [("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let (unit, seconds) = units.into_iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(odd)?;
        rest = &rest[unit.len()..];
        sum += number * seconds;
    }
    Duration::try_from_secs_f64(sum).ok().filter(|duration| !duration.is_zero()).ok_or_else(odd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [("5s", 5000), ("500ms", 500), ("1m30s", 90_000), ("1.5s", 1500)] {
            assert_eq!(duration(text).ok(), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for odd in ["", "5", "0s", "-1s", "s", "5x", "99999999999999999999h"] {
            assert!(duration(odd).is_err(), "{odd}");
        }
    }
}
