//! orlop as a service of systemd, from dist/orlop.service.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use orlop_tests::command::{self, run};

use crate::{BIN, Case};

pub(crate) const CASES: &[Case] = &[("service_becomes_ready", ready)];

fn journal() -> String {
    let journal = run("journalctl", ["--unit=orlop.service", "--no-pager", "--output=cat", "--lines=60"]);
    journal.unwrap_or_else(|error| format!("{error:#}"))
}

/// The guest has no network, and a node wants an address.
fn uplink() -> Result<()> {
    for step in [
        "link add uplink type veth peer name outside",
        "link set outside up",
        "address add 192.0.2.10/24 dev uplink",
        "link set uplink up",
        "route add default via 192.0.2.1",
    ] {
        run("ip", step.split(' '))?;
    }
    Ok(())
}

fn ready() -> Result<()> {
    uplink()?;
    // Type=notify: this comes back when the node has told systemd that it is up.
    run("systemctl", ["start", "orlop.service"]).with_context(journal)?;
    let orlop = format!("{BIN}/orlop");
    let status = command::outcome(Command::new(&orlop).args(["status", "--wait", "90"]))?;
    ensure!(status.code == 0, "{}{}\n{}", status.stdout, status.stderr, journal());
    let cgroup = run("systemctl", ["show", "--property=ControlGroup,NRestarts", "orlop.service"])?;
    ensure!(cgroup == "NRestarts=0\nControlGroup=/system.slice/orlop.service\n", "{cgroup}\n{}", journal());
    // The pods' cgroups are beside systemd's, not below the service: its end is not theirs.
    ensure!(Path::new("/sys/fs/cgroup/kubepods").is_dir(), "no /sys/fs/cgroup/kubepods\n{}", journal());
    run("systemctl", ["restart", "orlop.service"]).with_context(journal)?;
    command::stdout(Command::new(&orlop).args(["status", "--wait", "90"])).with_context(journal)?;
    run("systemctl", ["stop", "orlop.service"]).with_context(journal)?;
    command::stdout(Command::new(&orlop).args(["reset", "--yes"])).with_context(journal)?;
    for left in ["/sys/fs/cgroup/kubepods", "/run/orlop/cri.sock", "/sys/class/net/orlop0"] {
        ensure!(!Path::new(left).exists(), "{left} is left after orlop reset");
    }
    let failed = run("systemctl", ["list-units", "--failed", "--no-legend"])?;
    ensure!(failed.is_empty(), "failed units: {failed}");
    Ok(())
}
