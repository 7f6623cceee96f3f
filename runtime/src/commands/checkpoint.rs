//! checkpoint

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use orlop_runtime::{CgroupsMode, CheckpointOptions, CriuOptions};

use super::{Context, Failure};

/// What checkpoint and restore have in common.
#[derive(Debug, Args)]
pub(super) struct CriuArgs {
    /// The folder of the files
    #[arg(long, default_value = "checkpoint", value_name = "FOLDER")]
    image_path: PathBuf,
    /// The folder of criu's log and other files that are not kept; that of the files if not given
    #[arg(long, value_name = "FOLDER")]
    work_path: Option<PathBuf>,
    /// Allow established TCP connections
    #[arg(long)]
    tcp_established: bool,
    /// Allow unix sockets whose other end is outside of the container
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow a session and a terminal from outside of the container
    #[arg(long)]
    shell_job: bool,
    /// Bring memory over only when it is needed
    #[arg(long)]
    lazy_pages: bool,
    /// Allow file locks
    #[arg(long)]
    file_locks: bool,
    /// What criu does about cgroups: soft, full, strict or ignore
    #[arg(long, default_value = "soft", value_name = "MODE")]
    manage_cgroups_mode: CgroupsMode,
    /// A namespace whose properties are left out; only network, which always is
    #[arg(long, value_name = "NAMESPACE", value_parser = ["network"])]
    empty_ns: Vec<String>,
    /// Keep each page of memory only once over several checkpoints
    #[arg(long)]
    auto_dedup: bool,
}

impl CriuArgs {
    pub(super) fn options(self, cli: &Context) -> CriuOptions {
        let mut options = CriuOptions::new(self.image_path);
        options.program.clone_from(&cli.criu);
        options.work = self.work_path;
        options.tcp_established = self.tcp_established;
        options.ext_unix_sk = self.ext_unix_sk;
        options.shell_job = self.shell_job;
        options.lazy_pages = self.lazy_pages;
        options.file_locks = self.file_locks;
        options.auto_dedup = self.auto_dedup;
        options.cgroups = self.manage_cgroups_mode;
        options
    }
}

#[derive(Debug, Args)]
pub(super) struct Checkpoint {
    #[command(flatten)]
    criu: CriuArgs,
    /// The files of an earlier --pre-dump, relative to --image-path
    #[arg(long, value_name = "FOLDER")]
    parent_path: Option<PathBuf>,
    /// Let the container go on; else it is deleted
    #[arg(long)]
    leave_running: bool,
    /// Write only memory, for a later checkpoint with --parent-path; the container goes on
    #[arg(long)]
    pre_dump: bool,
    /// Leave out TCP connections that are being made
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Give files that were removed while open a name again
    #[arg(long)]
    link_remap: bool,
    /// A page server that gets the memory
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = page_server)]
    page_server: Option<(String, u16)>,
    /// A descriptor that gets a zero byte when lazy pages can be asked for
    #[arg(long, value_name = "FD", allow_negative_numbers = true)]
    status_fd: Option<RawFd>,
    /// The name of the container
    id: String,
}

impl Checkpoint {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        let mut options = CheckpointOptions::new(self.criu.options(cli));
        options.parent = self.parent_path;
        options.leave_running = self.leave_running;
        options.pre_dump = self.pre_dump;
        options.tcp_skip_in_flight = self.tcp_skip_in_flight;
        options.link_remap = self.link_remap;
        options.page_server = self.page_server;
        options.status_fd = self.status_fd.filter(|number| *number >= 0);
        cli.runtime.checkpoint(&self.id, &options)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// An address, in brackets if it has colons, and a port.
fn page_server(text: &str) -> Result<(String, u16), String> {
    let odd = || format!("{text:?} is not of the form ADDRESS:PORT");
    let (address, port) = text.rsplit_once(':').ok_or_else(odd)?;
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match (bare.unwrap_or(address), port.parse()) {
        (address, Ok(port)) if !address.is_empty() && (bare.is_some() || !address.contains(':')) && port > 0 => {
            Ok((address.to_owned(), port))
        }
        _ => Err(odd()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_servers() {
        assert_eq!(page_server("10.0.0.1:27"), Ok(("10.0.0.1".to_owned(), 27)));
        assert_eq!(page_server("[::1]:27"), Ok(("::1".to_owned(), 27)));
        for odd in ["", "a", ":1", "a:", "a:0", "a:70000", "::1:27", "[]:1"] {
            assert!(page_server(odd).is_err(), "{odd}");
        }
    }
}
