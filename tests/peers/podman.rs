//! podman without systemd and without a network.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use orlop_tests::command;

use crate::{AT_ONCE, Steps, at_once, left, memory_limit_of, told, told_on_terminal, wait_for};

pub(crate) const IMAGE: &str = "localhost/orlop-peers:latest";

/// podman with everything below one folder.
pub(crate) struct Podman {
    folder: PathBuf,
    runtime: PathBuf,
}

impl Podman {
    pub(crate) fn new(folder: &Path, runtime: &Path) -> Podman {
        Podman { folder: folder.to_path_buf(), runtime: runtime.to_path_buf() }
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("podman");
        for (flag, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(flag).arg(self.folder.join(name));
        }
        command.args(["--cgroup-manager=cgroupfs", "--storage-driver=overlay", "--events-backend=file", "--runtime"]);
        command.arg(&self.runtime).args(args);
        command
    }

    /// `podman run`; limits of resources can only go down without CAP_SYS_RESOURCE.
    fn run(&self, flags: &[&str], program: &[&str]) -> Command {
        let common =
            ["run", "--network=none", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--log-driver=k8s-file"];
        self.command(&[&common, flags, &[IMAGE], program].concat())
    }

    fn start(&self, flags: &[&str], program: &[&str]) -> Result<()> {
        let id = command::stdout(&mut self.run(&[&["--detach"], flags].concat(), program))?;
        left::note(&self.folder, id.trim())
    }

    fn ask(&self, name: &str, format: &str) -> Result<String> {
        Ok(command::stdout(&mut self.command(&["inspect", "--format", format, name]))?.trim().to_owned())
    }

    /// An image of busybox.
    pub(crate) fn import(&self) -> Result<()> {
        let archive = make_tree(&self.folder)?;
        command::stdout(&mut self.command(&["import", "--change", "ENV PATH=/bin", &archive, IMAGE]))?;
        Ok(())
    }

    /// Unmounts what podman keeps mounted for itself.
    pub(crate) fn end(&self) -> Result<()> {
        let _ = command::outcome(&mut self.command(&["rm", "--all", "--force", "--time", "0"]))?;
        for name in ["root/overlay", "root"] {
            let _ = command::outcome(Command::new("umount").arg(self.folder.join(name)))?;
        }
        Ok(())
    }

    fn memory_limit(&self, name: &str) -> Result<String> {
        let group = self.ask(name, "{{.State.CgroupPath}}")?;
        let group = group.trim_start_matches('/');
        memory_limit_of(group)
    }
}

/// An archive of a root filesystem with busybox.
pub(crate) fn make_tree(below: &Path) -> Result<String> {
    let tree = below.join("tree");
    for folder in ["bin", "tmp", "etc"] {
        std::fs::create_dir_all(tree.join(folder))?;
    }
    std::fs::copy("/bin/busybox", tree.join("bin/busybox")).context("Debian package busybox-static")?;
    for applet in ["sh", "echo", "sleep", "tty", "test", "touch", "true", "cat"] {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(applet))?;
    }
    let archive = below.join("tree.tar");
    command::stdout(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&archive).arg("."))?;
    Ok(archive.display().to_string())
}

/// A program that tells when it is ready, and what it does with SIGTERM.
pub(crate) const SERVICE: &str = "trap 'exit 3' TERM; echo logged; touch /tmp/ok; while :; do sleep 0.1; done";

pub(crate) fn steps(folder: &Path, runtime: &Path) -> Result<Steps> {
    let podman = Podman::new(folder, runtime);
    podman.import()?;
    let taken = take(&podman);
    podman.end()?;
    taken
}

fn take(podman: &Podman) -> Result<Steps> {
    let mut steps = Steps::new();
    let mut step = |name, outcome: Result<String>| outcome.map(|outcome| steps.push((name, outcome)));
    step("run", told(&mut podman.run(&["--rm"], &["echo", "hello"])))?;
    step("exit code", told(&mut podman.run(&["--rm"], &["sh", "-c", "exit 7"])))?;
    for (name, program) in [("no such program", "/nope"), ("no such program in PATH", "nope"), ("a folder", "/bin")] {
        step(name, Ok(command::outcome(&mut podman.run(&["--rm"], &[program]))?.code.to_string()))?;
    }
    step("run with a terminal", told_on_terminal(&podman.run(&["--rm", "-it"], &["sh", "-c", "tty; exit 4"])))?;

    let flags =
        ["--name=web", "--memory=64m", "--cpus=0.5", "--health-cmd=test -e /tmp/ok", "--health-interval=disable"];
    podman.start(&flags, &["sh", "-c", SERVICE])?;
    wait_for("the log", || Ok(told(&mut podman.command(&["logs", "web"]))? == "0 logged"))?;
    step("logs", told(&mut podman.command(&["logs", "web"])))?;
    step("exec", told(&mut podman.command(&["exec", "web", "sh", "-c", "echo in; exit 6"])))?;
    let exec = podman.command(&["exec", "-it", "web", "sh", "-c", "tty; exit 5"]);
    step("exec with a terminal", told_on_terminal(&exec))?;
    step("health check", told(&mut podman.command(&["healthcheck", "run", "web"])))?;
    step("limit", podman.memory_limit("web"))?;
    let updated = command::outcome(&mut podman.command(&["update", "--memory=48m", "--cpus=0.3", "web"]))?;
    step("update", Ok(updated.code.to_string()))?;
    step("limit after", podman.memory_limit("web"))?;
    for verb in ["pause", "unpause"] {
        command::stdout(&mut podman.command(&[verb, "web"]))?;
        step(verb, podman.ask("web", "{{.State.Status}}"))?;
    }
    command::stdout(&mut podman.command(&["stop", "web"]))?;
    step("stop by its handler", podman.ask("web", "{{.State.ExitCode}}"))?;
    command::stdout(&mut podman.command(&["start", "web"]))?;
    command::stdout(&mut podman.command(&["stop", "--time=0", "web"]))?;
    step("stop by SIGKILL", podman.ask("web", "{{.State.ExitCode}}"))?;
    command::stdout(&mut podman.command(&["rm", "web"]))?;

    podman.start(&["--name=orphan"], &["sleep", "1000"])?;
    let conmon = podman.ask("orphan", "{{.State.ConmonPid}}")?;
    command::run("kill", ["-KILL", &conmon])?;
    let id = podman.ask("orphan", "{{.Id}}")?;
    let removed = command::outcome(&mut podman.command(&["rm", "--force", "--time=0", "orphan"]))?;
    step("removed without conmon", Ok(removed.code.to_string()))?;
    // Without conmon nobody asks the runtime to delete it, whichever runtime it is.
    let delete = ["delete", "--force", &id];
    step("deleted without conmon", told(Command::new(&podman.runtime).args(delete)))?;

    let started = at_once(|number| podman.run(&["--detach", &format!("--name=many{number}")], &["sleep", "1000"]))?;
    step("started at once", Ok(format!("{started} of {AT_ONCE}")))?;
    let ids = command::stdout(&mut podman.command(&["ps", "--quiet", "--no-trunc"]))?;
    ids.lines().try_for_each(|id| left::note(&podman.folder, id))?;
    step("running", Ok(ids.lines().count().to_string()))?;
    command::stdout(&mut podman.command(&["rm", "--all", "--force", "--time=0"]))?;
    step("all removed", told(&mut podman.command(&["ps", "--all", "--quiet"])))?;
    Ok(steps)
}
