//! What a container's first process and those of `exec` have in common: from a fresh clone inside the
//! namespaces to the execution of the program.

mod limits;
mod program;
mod settle;

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    IOPriorityClass, LinuxIdMapping, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain, LinuxSeccomp, Process,
};

pub(crate) use self::limits::Rlimits;
use self::program::Program;
use crate::capabilities::CapabilitySets;
use crate::error::{Context, Error, Failure};
use crate::options::Stdio;
use crate::schedule::{self, MemoryPolicy};
use crate::seccomp::Filter;
use crate::sys::{self, SchedAttr};
use crate::terminal;
use crate::user_namespace;
use crate::validate;

/// All that a new process needs to become the program, prepared and checked by its parent.
#[derive(Debug)]
pub(crate) struct ProcessPlan {
    program: Program,
    find_program: bool,
    cwd: PathBuf,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    umask: u32,
    capabilities: CapabilitySets,
    no_new_privs: bool,
    rlimits: Rlimits,
    oom_score_adj: Option<i32>,
    io_priority: Option<(u32, u32)>,
    scheduler: Option<SchedAttr>,
    memory_policy: Option<MemoryPolicy>,
    personality: Option<u32>,
    apparmor: Option<String>,
    selinux: Option<String>,
    keyring: Option<String>,
    filter: Option<Filter>,
    stdio: Stdio,
    console_size: Option<(u16, u16)>,
    preserve_fds: u32,
}

/// What the caller of create or exec says about the process, beside the spec.
#[derive(Debug)]
pub(crate) struct ProcessRequest<'a> {
    pub(crate) id: &'a str,
    pub(crate) process: &'a Process,
    pub(crate) seccomp: Option<&'a LinuxSeccomp>,
    pub(crate) personality: Option<&'a LinuxPersonality>,
    pub(crate) memory_policy: Option<&'a LinuxMemoryPolicy>,
    pub(crate) stdio: Stdio,
    pub(crate) preserve_fds: u32,
    /// How many of these are sockets that it is told about.
    pub(crate) listen_fds: u32,
    pub(crate) new_keyring: bool,
    /// Whether a program that cannot be executed is to be told before the process is ready.
    pub(crate) find_program: bool,
}

impl ProcessPlan {
    /// Prepares a process; `warn` is told which capabilities are not there to give.
    pub(crate) fn new(request: ProcessRequest<'_>, warn: fn(&str)) -> Result<ProcessPlan, Error> {
        let process = request.process;
        if !process.cwd().is_absolute() {
            return Err(Error::invalid("process.cwd", "it must be an absolute path"));
        }
        let listed = process.env().as_deref().unwrap_or_default();
        if let Some(odd) = listed.iter().find(|variable| variable.find('=').unwrap_or(0) == 0) {
            return Err(Error::invalid("process.env", format!("{odd:?} is not of the form NAME=VALUE")));
        }
        let mut env = last_of_each(listed);
        if request.listen_fds > 0 {
            env.retain(|variable| !variable.starts_with("LISTEN_FDS=") && !variable.starts_with("LISTEN_PID="));
            env.extend([format!("LISTEN_FDS={}", request.listen_fds), "LISTEN_PID=1".to_owned()]);
        }
        let program = Program::plan(process.args().as_deref().unwrap_or_default(), &env)?;
        let (capabilities, warnings) = CapabilitySets::plan(process.capabilities().as_ref());
        for warning in &warnings {
            warn(warning);
        }
        let terminal = process.terminal().unwrap_or(false);
        let user = process.user();
        let plan = ProcessPlan {
            program,
            find_program: request.find_program,
            cwd: process.cwd().clone(),
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask().unwrap_or(0o022) & 0o777,
            capabilities,
            no_new_privs: process.no_new_privileges().unwrap_or(false),
            rlimits: Rlimits::plan(process)?,
            oom_score_adj: process.oom_score_adj(),
            io_priority: process.io_priority().as_ref().map(|io| (io_class(io.class()), io.priority() as u32)),
            scheduler: process.scheduler().as_ref().map(schedule::scheduler).transpose()?,
            memory_policy: request.memory_policy.map(MemoryPolicy::plan).transpose()?,
            personality: request.personality.map(persona).transpose()?,
            apparmor: process.apparmor_profile().clone().filter(|profile| !profile.is_empty()),
            selinux: process.selinux_label().clone().filter(|label| !label.is_empty()),
            keyring: request.new_keyring.then(|| format!("_ses.{}", request.id)),
            filter: request.seccomp.map(Filter::compile).transpose()?,
            stdio: if terminal { Stdio::Terminal } else { own_stdio(request.stdio)? },
            console_size: process.console_size().map(|size| (size.width() as u16, size.height() as u16)),
            preserve_fds: request.preserve_fds,
        };
        plan.check_lsm()?;
        Ok(plan)
    }

