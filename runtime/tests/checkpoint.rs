//! Containers written to files by CRIU and made anew from them: their processes go on where they were.
//!
//! CRIU has to know the kernel. Where `criu check` says that it does not, these tests say SKIP;
//! `ORLOP_TEST_CRIU` names another program than the `criu` that is installed.

mod common;

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Container, Ran, can_run, wait_until};
use serde_json::json;

/// The program, where it works here.
fn criu() -> Option<String> {
    let program = std::env::var("ORLOP_TEST_CRIU").unwrap_or_else(|_| "criu".to_owned());
    match Command::new(&program).arg("check").output() {
        Err(error) => println!("SKIP: {program}: {error}; install criu"),
        Ok(checked) if !checked.status.success() => {
            let why = String::from_utf8_lossy(&checked.stderr).trim().replace('\n', "; ");
            println!("SKIP: {program} does not work with this kernel: {why}");
        }
        Ok(_) if can_run() => return Some(program),
        Ok(_) => (),
    }
    None
}

/// A container that counts in memory, and says how far it is.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i >>/tmp/count; sleep 0.02; done";

struct Subject {
    container: Container,
    criu: String,
}

impl Subject {
    fn new(script: &str) -> Option<Subject> {
        Some(Subject { criu: criu()?, container: Container::new(script) })
    }

    fn here(&self, name: &str) -> PathBuf {
        self.container.folder.path().join(name)
    }

    fn command(&self, verb: &str, flags: &[&str]) -> Command {
        let mut command = self.container.command(&["--criu", &self.criu, verb]);
        command.arg("--image-path").arg(self.here("images")).args(flags).arg(&self.container.id);
        command.current_dir(self.container.folder.path());
        command
    }

    /// Runs to the end; output goes to the file `after`, which a restored container holds open.
    fn call(&self, verb: &str, flags: &[&str]) -> Ran {
        let errors = self.here("errors");
        let mut command = self.command(verb, flags);
        command.stdout(File::create(self.here("after")).unwrap()).stderr(File::create(&errors).unwrap());
        let code = command.status().unwrap().code();
        let mut stderr = std::fs::read_to_string(errors).unwrap();
        if code != Some(0) {
            // What the error says is taken from there; this is for whoever finds that a test has failed.
            let log = if verb == "restore" { "restore.log" } else { "dump.log" };
            stderr += &std::fs::read_to_string(self.here("images").join(log)).unwrap_or_default();
        }
        Ran { code, stdout: String::new(), stderr }
    }

    fn restore(&self) {
        self.call("restore", &["--detach"]).ok();
    }

