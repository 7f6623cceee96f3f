//! The built-in pod network: its bridge and its nftables table.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error};
use orlop_cni::NetworkConfigList;

/// The kernel takes a pod's interface off the bridge some time after the pod's namespace was closed (tens of
/// milliseconds); a bridge is removed when it has no port.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// Removes what the conflist in `conf_dir` made on the node. Without a conflist nothing was made.
pub(super) fn remove(conf_dir: &Path) -> Option<Error> {
    if !conf_dir.is_dir() {
        return None;
    }
    let list = match NetworkConfigList::load(conf_dir) {
        Ok(list) => list,
        Err(error) => {
            return Some(Error::new(error).context(format!("read the pod network in {}", conf_dir.display())));
        }
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match orlop_cni::remove_network(&list).context("remove the pod network from the node") {
            Ok(()) => return None,
            Err(error) if Instant::now() >= deadline => return Some(error),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}
