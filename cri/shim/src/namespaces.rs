//! Making the pod's namespaces. The shim itself lives in the network, IPC and UTS namespaces that it makes.

use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::sethostname;
use orlop_shim::pins::PodFolder;
use orlop_shim::protocol::{Failure, Init};

use crate::failure::Step;
use crate::proc::Proc;
use crate::reaper::Reaper;
use crate::{sys, sysctl};

/// Makes and pins what the pod has of its own. After an error the caller clears the folder.
pub(crate) fn make(init: &Init, folder: &PodFolder, proc: &Proc) -> Result<Option<Reaper>, Failure> {
    let own = init.namespaces;
    let wanted = [
        ("net", own.net, CloneFlags::CLONE_NEWNET),
        ("ipc", own.ipc, CloneFlags::CLONE_NEWIPC),
        ("uts", own.uts, CloneFlags::CLONE_NEWUTS),
    ];
    for (name, _, flag) in wanted.into_iter().filter(|(_, wanted, _)| *wanted) {
        unshare(flag).step(format_args!("make the pod's {name} namespace"))?;
        pin(folder, name, Path::new("/proc/self/ns").join(name).as_path())?;
    }
    if own.net {
        sys::loopback_up().step("bring up the pod's loopback interface")?;
    }
    if let Some(hostname) = init.hostname.as_ref().filter(|_| own.uts) {
        sethostname(hostname).step(format_args!("set the pod's hostname to {hostname:?}"))?;
    }
    sysctl::apply(proc, &init.sysctls, own)?;
    if !own.pid {
        return Ok(None);
    }
    let reaper = Reaper::start()?;
    pin(folder, "pid", Path::new(&format!("/proc/{}/ns/pid", reaper.pid())))?;
    Ok(Some(reaper))
}

fn pin(folder: &PodFolder, name: &str, source: &Path) -> Result<(), Failure> {
    folder.pin(name, source).step(format_args!("pin the pod's {name} namespace"))
}
