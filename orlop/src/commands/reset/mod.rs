//! `orlop reset`: end every pod and remove what was made for this node.
//!
//! It goes on after an error and tells all of them at the end; run again, it does what is left. While a pod is left,
//! so is everything that its removal needs. It never deletes across a mount point, so a volume that will not
//! unmount keeps its data.

mod cgroups;
mod files;
mod network;
mod pods;

use std::process::ExitCode;

use anyhow::{Error, Result, bail};

use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do it; without this, only tell what would be removed
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(config: Config, args: Args) -> Result<ExitCode> {
    if !args.yes {
        println!("This would end every pod of this node and remove:");
        println!("  the folders {} and {}", config.state.display(), config.run.display());
        println!("  the bridge {} and the nftables table {}", config.network.bridge, config.network.nft_table);
        println!("  the cgroups kubepods and orlop below {}", config.node.cgroup_root);
        bail!("nothing was removed; say --yes to do it");
    }
    let mut errors = Vec::new();
    // The network goes last but for the files: a pod's interface hangs on the bridge.
    if config.state.exists() {
        match pods::remove_all(&config).await {
            Ok(left) if left.is_empty() => {}
            // Their records, networks and sockets are the only way to them.
            Ok(left) => return give_up(&left),
            // With a daemon at work, what follows would pull the ground from under it.
            Err(error) => return Err(error),
        }
    }
    // A conflist of the user's own describes a network that is not ours to remove.
    if config.network.conf_dir.is_none() {
        errors.extend(network::remove(&config.cni_conf_dir()));
    }
    errors.extend(cgroups::remove(&config.node.cgroup_root));
    for folder in [&config.run, &config.state] {
        errors.extend(files::remove(folder).err());
    }
    errors.extend(files::remove_if_empty(&config.node.log_dir).err());
    if errors.is_empty() { Ok(ExitCode::SUCCESS) } else { give_up(&errors) }
}

fn give_up(errors: &[Error]) -> Result<ExitCode> {
    for error in errors {
        eprintln!("orlop: {error:#}");
    }
    bail!("{} things are left; mend what the lines above name, and run `orlop reset --yes` again", errors.len())
}
