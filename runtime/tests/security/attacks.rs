//! The programs of the attackers: this test program itself, mounted into the container.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::ptrace;
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::json;

use crate::common::Container;

const NAME: &str = "ORLOP_ATTACK";

/// Whether the attackers can run in a container without libraries.
pub(crate) fn can_attack() -> bool {
    let fits = cfg!(target_env = "musl") || cfg!(target_feature = "crt-static");
    if !fits {
        println!("SKIP: the test program is not static; build for a musl target");
    }
    fits
}

/// Puts the attackers into a container, at /attack.
pub(crate) fn armed(container: Container) -> Container {
    let program = std::env::current_exe().expect("program");
    container.add_mount(json!({"destination": "/attack", "source": program, "options": ["bind", "ro"]}))
}

/// The line of shell that runs an attacker; what it says begins with `attack: `.
pub(crate) fn line(name: &str) -> String {
    format!("{NAME}={name} /attack attacks::entry --exact --nocapture --test-threads=1")
}

/// What an attacker said.
pub(crate) fn said(output: &str) -> Vec<String> {
    output.lines().filter_map(|line| line.split_once("attack: ")).map(|(_, said)| said.to_owned()).collect()
}

/// No test: where the attackers begin.
#[test]
fn entry() {
    match std::env::var(NAME).as_deref() {
        Ok("write-exe") => write_exe(),
        Ok("trace") => trace(),
        Ok("calls") => calls(),
        Ok("x32") => x32(),
        Ok(other) => panic!("no attack {other}"),
        Err(_) => (),
    }
}

fn processes() -> impl Iterator<Item = i32> {
    let names = std::fs::read_dir("/proc").expect("proc").flatten();
    names.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Holds the executable of every process that appears, and tries to write to it when the process has ended.
fn write_exe() {
    let mut held: Vec<(OwnedFd, u64)> = Vec::new();
    let (mut read_only, mut written) = (0, 0);
    while !Path::new("/stop").exists() {
        for pid in processes() {
            let Ok(exe) = open(format!("/proc/{pid}/exe").as_str(), OFlag::O_PATH, Mode::empty()) else { continue };
            let Ok(stat) = nix::sys::stat::fstat(&exe) else { continue };
            // What is executed from the container's own files is no prize.
            let own = [Path::new("/bin/busybox"), Path::new("/attack")];
            use std::os::unix::fs::MetadataExt;
            let is_own = own.iter().any(|path| std::fs::metadata(path).is_ok_and(|own| own.ino() == stat.st_ino));
            if !is_own && !held.iter().any(|(_, inode)| *inode == stat.st_ino) {
                println!("attack: holds a program of the host");
                held.push((exe, stat.st_ino));
            }
        }
        for (exe, _) in &held {
            let path = format!("/proc/self/fd/{}", exe.as_raw_fd());
            match open(path.as_str(), OFlag::O_WRONLY | OFlag::O_APPEND, Mode::empty()) {
                Ok(file) => {
                    written += 1;
                    let _ = nix::unistd::write(&file, b"x");
                }
                Err(nix::errno::Errno::EROFS) => read_only += 1,
                Err(_) => (),
            }
        }
    }
    println!("attack: held {} written {written} read-only {}", held.len(), read_only > 0);
}

/// Attaches once to every process that appears, and tells those that were still the runtime.
fn trace() {
    let own = std::process::id() as i32;
    let runtime = std::env::var("RUNTIME_NAME").expect("the runtime's name");
    let mut attached = vec![1, own];
    let (mut denied, mut caught) = (0, 0);
    println!("attack: ready");
    while !Path::new("/stop").exists() {
        for pid in processes().filter(|pid| !attached.contains(pid)).collect::<Vec<_>>() {
            let tracee = Pid::from_raw(pid);
            if ptrace::seize(tracee, ptrace::Options::empty()).is_err() {
                denied += 1;
                continue;
            }
            attached.push(pid);
            let stopped = ptrace::interrupt(tracee).and_then(|()| waitpid(tracee, Some(WaitPidFlag::__WALL)));
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if stopped.is_ok() && name.trim() == runtime {
                caught += 1;
            }
            let _ = ptrace::detach(tracee, None);
        }
    }
    println!("attack: caught {caught} attached {} denied {}", attached.len() - 2, denied > 0);
}

/// getpid(2) of the x32 ABI.
#[allow(unsafe_code)]
fn x32() {
    // SAFETY: plain numbers.
    let pid = unsafe { libc::syscall(0x4000_0000 + libc::SYS_getpid) };
    println!("attack: x32 {}", pid > 0);
}

/// System calls that default profiles refuse.
#[allow(unsafe_code)]
fn calls() {
    const AF_VSOCK: libc::c_int = 40;
    let null = std::ptr::null::<libc::c_void>();
    let result = |name: &str, result: libc::c_long| {
        let outcome = if result == -1 { nix::errno::Errno::last().to_string() } else { "allowed".to_owned() };
        println!("attack: {name} {outcome}");
    };
    // SAFETY: plain numbers and a null pointer, which the kernel refuses where it wants a structure.
    unsafe {
        result("AF_ALG", libc::syscall(libc::SYS_socket, libc::AF_ALG, libc::SOCK_SEQPACKET, 0));
        result("AF_VSOCK", libc::syscall(libc::SYS_socket, AF_VSOCK, libc::SOCK_STREAM, 0));
        result("AF_UNIX", libc::syscall(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0));
        result("io_uring_setup", libc::syscall(libc::SYS_io_uring_setup, 1, null));
        result("keyctl", libc::syscall(libc::SYS_keyctl, 0, -3, 0));
        result("unknown", libc::syscall(4000));
    }
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    for line in status.lines().filter(|line| line.starts_with("Seccomp:")) {
        println!("attack: {}", line.replace('\t', " "));
    }
}