    fn counted(&self) -> Vec<u32> {
        let text = std::fs::read_to_string(self.container.rootfs().join("tmp/count")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Waits until it counts on.
    fn counts_on(&self) {
        let before = self.counted().len();
        wait_until("counting", || self.counted().len() > before + 2);
    }
}

#[test]
fn a_container_goes_on_counting() {
    let Some(subject) = Subject::new(COUNTER) else { return };
    let container = &subject.container;
    container.run_detached().ok();
    subject.counts_on();
    subject.call("checkpoint", &[]).ok();
    assert!(container.call(&["state", &container.id]).error().contains("does not exist"));
    assert_eq!(container.left_behind(), Vec::<String>::new());
    subject.restore();
    assert_eq!(container.status(), "running");
    subject.counts_on();
    let counted = subject.counted();
    assert!(counted.is_sorted_by(|a, b| a + 1 == *b), "it went on where it was: {counted:?}");

    // It is like any other container.
    let pid = container.state()["pid"].as_i64().unwrap();
    assert_eq!(container.exec("kill -0 1 && hostname").ok(), "box\n");
    let pids = container.call(&["ps", "-f", "json", &container.id]).ok();
    assert!(pids.contains(&pid.to_string()), "{pid} is in its cgroup: {pids}");
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(cgroup.contains(&container.id), "{cgroup}");
    container.call(&["pause", &container.id]).ok();
    assert_eq!(container.status(), "paused");
    container.call(&["resume", &container.id]).ok();
    container.call(&["update", "--pids-limit", "50", &container.id]).ok();
    assert!(container.start().error().contains("it is running"));
    assert!(container.call(&["delete", &container.id]).error().contains("it is running"));

    // And a second time.
    subject.call("checkpoint", &["--work-path", "work"]).ok();
    assert!(subject.here("work/dump.log").exists());
    subject.restore();
    subject.counts_on();
    assert!(subject.counted().is_sorted_by(|a, b| a + 1 == *b));
    container.call(&["kill", &container.id, "KILL"]).ok();
    wait_until("end", || container.status() == "stopped");
    container.call(&["delete", &container.id]).ok();
}

#[test]
fn a_restore_in_the_foreground_ends_as_the_container_does() {
    let Some(subject) = Subject::new("while ! test -e /tmp/go; do sleep 0.02; done; echo done; exit 7") else { return };
    let container = &subject.container;
    container.run_detached().ok();
    subject.call("checkpoint", &["--leave-running"]).ok();
    assert_eq!(container.status(), "running");
    container.call(&["delete", "--force", &container.id]).ok();
    let mut restore = subject.command("restore", &["--pid-file", "pid"]);
    let errors = subject.here("errors");
    let output = File::create(subject.here("after")).unwrap();
    let mut running = restore.stdout(output).stderr(File::create(&errors).unwrap()).spawn().unwrap();
    wait_until("restore", || subject.here("pid").exists());
    std::fs::write(container.rootfs().join("tmp/go"), "").unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(7), "{}", std::fs::read_to_string(errors).unwrap());
    assert_eq!(container.left_behind(), Vec::<String>::new());
    // What it wrote to was a file of the host, and is the one that restore was given.
    assert_eq!(std::fs::read_to_string(subject.here("after")).unwrap(), "done\n");
    assert_eq!(container.output(), "");
}

#[test]
fn what_cannot_be_checkpointed_or_restored() {
    let Some(subject) = Subject::new(COUNTER) else { return };
    let container = &subject.container;
    container.write_config();
    assert!(subject.call("checkpoint", &[]).error().contains("does not exist"));
    let error = subject.call("restore", &["-d"]).error();
    assert!(error.contains("descriptors.json") && error.contains("No such file"), "{error}");
    assert_eq!(container.left_behind(), Vec::<String>::new());
    container.create().ok();
    assert!(subject.call("checkpoint", &[]).error().contains("it is created"));
    container.start().ok();
    subject.counts_on();
    assert!(subject.call("restore", &["-d"]).error().contains("already exists"));
    for flags in [&["--parent-path", "/tmp"][..], &["--parent-path", "none"]] {
        assert!(subject.call("checkpoint", flags).error().contains("parent-path"));
    }
    let mut missing = container.command(&["--criu", "/no/such/criu", "checkpoint", &container.id]);
    missing.current_dir(container.folder.path());
    let error = Ran::from(missing.output().unwrap()).error();
    assert!(error.contains("/no/such/criu is not installed: install the package criu"), "{error}");
    // It goes on after each.
    subject.counts_on();
    subject.call("checkpoint", &[]).ok();
    // Files that are none: the error says where CRIU says why.
    for entry in std::fs::read_dir(subject.here("images")).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("core-") {
            std::fs::write(entry.path(), "nonsense").unwrap();
        }
    }
    let error = subject.call("restore", &["-d"]).error();
    assert!(error.contains("restore.log"), "{error}");
    assert_eq!(container.left_behind(), Vec::<String>::new());
}

