//! A dockerd of its own, without a network.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result};
use orlop_tests::command;

use crate::podman::{self, IMAGE, SERVICE};
use crate::{AT_ONCE, Steps, at_once, left, memory_limit_of, told, told_on_terminal, wait_for};

/// The group that all containers of this dockerd are below.
const PARENT: &str = "orlop-peers-docker";

/// A dockerd with everything below one folder, but for /etc/docker/key.json; it ends with this value.
struct Docker {
    folder: PathBuf,
    daemon: Child,
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Ok(outcome) = command::outcome(&mut self.docker(&["ps", "--all", "--quiet"])) {
            let ids: Vec<&str> = outcome.stdout.lines().collect();
            let _ = command::outcome(&mut self.docker(&[&["rm", "--force"], &ids[..]].concat()));
        }
        let _ = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let _ = self.daemon.wait();
        // Nobody else removes these, whichever runtime made them.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join(PARENT));
        }
        let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(PARENT));
    }
}

impl Docker {
    fn start(folder: &Path, runtime: &Path) -> Result<Docker> {
        let path = |name: &str| folder.join(name).display().to_string();
        // Not the host's configuration.
        std::fs::write(folder.join("daemon.json"), "{}")?;
        let log = std::fs::File::create(folder.join("dockerd.log"))?;
        let daemon = crate::daemon("dockerd")
            .args(["--data-root", &path("root"), "--exec-root", &path("exec"), "--pidfile", &path("pid")])
            .args(["--host", &format!("unix://{}", path("sock")), "--config-file", &path("daemon.json")])
            .args(["--bridge=none", "--iptables=false", "--ip-forward=false", "--storage-driver=overlay2"])
            .args(["--exec-opt=native.cgroupdriver=cgroupfs", "--cgroup-parent", &format!("/{PARENT}")])
            .args(["--default-runtime=peer", &format!("--add-runtime=peer={}", runtime.display())])
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start dockerd")?;
        let it = Docker { folder: folder.to_path_buf(), daemon };
        wait_for("dockerd", || Ok(command::outcome(&mut it.docker(&["version"]))?.code == 0))?;
        Ok(it)
    }

    fn docker(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("--host").arg(format!("unix://{}", self.folder.join("sock").display())).args(args);
        command.env("DOCKER_CONFIG", self.folder.join("client"));
        command
    }

    fn run(&self, flags: &[&str], program: &[&str]) -> Command {
        self.docker(&[&["run", "--network=none"], flags, &[IMAGE], program].concat())
    }

    fn start_container(&self, flags: &[&str], program: &[&str]) -> Result<()> {
        let id = command::stdout(&mut self.run(&[&["--detach"], flags].concat(), program))?;
        left::note(&self.folder, id.trim())
    }

    fn ask(&self, name: &str, format: &str) -> Result<String> {
        Ok(command::stdout(&mut self.docker(&["inspect", "--format", format, name]))?.trim().to_owned())
    }

    /// The memory limit, where the kernel has it.
    fn memory_limit(&self, name: &str) -> Result<String> {
        let id = self.ask(name, "{{.Id}}")?;
        memory_limit_of(&format!("{PARENT}/{id}"))
    }
}

pub(crate) fn steps(folder: &Path, runtime: &Path) -> Result<Steps> {
    let archive = podman::make_tree(folder)?;
    let docker = Docker::start(folder, runtime)?;
    command::stdout(&mut docker.docker(&["import", "--change", "ENV PATH=/bin", &archive, IMAGE]))?;
    take(&docker)
}

