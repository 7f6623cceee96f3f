//! What a fresh clone does with its plan, up to the program.

use std::os::fd::{AsFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::ProcessPlan;
use crate::error::{Context, Failure};
use crate::handshake::{Go, ProcessEnd, Report};
use crate::options::Stdio;
use crate::path::Root;
use crate::procfs::ProcFs;
use crate::seccomp::Filter;
use crate::{sys, terminal, user_namespace};

impl ProcessPlan {
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

    /// Does what only the host's root may, to a process that is about to enter a user namespace.
    pub(crate) fn take_from_host(&self, proc: &ProcFs) -> Result<(), Failure> {
        self.set_oom_score(proc)?;
        self.rlimits.raise(0)
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
        let uid = self.uid;
        self.program.add_home(|| home_of(uid).unwrap_or_else(|| "/".to_owned()));
        if let (Some(filter), false) = (&self.filter, self.no_new_privs) {
            // Without no_new_privs this needs CAP_SYS_ADMIN, which is about to go.
            install(filter, caller)?;
        }
        self.set_credentials(proc)?;
        if self.find_program {
            self.program.find()?;
        }
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
        self.rlimits.set()?;
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
            match written {
                Err(failure) if profile != "unconfined" => {
                    let note = format!("process.apparmorProfile: is {profile:?} loaded? See apparmor_parser(8)");
                    return Err(failure.note(note));
                }
                _ => (),
            }
        }
        match &self.selinux {
            Some(label) => proc.write("self/attr/exec", label),
            None => Ok(()),
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
        match &self.filter {
            Some(filter) if self.no_new_privs && !filter.asks() => match filter.install() {
                Ok(_) => self.program.execute(),
                Err(failure) => failure,
            },
            _ => self.program.execute(),
        }
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