/// As that of an image with systemd-resolved, where nothing but the link is there.
#[test]
fn a_mount_behind_a_link_that_leads_to_what_is_missing() {
    let Some(mut subject) = Subject::new(COUNTER) else { return };
    let source = subject.here("resolv.conf");
    std::fs::write(&source, "nameserver 192.0.2.1\n").unwrap();
    let mount = json!({"destination": "/etc/resolv.conf", "source": source, "options": ["bind", "ro"]});
    subject.container = subject.container.add_mount(mount);
    let container = &subject.container;
    let rootfs = container.rootfs();
    std::fs::create_dir_all(rootfs.join("etc")).unwrap();
    symlink("../run/resolve/stub-resolv.conf", rootfs.join("etc/resolv.conf")).unwrap();
    container.run_detached().ok();
    subject.counts_on();
    subject.call("checkpoint", &[]).ok();
    // A new root filesystem has not what the first create made for the mount.
    std::fs::remove_dir_all(rootfs.join("run/resolve")).unwrap();
    subject.restore();
    subject.counts_on();
    assert_eq!(container.exec("cat /etc/resolv.conf").ok(), "nameserver 192.0.2.1\n");
}

/// Whatever restore had made when it was killed, delete removes it.
#[test]
fn a_restore_that_is_killed_can_be_cleaned_up() {
    let Some(subject) = Subject::new(COUNTER) else { return };
    let container = &subject.container;
    container.run_detached().ok();
    subject.counts_on();
    subject.call("checkpoint", &[]).ok();
    let log = subject.here("images/restore.log");
    let logged = |bytes: u64| std::fs::metadata(&log).is_ok_and(|meta| meta.len() >= bytes);
    for bytes in [0, 1, 2000, 5000, 8000, 10_000, 12_000, 14_000] {
        let _ = std::fs::remove_file(&log);
        let mut restore = subject.command("restore", &["--detach"]);
        let mut running = restore.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let state = container.root().join(&container.id).join("state.json");
        // One that was quick has ended by itself, which is as good.
        wait_until("a while", || state.exists() && (bytes == 0 || logged(bytes)) || running_ended(&running));
        let _ = running.kill();
        running.wait().unwrap();
        container.call(&["delete", "--force", &container.id]).ok();
        wait_until("nothing is left", || container.left_behind().is_empty() && !has_criu(&subject.here("images")));
    }
    subject.restore();
    subject.counts_on();
}

fn running_ended(child: &std::process::Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with('Z'))
}

/// Whether a process works in this folder, as CRIU does.
fn has_criu(folder: &Path) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut folders = processes.filter_map(|entry| std::fs::read_link(entry.path().join("cwd")).ok());
    folders.any(|cwd| cwd == folder)
}

/// The files are of the form that runc has.
#[test]
fn a_container_of_runc_goes_on() {
    let Some(subject) = Subject::new(COUNTER) else { return };
    if Command::new("runc").arg("--version").output().is_err() {
        return println!("SKIP: runc is not installed");
    }
    let container = &subject.container;
    container.write_config();
    let root = subject.here("runc");
    let runc = |args: &[&str]| {
        let mut command = Command::new("runc");
        command.arg("--root").arg(&root).arg("--criu").arg(&subject.criu).args(args).arg(&container.id);
        command.current_dir(container.folder.path()).stdin(Stdio::null()).stdout(Stdio::null());
        let errors = subject.here("errors");
        let status = command.stderr(File::create(&errors).unwrap()).status().unwrap();
        (status.success(), std::fs::read_to_string(errors).unwrap())
    };
    let mut run = Command::new("runc");
    run.arg("--root").arg(&root).args(["run", "--detach", &container.id]).current_dir(container.folder.path());
    assert!(run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    subject.counts_on();
    let (dumped, why) = runc(&["checkpoint", "--image-path", "images"]);
    if !dumped {
        runc(&["delete", "-f"]);
        // Which leaves what is above the container's group.
        let _ = std::fs::remove_dir("/sys/fs/cgroup/systemd/orlop");
        return println!("SKIP: runc cannot checkpoint here: {why}");
    }
    subject.restore();
    subject.counts_on();
    assert!(subject.counted().is_sorted_by(|a, b| a + 1 == *b));
}
