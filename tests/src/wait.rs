//! Waiting on a condition.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a condition may take before a test gives up. Generous: it is there to end a test, not to time it.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks `look` until it answers `Ok(Some(value))`. The error that ends the wait tells what was seen last.
pub fn until<T>(what: &str, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_within(PATIENCE, what, look)
}

/// [`until`], with another patience.
pub fn until_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        let seen = look();
        if let Ok(Some(value)) = seen {
            return Ok(value);
        }
        if Instant::now() > deadline {
            match seen {
                Err(error) => bail!("waited {patience:?} for {what}; last: {error:#}"),
                Ok(_) => bail!("waited {patience:?} for {what}"),
            }
        }
        thread::sleep(PAUSE);
    }
}

/// Asks `look` until it answers `wanted`; the error tells what it answered last.
pub fn until_equal<T: PartialEq + Debug>(what: &str, wanted: &T, mut look: impl FnMut() -> Result<T>) -> Result<()> {
    let mut last = None;
    until(what, || {
        let seen = look()?;
        if seen == *wanted {
            return Ok(Some(()));
        }
        last = Some(seen);
        bail!("wanted {wanted:?}, saw {last:?}")
    })
}
