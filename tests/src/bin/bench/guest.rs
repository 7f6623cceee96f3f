//! The comparison with crun, which refuses hybrid cgroups: in a guest with cgroup v2.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use orlop_tests::programs;
use orlop_tests::vm::{self, Guest};

/// The argument with which this program runs in the guest.
pub(crate) const IN_GUEST: &str = "--in-guest";

const BIN: &str = "/usr/local/bin";

pub(crate) fn compare() -> Result<()> {
    if let Some(why) = vm::unavailable() {
        println!("\nSKIP: beside crun: {why}");
        return Ok(());
    }
    let mut guest = Guest::new()?;
    let bench = format!("{BIN}/bench");
    guest.file(&bench, 0o755, &std::env::current_exe().context("find the running bench")?)?;
    guest.file(&format!("{BIN}/orlop-runtime"), 0o755, &programs::path("orlop-runtime")?)?;
    guest.program(&["/usr/bin/env", &format!("ORLOP_BIN={BIN}"), &bench, IN_GUEST], Duration::from_mins(5))?;
    for outcome in guest.run()? {
        print!("{}", outcome.stdout);
        if outcome.code != 0 {
            bail!("in the guest: exit code {}\n{}", outcome.code, outcome.stderr);
        }
    }
    Ok(())
}
