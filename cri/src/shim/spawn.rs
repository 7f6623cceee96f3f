//! Starting a shim.

use std::process::Stdio;
use std::time::Duration;

use orlop_shim::packet;
use orlop_shim::protocol::{Answer, LOG, Request};
use tokio::process::Command;

use super::connection::Connection;
use super::requests::{call, unexpected, within};
use super::{Error, ShimConfig};

/// Making namespaces takes milliseconds; this is for a machine that swaps.
const DEADLINE: Duration = Duration::from_secs(30);

/// Runs the program with one end of a socket pair as its stdin, which keeps the standard library on its
/// posix_spawn path: fork from a large daemon costs milliseconds, vfork does not.
pub(super) async fn spawn(config: &ShimConfig) -> Result<(Connection, i32), Error> {
    let failed = |source| Error::Spawn { program: config.binary.clone(), source };
    let (ours, theirs) = packet::pair().map_err(failed)?;
    let connection = Connection::new(ours).map_err(failed)?;
    let mut launcher = Command::new(&config.binary)
        .arg(&config.init.id)
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let request = Request::Init(config.init.clone());
    let answer = within("Init", DEADLINE, call(&connection, "Init", &request, &[])).await;
    // The launcher has forked the shim and ended by now, or never will: then it is of no use to anybody.
    if tokio::time::timeout(DEADLINE, launcher.wait()).await.is_err() {
        launcher.kill().await.map_err(failed)?;
    }
    match answer {
        Ok((Answer::Ready { pid, .. }, _)) => Ok((connection, pid)),
        Ok((other, _)) => Err(unexpected("Init", &other)),
        Err(Error::Transport { .. }) => {
            Err(Error::Died { program: config.binary.clone(), log: config.init.dir.join(LOG) })
        }
        Err(error) => Err(error),
    }
}
