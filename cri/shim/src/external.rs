//! Another OCI runtime, by runc's command line.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use oci_spec::runtime::{LinuxResources, Process};
use orlop_shim::packet;
use orlop_shim::protocol::{Create, Failure, FailureKind, Rootfs, SEARCH_PATH, state_root};
use serde::Deserialize;

use crate::container::{Container, Phase};
use crate::failure::{Step, failure};
use crate::jobs::{CreateStdio, Work};
use crate::private_rootfs;
use crate::requests::Handled;
use crate::shim::Shim;
use crate::stdio::{Inner, pipes};
use crate::sys::{self, Ended};

/// The operation's log, in the bundle.
const LOG: &str = "runtime.log";

/// A runtime program, the root of its state, and the bundle of the container that it is for.
#[derive(Debug, Clone)]
pub(crate) struct External {
    program: PathBuf,
    root: PathBuf,
    bundle: PathBuf,
}

impl External {
    pub(crate) fn new(program: &Path, runtime_root: &Path, bundle: &Path) -> External {
        let root = state_root(runtime_root, program);
        External { program: program.to_owned(), root, bundle: bundle.to_owned() }
    }

    /// Where the program's messages go.
    pub(crate) fn log(&self) -> PathBuf {
        self.bundle.join(LOG)
    }

    /// `<program> <global flags> <verb and flags> <id>`
    pub(crate) fn command(&self, verb: &[&str], id: &str) -> Command {
        let mut command = self.unfinished(verb);
        command.arg(id);
        command
    }

    /// Without the id, for more flags.
    fn unfinished(&self, verb: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", SEARCH_PATH);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.arg("--root").arg(&self.root);
        command.arg("--log").arg(self.log()).args(["--log-format", "json"]);
        command.args(verb);
        sys::unblock_signals_in(&mut command);
        command
    }

    /// `<program> update --resources FILE <id>`
    pub(crate) fn update_command(&self, id: &str, resources: &LinuxResources) -> Result<Command, Failure> {
        let file = self.bundle.join("resources.json");
        write_json(&file, resources)?;
        let mut command = self.unfinished(&["update", "--resources"]);
        command.arg(file).arg(id);
        Ok(command)
    }
}

/// A listening socket to which a runtime sends a terminal's master.
#[derive(Debug)]
pub(crate) struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    fn listen(path: PathBuf) -> Result<Console, Failure> {
        drop(fs::remove_file(&path));
        let listener = UnixListener::bind(&path).step(format_args!("listen at {}", path.display()))?;
        listener.set_nonblocking(true).step("make the console socket non-blocking")?;
        Ok(Console { listener, path })
    }

    /// What the runtime, which has ended, has sent.
    pub(crate) fn receive(&self) -> Result<OwnedFd, Failure> {
        let (stream, _) = self.listener.accept().step("accept the runtime's console connection")?;
        let received = packet::receive_descriptor(std::os::fd::AsFd::as_fd(&stream));
        received
            .step("receive the terminal from the runtime")?
            .ok_or_else(|| failure(FailureKind::Runtime, "the runtime sent no terminal"))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

impl Shim {
    pub(crate) fn create_external(&mut self, asker: u32, mut container: Container, create: &Create) -> Handled {
        let Some(external) = container.external.clone() else {
            return Err(failure(FailureKind::Invalid, "no other OCI runtime is named"));
        };
        let (id, serial) = (container.id.clone(), container.serial);
        let pid_file = create.bundle.join("init.pid");
        let mut command = external.unfinished(&["create", "--bundle"]);
        command.arg(&create.bundle).arg("--pid-file").arg(&pid_file);
        let stdio = if create.tty {
            let console = self.console(serial)?;
            command.arg("--console-socket").arg(&console.path);
            CreateStdio::Terminal(console)
        } else {
            let (inner, outer) = pipes(create)?;
            give(&mut command, inner);
            CreateStdio::Pipes(outer)
        };
        command.arg(&id);
        if let Rootfs::Overlay { lower, upper, work } = &create.rootfs {
            let target = create.bundle.join("rootfs");
            private_rootfs::mount_for(&mut command, &self.proc, &target, lower, upper.as_deref(), work.as_deref())?;
        }
        container.phase = Phase::Creating;
        self.containers.push(container);
        let begun = self.begin_job(asker, &id, command, Work::Create { pid_file, stdio });
        if begun.is_err() {
            self.containers.retain(|container| container.serial != serial);
        }
        begun
    }

    pub(crate) fn exec_external(
        &mut self,
        asker: u32,
        id: &str,
        exec_id: String,
        process: &Process,
        stdio: Option<Inner>,
    ) -> Handled {
        let serial = self.serial();
        let Some(external) = self.container(id)?.external.clone() else {
            return Err(failure(FailureKind::Invalid, "no other OCI runtime is named"));
        };
        let process_file = external.bundle.join(format!("exec-{serial}.json"));
        let pid_file = external.bundle.join(format!("exec-{serial}.pid"));
        write_json(&process_file, process)?;
        let mut command = external.unfinished(&["exec", "--detach", "--process"]);
        command.arg(&process_file).arg("--pid-file").arg(&pid_file);
        let console = if let Some(inner) = stdio {
            give(&mut command, inner);
            None
        } else {
            let console = self.console(serial)?;
            command.arg("--console-socket").arg(&console.path);
            Some(console)
        };
        command.arg(id);
        let files = [process_file, pid_file];
        let work = Work::Exec { exec_id, files: files.clone(), console };
        self.begin_job(asker, id, command, work).inspect_err(|_| remove_files(&files))
    }

    fn console(&self, serial: u32) -> Result<Console, Failure> {
        Console::listen(self.folder.path().join(format!("console-{serial}.sock")))
    }
}

fn give(command: &mut Command, Inner { stdin, stdout, stderr }: Inner) {
    command.stdin(stdin).stdout(stdout).stderr(stderr);
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), Failure> {
    let step = format_args!("write {}", path.display());
    let text = serde_json::to_vec(value).map_err(std::io::Error::from).step(step)?;
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    opened.and_then(|mut file| file.write_all(&text)).step(step)
}

/// Those that are not there are fine; one that cannot be removed goes with the bundle.
pub(crate) fn remove_files(paths: &[PathBuf]) {
    for path in paths {
        drop(fs::remove_file(path));
    }
}

/// The process id that a runtime has left in a file.
pub(crate) fn pid_from(path: &Path) -> Result<i32, Failure> {
    let text = fs::read_to_string(path).step(format_args!("read {}", path.display()))?;
    text.trim().parse().map_err(|_| failure(FailureKind::Runtime, format!("the runtime wrote no pid but {text:?}")))
}

/// The last error in a runtime's log.
pub(crate) fn failure_of(log: &Path, ended: Ended) -> Failure {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let text = fs::read_to_string(log).unwrap_or_default();
    let errors = text.lines().rev().filter_map(|line| serde_json::from_str(line).ok());
    let message = errors.filter(|line: &Line| line.level == "error").map(|line| line.msg).next();
    let how = match ended.signal {
        Some(signal) => format!("the OCI runtime was killed by signal {signal}"),
        None => format!("the OCI runtime exited with {}", ended.code),
    };
    failure(FailureKind::Runtime, message.unwrap_or(how))
}
