//! The program that a process becomes: looked for as its user, then executed.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{FileStat, SFlag, stat};
use nix::unistd::{AccessFlags, faccessat};

use crate::error::{Error, Failure};
use crate::path::c_string;

/// Where a program without a slash is looked for when its environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is executed, and with what.
#[derive(Debug)]
pub(super) struct Program {
    args: Vec<CString>,
    env: Vec<CString>,
    search: Vec<PathBuf>,
    found: Option<PathBuf>,
}

impl Program {
    pub(super) fn plan(args: &[String], env: &[String]) -> Result<Program, Error> {
        let c_strings = |field: &str, strings: &[String]| {
            let converted = strings.iter().map(|string| CString::new(string.as_str()));
            converted.collect::<Result<Vec<_>, _>>().map_err(|_| Error::invalid(field, "it contains NUL"))
        };
        if args.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("process.args", "it must name a program"));
        }
        let path = env.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
        Ok(Program {
            args: c_strings("process.args", args)?,
            env: c_strings("process.env", env)?,
            search: path.split(':').map(|folder| PathBuf::from(if folder.is_empty() { "." } else { folder })).collect(),
            found: None,
        })
    }

    pub(super) fn env(&self) -> &[CString] {
        &self.env
    }

    /// Programs expect HOME. What it is if it is not given, or empty, says `home`.
    pub(super) fn add_home(&mut self, home: impl FnOnce() -> String) {
        match self.env.iter().position(|variable| variable.as_bytes().starts_with(b"HOME=")) {
            Some(at) if self.env[at].as_bytes() != b"HOME=" => return,
            Some(at) => drop(self.env.remove(at)),
            None => (),
        }
        self.env.extend(CString::new(format!("HOME={}", home())));
    }

    /// Finds what will be executed: what is missing is to be told by `create`. In the container's root, by the
    /// program's user, in its working directory. Usually this is one system call for each folder up to the right one.
    pub(super) fn find(&mut self) -> Result<(), Failure> {
        let name = self.name();
        self.found =
            if name.as_bytes().contains(&b'/') { self.check(Path::new(name))? } else { self.find_in_folders(name)? };
        Ok(())
    }

    /// `None` is for a filter that does not allow to ask: execve will tell.
    fn check(&self, path: &Path) -> Result<Option<PathBuf>, Failure> {
        let stat = match stat(path) {
            Err(errno) if is_missing(errno) || errno == Errno::EACCES => return Err(self.failure(path, errno)),
            Err(_) => return Ok(None),
            Ok(stat) => stat,
        };
        if is_program(&stat) && may_execute(path) {
            return Ok(Some(path.to_owned()));
        }
        Err(self.failure(path, Errno::EACCES))
    }

    fn find_in_folders(&self, name: &OsStr) -> Result<Option<PathBuf>, Failure> {
        let mut denied = None;
        for path in self.search.iter().map(|folder| folder.join(name)) {
            match stat(&path) {
                Err(errno) if is_missing(errno) || errno == Errno::EACCES => (),
                Err(_) => return Ok(None),
                Ok(stat) if !is_program(&stat) => (),
                Ok(_) if may_execute(&path) => return Ok(Some(path)),
                Ok(_) => denied = denied.or(Some(path)),
            }
        }
        Err(self.nowhere(denied))
    }

    /// Becomes the program; returns only with the reason why not.
    pub(super) fn execute(&self) -> Failure {
        let name = self.name();
        if let Some(path) = self.found.as_deref().or(name.as_bytes().contains(&b'/').then_some(Path::new(name))) {
            return self.failure(path, self.execve(path));
        }
        let mut denied = None;
        for path in self.search.iter().map(|folder| folder.join(name)) {
            match self.execve(&path) {
                Errno::EACCES if stat(&path).is_ok_and(|stat| is_program(&stat)) => denied = denied.or(Some(path)),
                errno if is_missing(errno) || errno == Errno::EACCES => (),
                errno => return self.failure(&path, errno),
            }
        }
        self.nowhere(denied)
    }

    fn name(&self) -> &OsStr {
        OsStr::from_bytes(self.args[0].as_bytes())
    }

    fn execve(&self, path: &Path) -> Errno {
        match c_string(path).and_then(|path| nix::unistd::execve(&path, &self.args, &self.env)) {
            Ok(never) => match never {},
            Err(errno) => errno,
        }
    }

    /// In none of the folders is one that may be executed.
    fn nowhere(&self, denied: Option<PathBuf>) -> Failure {
        match denied {
            Some(path) => self.failure(&path, Errno::EACCES),
            None => self.not_executed(Errno::ENOENT, "executable file not found in $PATH"),
        }
    }

    /// What callers of runc look for in the text begins with small letters.
    fn failure(&self, path: &Path, errno: Errno) -> Failure {
        let shown = path.display();
        match errno {
            Errno::ENOENT if path.exists() => {
                self.not_executed(errno, &format!("{shown}: its interpreter or loader does not exist"))
            }
            Errno::ENOENT => self.not_executed(errno, &format!("stat {shown}: no such file or directory")),
            Errno::EACCES if path.is_dir() => self.not_executed(errno, "permission denied: it is a directory"),
            Errno::EACCES => self.not_executed(errno, "permission denied"),
            Errno::ENOEXEC => self.not_executed(errno, "exec format error"),
            errno if is_missing(errno) => self.not_executed(errno, &format!("stat {shown}: {}", errno.desc())),
            errno => self.not_executed(errno, errno.desc()),
        }
    }

    fn not_executed(&self, errno: Errno, note: &str) -> Failure {
        Failure::new(Failure::EXEC, format!("{:?}", self.args[0].to_string_lossy()), errno).note(note)
    }
}

/// Whether there is nothing by that path.
fn is_missing(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG)
}

/// Whether a file is one that somebody may execute.
fn is_program(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG && stat.st_mode & 0o111 != 0
}

/// Whether the caller may, which mounts and access control lists have a say in.
fn may_execute(path: &Path) -> bool {
    faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS) != Err(Errno::EACCES)
}
