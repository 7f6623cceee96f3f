//! `orlop-shim`: stays with the containers of one pod while daemons come and go.
//!
//! One thread and one loop ([`shim::Shim::run`]). It holds the containers' stdio, writes their logs, reaps
//! them and records how they ended; it makes containers by the runtime library. It is started by the CRI
//! daemon, with one end of a socket pair as its stdin. See docs/ARCHITECTURE.md, "The shim protocol".

mod children;
mod clock;
mod connections;
mod container;
mod create;
mod exec;
mod external;
mod failure;
mod family;
mod jobs;
mod journal;
mod launch;
mod lines;
mod log_file;
mod namespaces;
mod oom;
mod outputs;
mod poller;
mod private_rootfs;
mod proc;
mod reaper;
mod requests;
mod scratch;
mod shim;
mod shutdown;
mod stdio;
mod sys;
mod sysctl;

use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{Backlog, listen};
use nix::sys::stat::{Mode, umask};
use nix::unistd::dup2_stderr;
use orlop_shim::packet;
use orlop_shim::pins::PodFolder;
use orlop_shim::protocol::{Answer, Failure, Init, LOG, SOCKET, VERSION};

use crate::failure::Step;
use crate::journal::note;
use crate::proc::Proc;
use crate::shim::{Parts, Shim};

const USAGE: &str = "\
orlop-shim stays with the containers of one pod. The CRI daemon starts it, with a SOCK_SEQPACKET socket as
its stdin; it is of no use by hand. See docs/ARCHITECTURE.md, \"The shim protocol\".";

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--version") {
        println!("orlop-shim {} (protocol {VERSION})", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    // Containers can come to hold the program of the process that starts them (CVE-2019-5736).
    if let Err(failure) = orlop_runtime::run_from_read_only_mount() {
        eprintln!("orlop-shim: take the program out of containers' reach: {failure}");
        return ExitCode::FAILURE;
    }
    let Some(connection) = launch::first_connection() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match launch::daemonize(&connection).step("leave the daemon").and_then(|()| begin(&connection)) {
        Ok(mut shim) => {
            drop(connection);
            shim.run();
            ExitCode::SUCCESS
        }
        Err(failure) => {
            note!("{failure}");
            // The daemon may have gone meanwhile; then nobody is there to be told.
            drop(answer(&connection, &Answer::Error(failure)));
            ExitCode::FAILURE
        }
    }
}

fn answer(connection: &OwnedFd, answer: &Answer) -> std::io::Result<()> {
    packet::send(connection.as_fd(), &serde_json::to_vec(answer)?, &[])
}

fn begin(connection: &OwnedFd) -> Result<Shim, Failure> {
    let signals = launch::signals().step("block signals")?;
    let init = launch::first_request(connection)?;
    let dir = init.dir.clone();
    let folder = PodFolder::lock(&dir).step(format_args!("lock the pod's folder {}", dir.display()))?;
    open_log(&dir).step("open shim.log")?;
    // Left by one that was killed.
    folder.clear().step("clear the pod's folder")?;
    make_pod(connection, init, folder, signals).inspect_err(|_| {
        if let Err(error) = PodFolder::lock(&dir).and_then(|folder| folder.clear()) {
            note!("clear the pod's folder after an error: {error}");
        }
    })
}

/// After an error nothing is held any more, and the folder is to be cleared.
fn make_pod(connection: &OwnedFd, init: Init, folder: PodFolder, signals: SignalFd) -> Result<Shim, Failure> {
    let proc = Proc::open()?;
    if let Some(adjustment) = init.oom_score_adj
        && let Err(failure) = proc.write_own("oom_score_adj", &adjustment.to_string())
    {
        note!("the oom_score_adj stays as it is: {failure}");
    }
    let reaper = namespaces::make(&init, &folder, &proc)?;
    let listener = listen_at(&init.dir)?;
    let first = connection.try_clone().step("copy the first connection")?;
    let shim = Shim::new(Parts { init, folder, proc, signals, reaper, listener, first })?;
    let ready = Answer::Ready { pid: std::process::id() as i32, version: VERSION };
    answer(connection, &ready).step("tell the daemon")?;
    Ok(shim)
}

/// The shim's complaints go to its stderr.
fn open_log(dir: &Path) -> std::io::Result<()> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(dir.join(LOG))?;
    Ok(dup2_stderr(&log)?)
}

fn listen_at(dir: &Path) -> Result<OwnedFd, Failure> {
    let path = dir.join(SOCKET);
    let step = format_args!("listen at {}", path.display());
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = packet::bind_to(&path);
    umask(before);
    let listener = bound.step(step)?;
    Backlog::new(BACKLOG).and_then(|backlog| listen(&listener, backlog)).step(step)?;
    Ok(listener)
}