fn take(docker: &Docker) -> Result<Steps> {
    let mut steps = Steps::new();
    let mut step = |name, outcome: Result<String>| outcome.map(|outcome| steps.push((name, outcome)));
    step("run", told(&mut docker.run(&["--rm"], &["echo", "hello"])))?;
    step("exit code", told(&mut docker.run(&["--rm"], &["sh", "-c", "exit 7"])))?;
    for (name, program) in [("no such program", "/nope"), ("no such program in PATH", "nope"), ("a folder", "/bin")] {
        step(name, Ok(command::outcome(&mut docker.run(&["--rm"], &[program]))?.code.to_string()))?;
    }
    step("run with a terminal", told_on_terminal(&docker.run(&["--rm", "-it"], &["sh", "-c", "tty; exit 4"])))?;
    let confined = ["--rm", "--read-only", "--tmpfs=/run", "--user=7:7", "--cap-drop=ALL", "--ulimit=nofile=100:100"];
    let script = "touch /x || echo read-only; touch /run/x; ulimit -n; cat /proc/self/uid_map";
    step("confined", told(&mut docker.run(&confined, &["sh", "-c", script])))?;
    let flags =
        ["--rm", "--device=/dev/fuse", "--sysctl=kernel.shm_rmid_forced=1", "--hostname=box", "--cpuset-cpus=0"];
    let script = "test -c /dev/fuse; echo $?; cat /proc/sys/kernel/shm_rmid_forced /proc/sys/kernel/hostname";
    step("equipped", told(&mut docker.run(&flags, &["sh", "-c", script])))?;

    let flags = ["--name=web", "--memory=64m", "--cpus=0.5", "--health-cmd=test -e /tmp/ok", "--health-interval=500ms"];
    docker.start_container(&flags, &["sh", "-c", SERVICE])?;
    wait_for("the log", || Ok(told(&mut docker.docker(&["logs", "web"]))? == "0 logged"))?;
    step("logs", told(&mut docker.docker(&["logs", "web"])))?;
    step("exec", told(&mut docker.docker(&["exec", "web", "sh", "-c", "echo in; exit 6"])))?;
    let exec = docker.docker(&["exec", "-it", "web", "sh", "-c", "tty; exit 5"]);
    step("exec with a terminal", told_on_terminal(&exec))?;
    wait_for("health", || Ok(docker.ask("web", "{{.State.Health.Status}}")? == "healthy"))?;
    let processes = command::stdout(&mut docker.docker(&["top", "web", "-o", "pid,comm"]))?;
    step("has processes", Ok((processes.lines().count() > 1).to_string()))?;
    step("limit", docker.memory_limit("web"))?;
    let flags = ["update", "--memory=48m", "--memory-swap=96m", "--cpus=0.3", "--pids-limit=40", "web"];
    step("update", told(&mut docker.docker(&flags)))?;
    step("limit after", docker.memory_limit("web"))?;
    for verb in ["pause", "unpause"] {
        command::stdout(&mut docker.docker(&[verb, "web"]))?;
        step(verb, docker.ask("web", "{{.State.Status}}"))?;
    }
    command::stdout(&mut docker.docker(&["stop", "web"]))?;
    step("stop by its handler", docker.ask("web", "{{.State.ExitCode}}"))?;
    command::stdout(&mut docker.docker(&["start", "web"]))?;
    command::stdout(&mut docker.docker(&["restart", "--time=0", "web"]))?;
    step("restart", docker.ask("web", "{{.State.Status}}"))?;
    command::stdout(&mut docker.docker(&["kill", "web"]))?;
    wait_for("death", || Ok(docker.ask("web", "{{.State.Status}}")? == "exited"))?;
    step("stop by SIGKILL", docker.ask("web", "{{.State.ExitCode}}"))?;
    command::stdout(&mut docker.docker(&["rm", "web"]))?;

    let started = at_once(|number| docker.run(&["--detach", &format!("--name=many{number}")], &["sleep", "1000"]))?;
    step("started at once", Ok(format!("{started} of {AT_ONCE}")))?;
    let ids = command::stdout(&mut docker.docker(&["ps", "--quiet", "--no-trunc"]))?;
    ids.lines().try_for_each(|id| left::note(&docker.folder, id))?;
    step("running", Ok(ids.lines().count().to_string()))?;
    let ids: Vec<&str> = ids.lines().collect();
    command::stdout(&mut docker.docker(&[&["rm", "--force"], &ids[..]].concat()))?;
    step("all removed", told(&mut docker.docker(&["ps", "--all", "--quiet"])))?;
    Ok(steps)
}
