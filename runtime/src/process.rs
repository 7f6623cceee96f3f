//! What a container's first process and those of `exec` have in common: from a fresh clone inside the
//! namespaces to the execution of the program.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_spec::runtime::{
    IOPriorityClass, LinuxIdMapping, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain, LinuxSeccomp,
    PosixRlimitType, Process,
};

use crate::capabilities::CapabilitySets;
use crate::error::{Context, Error, Failure};
use crate::handshake::{Go, ProcessEnd, Report};
use crate::options::Stdio;
use crate::path::{Root, c_string};
use crate::procfs::ProcFs;
use crate::schedule::{self, MemoryPolicy};
use crate::seccomp::Filter;
use crate::sys::{self, SchedAttr};
use crate::terminal;
use crate::user_namespace;
use crate::validate;

/// All that a new process needs to become the program, prepared and checked by its parent.
#[derive(Debug)]
pub(crate) struct ProcessPlan {
    args: Vec<CString>,
    env: Vec<CString>,
    search: Vec<PathBuf>,
    cwd: PathBuf,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    umask: u32,
    capabilities: CapabilitySets,
    no_new_privs: bool,
    rlimits: Vec<(u32, u64, u64)>,
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

/// Where a program without a slash is looked for when its environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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
}

impl ProcessPlan {
    /// Prepares a process; `warn` is told which capabilities are not there to give.
    pub(crate) fn new(request: ProcessRequest<'_>, warn: fn(&str)) -> Result<ProcessPlan, Error> {
        let process = request.process;
        let c_strings = |field: &str, strings: &[String]| {
            let convert = |string: &String| CString::new(string.as_str());
            strings
                .iter()
                .map(convert)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| Error::invalid(field, "it contains NUL"))
        };
        let args = process.args().as_deref().unwrap_or_default();
        if args.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("process.args", "it must name a program"));
        }
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
        let path = env.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
        let (capabilities, missing) = CapabilitySets::plan(process.capabilities().as_ref());
        if !missing.is_empty() {
            warn(&format!("capabilities that this host has not to give are left out: {}", missing.join(" ")));
        }
        let terminal = process.terminal().unwrap_or(false);
        let user = process.user();
        let plan = ProcessPlan {
            args: c_strings("process.args", args)?,
            env: c_strings("process.env", &env)?,
            search: path.split(':').map(|folder| PathBuf::from(if folder.is_empty() { "." } else { folder })).collect(),
            cwd: process.cwd().clone(),
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask().unwrap_or(0o022) & 0o777,
            capabilities,
            no_new_privs: process.no_new_privileges().unwrap_or(false),
            rlimits: rlimits(process)?,
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

    fn check_lsm(&self) -> Result<(), Error> {
        let missing = |path: &str| !Path::new(path).exists();
        if self.apparmor.as_deref().is_some_and(|profile| profile != "unconfined")
            && missing("/sys/module/apparmor/parameters/enabled")
        {
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

    /// The first steps in a fresh clone: nothing of the parent is kept but what was said to be. An `open` process
    /// is one that its user may look into.
    pub(crate) fn begin(&self, mut keep: Vec<RawFd>, open: bool) -> Result<(), Failure> {
        sys::reset_signals();
        if !open {
            // Nobody in namespaces that are joined may look into this process before it is done (CVE-2016-9962).
            sys::set_dumpable(false).at("protect", "the new process")?;
        }
        // What else the parent has open must neither be kept alive by this process while it waits for start,
        // nor be found through it (CVE-2024-21626).
        keep.extend(self.fds());
        sys::close_all_but(3 + self.preserve_fds, keep).at("close", "descriptors")
    }

    /// Sets the score by which the kernel picks what to kill for memory. Before the user changes.
    pub(crate) fn set_oom_score(&self, proc: &ProcFs) -> Result<(), Failure> {
        match self.oom_score_adj {
            Some(score) => proc.write("self/oom_score_adj", &score.to_string()),
            None => Ok(()),
        }
    }

    /// Makes the terminal, if there is to be one, and returns its master.
    pub(crate) fn open_terminal(&mut self, root: &Root, console: bool) -> Result<Option<OwnedFd>, Failure> {
        if !self.wants_terminal() {
            return Ok(None);
        }
        let pty = terminal::open(root, self.console_size, self.uid)?;
        if console {
            terminal::mount_console(root, &pty.slave)?;
        }
        let clone = || pty.slave.try_clone().at("duplicate", "terminal");
        self.stdio = Stdio::Fds { stdin: clone()?, stdout: clone()?, stderr: clone()? };
        nix::unistd::setsid().at("setsid", "")?;
        sys::set_controlling_terminal(&pty.slave).at("take", "the controlling terminal")?;
        Ok(Some(pty.master))
    }

    /// Session, stdio, limits, labels, and last the credentials: from here on the process has no more rights
    /// than the program will have.
    ///
    /// `caller` gets the descriptor of a filter that asks somebody. Every system call after that filter may wait
    /// for an answer, so it is installed before the process reports that it is ready, whatever its privileges.
    pub(crate) fn settle(&mut self, proc: &ProcFs, caller: &ProcessEnd) -> Result<(), Failure> {
        self.set_session()?;
        self.set_stdio()?;
        // Before any filter: a profile need not allow it. What is opened later is marked when it is opened.
        sys::close_on_exec_from(3 + self.preserve_fds).at("close", "descriptors")?;
        self.set_limits()?;
        self.set_labels(proc)?;
        self.add_home();
        if let (Some(filter), false) = (&self.filter, self.no_new_privs) {
            // Without no_new_privs this needs CAP_SYS_ADMIN, which is about to go.
            install(filter, caller)?;
        }
        self.set_credentials(proc)?;
        match &self.filter {
            Some(filter) if self.no_new_privs && filter.asks() => install(filter, caller),
            _ => Ok(()),
        }
    }

    fn set_session(&self) -> Result<(), Failure> {
        match nix::unistd::setsid() {
            // With a terminal it happened before.
            Ok(_) | Err(Errno::EPERM) => (),
            Err(errno) => return Err(Failure::new("setsid", "", errno)),
        }
        match self.keyring.as_deref().map(sys::join_session_keyring) {
            // A kernel without keyrings has none to share either.
            None | Some(Ok(()) | Err(Errno::ENOSYS)) => Ok(()),
            Some(Err(errno)) => Err(Failure::new("join", "session keyring", errno)),
        }
    }

    fn set_stdio(&mut self) -> Result<(), Failure> {
        if let Stdio::Fds { stdin, stdout, stderr } = std::mem::take(&mut self.stdio) {
            for (fd, number) in [stdin, stdout, stderr].into_iter().zip(0..) {
                sys::dup_to(&fd, number).at("set", format!("descriptor {number}"))?;
            }
        }
        if self.uid != 0 {
            // A program that is not root opens /dev/stdout anew, and needs to own it for that.
            terminal::give_stdio_to(self.uid);
        }
        Ok(())
    }

    fn set_limits(&self) -> Result<(), Failure> {
        for (resource, soft, hard) in &self.rlimits {
            sys::set_rlimit(*resource, *soft, *hard).at("set", format!("rlimit {resource} to {soft}:{hard}"))?;
        }
        if let Some((class, level)) = self.io_priority {
            sys::set_io_priority(class, level).at("set", "I/O priority")?;
        }
        if let Some(scheduler) = &self.scheduler {
            sys::set_scheduler(scheduler).at("set", "process.scheduler")?;
        }
        if let Some(policy) = &self.memory_policy {
            policy.apply()?;
        }
        if let Some(persona) = self.personality {
            sys::set_personality(persona).at("set", "personality")?;
        }
        Ok(())
    }

    fn set_labels(&self, proc: &ProcFs) -> Result<(), Failure> {
        if let Some(profile) = &self.apparmor {
            let label = format!("exec {profile}");
            // The second is where kernels before 5.8 have it.
            let written =
                proc.write("self/attr/apparmor/exec", &label).or_else(|_| proc.write("self/attr/exec", &label));
            if profile != "unconfined" {
                written?;
            }
        }
        match &self.selinux {
            Some(label) => proc.write("self/attr/exec", label),
            None => Ok(()),
        }
    }

    /// Programs expect HOME; the container's own list of users says what it is.
    fn add_home(&mut self) {
        let given = self.env.iter().any(|variable| variable.as_bytes().starts_with(b"HOME="));
        if !given {
            let home = home_of(self.uid).unwrap_or_else(|| "/".to_owned());
            self.env.extend(CString::new(format!("HOME={home}")));
        }
    }

    fn set_credentials(&self, proc: &ProcFs) -> Result<(), Failure> {
        nix::sys::stat::umask(Mode::from_bits_truncate(self.umask));
        let entered = self.enter_cwd();
        self.capabilities.drop_bounding()?;
        sys::set_keep_capabilities(true).at("keep", "capabilities")?;
        user_namespace::set_groups(proc, &self.groups)?;
        sys::set_gid(self.gid).at("set group", self.gid)?;
        sys::set_uid(self.uid).at("set user", self.uid)?;
        // Root may be kept out of a folder that the user may enter (a network filesystem).
        match entered {
            Err(failure) if failure.errno == Errno::EACCES as i32 => self.enter_cwd()?,
            entered => entered?,
        }
        self.capabilities.apply()?;
        sys::set_keep_capabilities(false).at("keep", "capabilities")?;
        if self.no_new_privs {
            sys::set_no_new_privs().at("set", "no_new_privs")?;
        }
        Ok(())
    }

    fn enter_cwd(&self) -> Result<(), Failure> {
        nix::unistd::chdir(&self.cwd).at("chdir to", self.cwd.display())?;
        // A leaked descriptor can be a way out of the root for the working directory (CVE-2024-21626).
        match sys::raw_getcwd().at("getcwd", "")? {
            path if path.starts_with(b"/") => Ok(()),
            _ => Err(Failure::refused("chdir to", self.cwd.display(), "it is outside of the container's root")),
        }
    }

    /// Becomes the program; returns only with the reason why not.
    pub(crate) fn execute(&self) -> Failure {
        if let (Some(filter), true) = (&self.filter, self.no_new_privs)
            && !filter.asks()
            && let Err(failure) = filter.install()
        {
            return failure;
        }
        let name = self.args[0].as_bytes();
        if name.contains(&b'/') {
            let path = Path::new(std::ffi::OsStr::from_bytes(name));
            let errno = self.execve(path);
            return self.failure(path, errno);
        }
        let mut denied = None;
        for folder in &self.search {
            let path = folder.join(std::ffi::OsStr::from_bytes(name));
            match self.execve(&path) {
                Errno::ENOENT | Errno::ENOTDIR => (),
                Errno::EACCES => denied = denied.or(Some(path)),
                errno => return self.failure(&path, errno),
            }
        }
        match denied {
            Some(path) => self.failure(&path, Errno::EACCES),
            None => self.not_executed(Errno::ENOENT, "executable file not found in $PATH"),
        }
    }

    fn execve(&self, path: &Path) -> Errno {
        match c_string(path).and_then(|path| nix::unistd::execve(&path, &self.args, &self.env)) {
            Ok(never) => match never {},
            Err(errno) => errno,
        }
    }

    fn failure(&self, path: &Path, errno: Errno) -> Failure {
        let shown = path.display();
        match errno {
            Errno::ENOENT if std::fs::metadata(path).is_err() => {
                self.not_executed(errno, &format!("stat {shown}: no such file or directory"))
            }
            Errno::ENOENT => self.not_executed(errno, &format!("{shown}: its interpreter or loader does not exist")),
            Errno::EACCES if path.is_dir() => self.not_executed(errno, "is a directory"),
            Errno::EACCES => self.not_executed(errno, "permission denied"),
            Errno::ENOEXEC => self.not_executed(errno, "exec format error"),
            errno => self.not_executed(errno, errno.desc()),
        }
    }

    fn not_executed(&self, errno: Errno, note: &str) -> Failure {
        Failure::new(Failure::EXEC, format!("{:?}", self.args[0].to_string_lossy()), errno).note(note)
    }
}

/// Installs a filter and waits until who is asked by it, if anybody, knows.
fn install(filter: &Filter, caller: &ProcessEnd) -> Result<(), Failure> {
    match filter.install()? {
        Some(listener) => {
            caller.report(&Report::Listener, Some(listener.as_fd()))?;
            drop(listener);
            caller.wait_for(Go::Listened)
        }
        None => Ok(()),
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

fn rlimits(process: &Process) -> Result<Vec<(u32, u64, u64)>, Error> {
    let mut limits: Vec<(u32, u64, u64)> = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let resource = rlimit_number(limit.typ());
        if limits.iter().any(|(known, ..)| *known == resource) {
            return Err(Error::invalid("process.rlimits", format!("{} is there twice", limit.typ())));
        }
        limits.push((resource, limit.soft(), limit.hard()));
    }
    Ok(limits)
}

fn rlimit_number(limit: PosixRlimitType) -> u32 {
    let number = match limit {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    number as u32
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

/// The home folder of a user in /etc/passwd of the container. The file is the image's: it may be missing, no
/// file, or endless (CVE-2025-4437), so only the first mebibyte of a regular one is looked at.
fn home_of(uid: u32) -> Option<String> {
    use std::io::Read;
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let file = std::fs::File::from(nix::fcntl::open("/etc/passwd", flags, Mode::empty()).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(1 << 20).read_to_end(&mut bytes).ok()?;
    let home = home_in(&String::from_utf8_lossy(&bytes), uid)?;
    (!home.is_empty()).then_some(home)
}

fn home_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.len() >= 6 && fields[2].parse() == Ok(uid)).then(|| fields[5].to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken:x:7\nweb:x:33:33::/var/www:/bin/false\n";
        assert_eq!(home_in(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(home_in(passwd, 33).as_deref(), Some("/var/www"));
        assert_eq!(home_in(passwd, 7), None);
    }
}
