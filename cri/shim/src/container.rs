//! What the shim knows of a container.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use orlop_shim::protocol::{ContainerInfo, ContainerState, EXIT_FILE, ExecInfo, ExitStatus};

use crate::external::External;
use crate::family::Leader;
use crate::oom::OomWatch;
use crate::outputs::Outputs;
use crate::stdio::Stdin;

/// Of the execs that ended this many are remembered, for who subscribes again.
const ENDED_EXECS: usize = 32;

/// Where a container is in its life; the protocol's [`ContainerState`] is what others see of it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Phase {
    /// Another OCI runtime is at work.
    Creating,
    Created,
    Running,
    Paused,
    /// Its first process has ended; its output is read, at most until then, before that is told.
    Draining {
        status: ExitStatus,
        until: Instant,
    },
    Ended(ExitStatus),
    /// Another OCI runtime failed to create it, and is to delete what it has made so far.
    Broken,
}

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) serial: u32,
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) tty: bool,
    /// None for the built-in runtime.
    pub(crate) external: Option<External>,
    pub(crate) phase: Phase,
    /// 0 while it is not known.
    pub(crate) pid: i32,
    /// Of another OCI runtime: /proc/PID/cgroup of its first process.
    pub(crate) cgroup: String,
    pub(crate) created_at: i64,
    pub(crate) started_at: Option<i64>,
    pub(crate) stdin: Stdin,
    /// The pty's master, for its size and its input.
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) outputs: Outputs,
    pub(crate) oom: Option<OomWatch>,
    pub(crate) execs: Vec<Exec>,
}

/// One more process in a container.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) id: String,
    pub(crate) leader: Leader,
    /// The pty's master, for its size.
    pub(crate) terminal: Option<OwnedFd>,
    /// The container's count of OOM kills when this began.
    pub(crate) oom_kills: u64,
    pub(crate) exit: Option<ExitStatus>,
}

impl Container {
    /// Its first process has ended, or is none of which anything is expected.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. }) || self.is_deletable()
    }

    /// Nothing but to delete it is left to do.
    pub(crate) fn is_deletable(&self) -> bool {
        matches!(self.phase, Phase::Ended(_) | Phase::Broken)
    }

    pub(crate) fn exit(&self) -> Option<ExitStatus> {
        match self.phase {
            Phase::Ended(status) => Some(status),
            _ => None,
        }
    }

    pub(crate) fn exec(&mut self, id: &str) -> Option<&mut Exec> {
        self.execs.iter_mut().find(|exec| exec.id == id)
    }

    /// How many of its processes the OOM killer has ended.
    pub(crate) fn oom_kills(&self) -> u64 {
        self.oom.as_ref().and_then(OomWatch::kills).unwrap_or(0)
    }

    /// Forgets the eldest execs that ended, but for the last few.
    pub(crate) fn forget_old_execs(&mut self) {
        let ended = self.execs.iter().filter(|exec| exec.exit.is_some()).count();
        let mut surplus = ended.saturating_sub(ENDED_EXECS);
        self.execs.retain(|exec| {
            let forget = surplus > 0 && exec.exit.is_some();
            surplus -= usize::from(forget);
            !forget
        });
    }

    pub(crate) fn info(&self) -> ContainerInfo {
        let state = match self.phase {
            Phase::Creating => ContainerState::Creating,
            Phase::Created => ContainerState::Created,
            Phase::Running | Phase::Draining { .. } => ContainerState::Running,
            Phase::Paused => ContainerState::Paused,
            Phase::Ended(_) | Phase::Broken => ContainerState::Ended,
        };
        let exec = |exec: &Exec| ExecInfo { exec_id: exec.id.clone(), pid: exec.leader.pid, exit: exec.exit };
        ContainerInfo {
            id: self.id.clone(),
            pid: self.pid,
            bundle: self.bundle.clone(),
            state,
            tty: self.tty,
            created_at: self.created_at,
            started_at: self.started_at,
            exit: self.exit(),
            execs: self.execs.iter().map(exec).collect(),
        }
    }
}

/// Writes `exit.json` of a bundle, by rename: it is there whole or not at all.
pub(crate) fn record_exit(bundle: &Path, status: &ExitStatus) -> io::Result<()> {
    let temporary = bundle.join("exit.json.new");
    let mut file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&serde_json::to_vec(status)?)?;
    fs::rename(temporary, bundle.join(EXIT_FILE))
}
