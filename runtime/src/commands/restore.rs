//! restore

use std::process::ExitCode;

use super::checkpoint::CriuArgs;
use super::run::Stay;
use super::{BundleArgs, Context, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct Restore {
    #[command(flatten)]
    criu: CriuArgs,
    /// Come back as soon as the container runs
    #[arg(short, long)]
    detach: bool,
    /// Leave processes that lost their parent to the host's init, where the container has no process namespace
    /// of its own
    #[arg(long)]
    no_subreaper: bool,
    /// Another LSM label than was written: selinux or apparmor, and the label
    #[arg(long, value_name = "TYPE:LABEL")]
    lsm_profile: Option<String>,
    /// Another SELinux context for mounts that have one
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
    #[command(flatten)]
    bundle: BundleArgs,
}

impl Restore {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        let id = self.bundle.id.clone();
        let container = self.bundle.options(cli, self.detach)?;
        let restored = cli.runtime.restore(orlop_runtime::RestoreOptions {
            criu: self.criu.options(cli),
            container,
            lsm_profile: self.lsm_profile,
            lsm_mount_context: self.lsm_mount_context,
        })?;
        let stay = Stay { detach: self.detach, subreaper: !self.no_subreaper, keep: false };
        stay.with(cli, &id, restored, || Ok(()))
    }
}
