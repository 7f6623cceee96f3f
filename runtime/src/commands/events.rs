//! events

use std::process::ExitCode;
use std::time::{Duration, Instant};

use orlop_runtime::{Error, Happening};
use serde::Serialize;
use serde_json::Value;

use super::{Context, Failure, say};

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

/// One line of output. The order of its members is runc's.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

impl Events {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        if self.stats {
            self.show("stats", Some(cli.runtime.stats(&self.id)?))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut watch = cli.runtime.watch(&self.id)?;
        let mut next = Instant::now() + self.interval;
        loop {
            match watch.next(next.saturating_duration_since(Instant::now()))? {
                Happening::OutOfMemory => self.show("oom", None)?,
                Happening::Ended => return Ok(ExitCode::SUCCESS),
                Happening::Nothing => {
                    match cli.runtime.stats(&self.id) {
                        Ok(data) => self.show("stats", Some(data))?,
                        // The watch is about to tell.
                        Err(Error::NotRunning(_) | Error::NotFound(_)) => (),
                        Err(error) => return Err(error.into()),
                    }
                    next = Instant::now() + self.interval;
                }
            }
        }
    }

    /// Prints an event; a reader that is gone is an error, which ends the stream.
    fn show(&self, kind: &'static str, data: Option<Value>) -> Result<(), Failure> {
        say(&serde_json::to_string(&Event { kind, id: &self.id, data })?)
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
    // Go counts in nanoseconds, of which 63 bits are 292 years.
    let fits = |duration: &Duration| !duration.is_zero() && i64::try_from(duration.as_nanos()).is_ok();
    Duration::try_from_secs_f64(sum).ok().filter(fits).ok_or_else(odd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [("5s", 5000), ("500ms", 500), ("1m30s", 90_000), ("1.5s", 1500)] {
            assert_eq!(duration(text).ok(), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for odd in ["", "5", "0s", "-1s", "s", "5x", "99999999999999999999h", "5000000000000000h"] {
            assert!(duration(odd).is_err(), "{odd}");
        }
    }
}