    /// The environment of the program.
    pub(crate) fn env(&self) -> &[CString] {
        self.program.env()
    }

    fn check_lsm(&self) -> Result<(), Error> {
        // It says N where AppArmor is there and turned off.
        let has_apparmor =
            || std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|is| is.starts_with(b"Y"));
        if self.apparmor.as_deref().is_some_and(|profile| profile != "unconfined") && !has_apparmor() {
            return Err(Error::unsupported("process.apparmorProfile", "AppArmor is not enabled on this host"));
        }
        if self.selinux.is_some() && !validate::has_selinux() {
            return Err(Error::unsupported("process.selinuxLabel", "SELinux is not enabled on this host"));
        }
        Ok(())
    }

    pub(crate) fn cwd(&self) -> &Path {
        &self.cwd
    }

    pub(crate) fn wants_terminal(&self) -> bool {
        matches!(self.stdio, Stdio::Terminal)
    }

    /// Gives its pipes to who the process's user is on the host.
    pub(crate) fn give_pipes(&self, mappings: &[LinuxIdMapping]) {
        let Some(owner) = user_namespace::host_id(mappings, self.uid) else { return };
        match &self.stdio {
            Stdio::Fds { stdin, stdout, stderr } => {
                terminal::give_pipes_to([stdin, stdout, stderr].map(AsRawFd::as_raw_fd), owner);
            }
            Stdio::Inherit => terminal::give_pipes_to([0, 1, 2], owner),
            Stdio::Terminal => (),
        }
    }

    /// The descriptors that the new process needs, beside the preserved ones.
    pub(crate) fn fds(&self) -> Vec<RawFd> {
        match &self.stdio {
            Stdio::Fds { stdin, stdout, stderr } => [stdin, stdout, stderr].map(AsRawFd::as_raw_fd).to_vec(),
            Stdio::Inherit | Stdio::Terminal => Vec::new(),
        }
    }
}

/// Of variables with one name the last counts, which getenv(3) would not find: it gives the first.
fn last_of_each(env: &[String]) -> Vec<String> {
    let name =
        |variable: &str| variable.split_once('=').map_or_else(|| variable.to_owned(), |(name, _)| name.to_owned());
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<String> = env.iter().rev().filter(|variable| seen.insert(name(variable))).cloned().collect();
    kept.reverse();
    kept
}

/// Descriptors below 3 would be written over while they are put in place.
fn own_stdio(stdio: Stdio) -> Result<Stdio, Failure> {
    let lift = |fd: OwnedFd| -> Result<OwnedFd, Failure> {
        if fd.as_raw_fd() >= 3 {
            return Ok(fd);
        }
        sys::duplicate_from(&fd, 3).at("duplicate", "descriptor")
    };
    Ok(match stdio {
        Stdio::Fds { stdin, stdout, stderr } => {
            Stdio::Fds { stdin: lift(stdin)?, stdout: lift(stdout)?, stderr: lift(stderr)? }
        }
        other => other,
    })
}

/// The descriptors to be preserved must be there: else their numbers go to files of the runtime.
pub(crate) fn check_preserved(count: u32) -> Result<(), Error> {
    for number in 3..3_u32.saturating_add(count) {
        if !sys::is_open(number as RawFd) {
            return Err(Error::invalid("preserve-fds", format!("descriptor {number} is not open")));
        }
    }
    Ok(())
}

/// `IOPRIO_CLASS_*`.
fn io_class(class: IOPriorityClass) -> u32 {
    match class {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    }
}

fn persona(personality: &LinuxPersonality) -> Result<u32, Error> {
    if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(Error::unsupported("linux.personality.flags", "the specification defines none"));
    }
    Ok(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}
