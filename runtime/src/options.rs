//! What callers give to create and exec, and what they get back.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::unistd::Pid;
use oci_spec::runtime::{Process, Spec};

/// What [`crate::Runtime::create`] makes a container from.
#[derive(Debug)]
pub struct CreateOptions {
    /// The container's name: letters, digits and `_+-.`, unique below the runtime's root.
    pub id: String,
    /// The bundle: the folder that relative paths of the spec start from.
    pub bundle: PathBuf,
    /// The container's configuration; `None` reads `config.json` of the bundle.
    pub spec: Option<Spec>,
    /// Where the root filesystem comes from.
    pub rootfs: Rootfs,
    /// What the process gets as descriptors 0, 1 and 2. With `process.terminal` this is [`Stdio::Terminal`]
    /// whatever is given here.
    pub stdio: Stdio,
    /// A listening unix socket that gets the terminal's master, as runc sends it; without it the master
    /// comes back in [`Created::terminal`].
    pub console_socket: Option<PathBuf>,
    /// A file that gets the process id in decimal. It appears whole.
    pub pid_file: Option<PathBuf>,
    /// How many descriptors from 3 on are sockets that the process listens on. It keeps them, and is told by
    /// `LISTEN_FDS` and `LISTEN_PID=1`, as runc tells it; sd_listen_fds(3).
    pub listen_fds: u32,
    /// How many descriptors the process keeps from there on.
    pub preserve_fds: u32,
    /// Have systemd make the cgroup, as a scope: `linux.cgroupsPath` has the form `slice:prefix:name` then. Refused where
    /// systemd does not run.
    pub systemd_cgroup: bool,
    /// Whether a container whose configuration names no cgroup goes without those that the caller may not make;
    /// `None` lets an ordinary user's and a nested user namespace's.
    pub rootless: Option<bool>,
    /// Keep the caller's session keyring instead of joining a new one.
    pub no_new_keyring: bool,
    /// A listening unix socket that gets a pidfd of the process, with the text `standard`, as runc sends it.
    pub pidfd_socket: Option<PathBuf>,
    /// Move the root filesystem over `/` and chroot, where `pivot_root` cannot be: `/` is the initial ramfs.
    /// A process that may chroot can get out of that.
    pub no_pivot: bool,
    /// Nobody will hold the master of a terminal: refuse one without a console socket.
    pub detached: bool,
    /// Leave a program that cannot be executed to [`crate::Runtime::start`], which finds out in any case. Else create
    /// looks for it, as runc does.
    pub program_by_start: bool,
}

impl CreateOptions {
    /// A container of this name from this bundle, with the caller's stdio.
    pub fn new(id: impl Into<String>, bundle: impl Into<PathBuf>) -> CreateOptions {
        CreateOptions {
            id: id.into(),
            bundle: bundle.into(),
            spec: None,
            rootfs: Rootfs::FromSpec,
            stdio: Stdio::Inherit,
            console_socket: None,
            pid_file: None,
            listen_fds: 0,
            preserve_fds: 0,
            systemd_cgroup: false,
            rootless: None,
            no_new_keyring: false,
            pidfd_socket: None,
            no_pivot: false,
            detached: false,
            program_by_start: false,
        }
    }
}

/// Where a container's root filesystem comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Rootfs {
    /// The folder `root.path` of the spec.
    #[default]
    FromSpec,
    /// An overlay, mounted detached and moved onto `root.path` of the spec inside the container's own mount
    /// namespace: it never appears in the host's.
    Overlay {
        /// Read-only layers, the topmost first; at least one.
        lower: Vec<PathBuf>,
        /// The writable layer; without it the root filesystem is read-only.
        upper: Option<PathBuf>,
        /// The overlay's scratch folder, on the filesystem of `upper`, given when `upper` is.
        work: Option<PathBuf>,
    },
}

/// What a process gets as its standard descriptors.
#[derive(Debug, Default)]
pub enum Stdio {
    /// The caller's.
    #[default]
    Inherit,
    /// These.
    Fds {
        /// Descriptor 0.
        stdin: OwnedFd,
        /// Descriptor 1.
        stdout: OwnedFd,
        /// Descriptor 2.
        stderr: OwnedFd,
    },
    /// A new pseudo terminal from the container's own devpts.
    Terminal,
}

/// A container that was created and waits for [`crate::Runtime::start`].
#[derive(Debug)]
pub struct Created {
    /// The container's process, as the caller sees it; the caller's child.
    pub pid: Pid,
    /// Stays this process whatever becomes of the number; readable when the process ended.
    pub pidfd: OwnedFd,
    /// The terminal's master, when there is a terminal and no console socket.
    pub terminal: Option<OwnedFd>,
    /// Whether all processes of the container die with this one.
    pub own_pid_namespace: bool,
}

/// What [`crate::Runtime::exec`] starts in a container that runs.
#[derive(Debug)]
pub struct ExecOptions {
    /// The process, whole: nothing is taken over from the container's own process.
    pub process: Process,
    /// What the process gets as descriptors 0, 1 and 2; see [`CreateOptions::stdio`].
    pub stdio: Stdio,
    /// See [`CreateOptions::console_socket`].
    pub console_socket: Option<PathBuf>,
    /// See [`CreateOptions::pid_file`].
    pub pid_file: Option<PathBuf>,
    /// A cgroup below the container's for the process; it must exist. `/` is the container's own, and no other
    /// is tried then.
    pub cgroup: Option<PathBuf>,
    /// The same for single controllers of version 1, by name.
    pub controller_cgroups: Vec<(String, PathBuf)>,
    /// How many descriptors from 3 on the process keeps.
    pub preserve_fds: u32,
    /// See [`CreateOptions::no_new_keyring`].
    pub no_new_keyring: bool,
    /// See [`CreateOptions::pidfd_socket`]; the text is `setns`.
    pub pidfd_socket: Option<PathBuf>,
    /// Go into a paused container too: the program runs, and the call comes back, when it is resumed.
    pub ignore_paused: bool,
    /// The terminal passes on what the program writes as it is: without a carriage return at the end of each line
    /// (`ONLCR` of termios(3)). For a caller whose own terminal will add it.
    pub raw_output: bool,
}

impl ExecOptions {
    /// This process with the caller's stdio.
    pub fn new(process: Process) -> ExecOptions {
        ExecOptions {
            process,
            stdio: Stdio::Inherit,
            console_socket: None,
            pid_file: None,
            cgroup: None,
            controller_cgroups: Vec::new(),
            preserve_fds: 0,
            no_new_keyring: false,
            pidfd_socket: None,
            ignore_paused: false,
            raw_output: false,
        }
    }
}

/// A process that [`crate::Runtime::exec`] started: its program runs.
#[derive(Debug)]
pub struct Started {
    /// The process, as the caller sees it; the caller's child.
    pub pid: Pid,
    /// Stays this process whatever becomes of the number; readable when the process ended.
    pub pidfd: OwnedFd,
    /// The terminal's master, when there is a terminal and no console socket.
    pub terminal: Option<OwnedFd>,
}
