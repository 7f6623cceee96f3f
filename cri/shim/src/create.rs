//! Making a container.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use orlop_runtime::{CreateOptions, Rootfs as RuntimeRootfs, Stdio};
use orlop_shim::protocol::{Answer, Create, Failure, FailureKind, Rootfs};

use crate::clock;
use crate::container::{Container, Phase};
use crate::external::External;
use crate::failure::{Step, failure, runtime_failure};
use crate::log_file::LogFile;
use crate::oom::OomWatch;
use crate::outputs::Outputs;
use crate::requests::Handled;
use crate::shim::Shim;
use crate::stdio::{Outer, Stdin, pipes, set_nonblocking};

impl Shim {
    pub(crate) fn create(&mut self, asker: u32, create: Create) -> Handled {
        if self.containers.iter().any(|container| container.id == create.id) {
            return Err(failure(FailureKind::AlreadyExists, format!("container {} exists in this pod", create.id)));
        }
        // One that has not been reaped keeps its number, by which config.json names its namespace.
        if let Some(target) = &create.target
            && self.container(target)?.is_over()
        {
            let message = format!("container {target}, whose PID namespace is wanted, has ended");
            return Err(failure(FailureKind::WrongState, message));
        }
        let log = create.log_path.as_deref().map(open_log).transpose()?;
        let serial = self.serial();
        let container = Container {
            serial,
            id: create.id.clone(),
            bundle: create.bundle.clone(),
            tty: create.tty,
            external: create
                .oci_runtime
                .as_deref()
                .map(|program| External::new(program, &self.init.runtime_root, &create.bundle)),
            phase: Phase::Created,
            pid: 0,
            cgroup: String::new(),
            created_at: clock::now(),
            started_at: None,
            stdin: Stdin::Closed,
            terminal: None,
            outputs: Outputs::new(log),
            oom: None,
            execs: Vec::new(),
        };
        if container.external.is_some() {
            self.create_external(asker, container, &create)
        } else {
            self.create_built_in(container, &create)
        }
    }

    fn create_built_in(&mut self, mut container: Container, create: &Create) -> Handled {
        let mut options = CreateOptions::new(&create.id, &create.bundle);
        options.rootfs = rootfs(&create.rootfs);
        // To the kubelet that is a container which has ended (StartError), and not one that could not be made.
        options.program_by_start = true;
        let outer = if create.tty {
            options.stdio = Stdio::Terminal;
            None
        } else {
            let (inner, outer) = pipes(create)?;
            options.stdio = Stdio::Fds { stdin: inner.stdin, stdout: inner.stdout, stderr: inner.stderr };
            Some(outer)
        };
        let created = self.runtime.create(options).map_err(|error| runtime_failure(&error))?;
        container.pid = created.pid.as_raw();
        let adopted = match (outer, created.terminal) {
            (Some(outer), _) => self.adopt_pipes(&mut container, outer),
            (None, Some(master)) => self.adopt_terminal(&mut container, master),
            (None, None) => Err(failure(FailureKind::Invalid, "the container's process does not ask for a terminal")),
        };
        let adopted = adopted.and_then(|()| self.watch_oom(&mut container));
        if let Err(error) = adopted {
            // Its process is reaped as a stray.
            self.runtime.delete(&create.id, true).map_err(|cleanup| runtime_failure(&cleanup))?;
            return Err(error);
        }
        let answer = Answer::Created { pid: container.pid };
        self.containers.push(container);
        Ok(answer.into())
    }

    pub(crate) fn adopt_pipes(&self, container: &mut Container, outer: Outer) -> Result<(), Failure> {
        container.stdin = outer.stdin;
        for (part, fd) in [(0, outer.stdout), (1, outer.stderr)] {
            container.outputs.open(&self.poller, container.serial, part, fd).step("wait for the container's output")?;
        }
        Ok(())
    }

    pub(crate) fn adopt_terminal(&self, container: &mut Container, master: OwnedFd) -> Result<(), Failure> {
        set_nonblocking(master.as_fd())?;
        let reader = master.try_clone().step("copy the terminal's master")?;
        container.outputs.open(&self.poller, container.serial, 0, reader).step("wait for the container's output")?;
        container.terminal = Some(master);
        Ok(())
    }

    pub(crate) fn watch_oom(&self, container: &mut Container) -> Result<(), Failure> {
        container.oom = OomWatch::open(&self.proc, container.pid, &self.poller, container.serial)?;
        Ok(())
    }
}

fn open_log(path: &Path) -> Result<LogFile, Failure> {
    LogFile::open(path).step(format_args!("open the log {}", path.display()))
}

fn rootfs(rootfs: &Rootfs) -> RuntimeRootfs {
    match rootfs.clone() {
        Rootfs::Bundle => RuntimeRootfs::FromSpec,
        Rootfs::Overlay { lower, upper, work } => RuntimeRootfs::Overlay { lower, upper, work },
    }
}
