//! A containerd of its own, driven by ctr.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result, ensure};
use orlop_tests::command;

use crate::podman::{IMAGE, Podman, SERVICE};
use crate::{AT_ONCE, Steps, at_once, left, told, told_on_terminal, wait_for};

/// A containerd with everything below one folder; it ends with this value.
struct Containerd {
    folder: PathBuf,
    runtime: PathBuf,
    daemon: Child,
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let _ = self.daemon.wait();
    }
}

impl Containerd {
    fn start(folder: &Path, runtime: &Path) -> Result<Containerd> {
        let path = |name: &str| folder.join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("sock"),
            path("ttrpc")
        );
        std::fs::write(folder.join("config.toml"), config)?;
        let log = std::fs::File::create(folder.join("containerd.log"))?;
        let daemon = crate::daemon("containerd")
            .args(["--config", &path("config.toml")])
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start containerd")?;
        let it = Containerd { folder: folder.to_path_buf(), runtime: runtime.to_path_buf(), daemon };
        wait_for("containerd", || Ok(command::outcome(&mut it.ctr(&["version"]))?.code == 0))?;
        Ok(it)
    }

    fn ctr(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.folder.join("sock")).args(args);
        command
    }

    /// `ctr run` with the runtime under test, whose state is below the folder too.
    fn run(&self, flags: &[&str], id: &str, program: &[&str]) -> Result<Command> {
        left::note(&self.folder, id)?;
        let runtime = self.runtime.to_string_lossy();
        let root = self.folder.join("runtime").display().to_string();
        let common = ["run", "--runc-binary", &runtime, "--runc-root", &root];
        Ok(self.ctr(&[&common, flags, &[IMAGE, id], program].concat()))
    }

    /// What ctr says of a task; nothing when there is none.
    fn status(&self, id: &str) -> Result<String> {
        let list = command::stdout(&mut self.ctr(&["tasks", "ls"]))?;
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(id));
        Ok(line.and_then(|line| line.split_whitespace().nth(2)).unwrap_or_default().to_owned())
    }

    fn wait_for_status(&self, id: &str, status: &str) -> Result<()> {
        wait_for(status, || Ok(self.status(id)? == status))
    }
}

pub(crate) fn steps(folder: &Path, runtime: &Path) -> Result<Steps> {
    // podman makes the image.
    let podman = Podman::new(&folder.join("p"), runtime);
    std::fs::create_dir(folder.join("p"))?;
    podman.import()?;
    let archive = folder.join("image.tar").display().to_string();
    let saved = command::stdout(&mut podman.command(&["save", "--format=docker-archive", "--output", &archive, IMAGE]));
    podman.end()?;
    saved?;
    let containerd = Containerd::start(folder, runtime)?;
    command::stdout(&mut containerd.ctr(&["images", "import", &archive]))?;
    take(&containerd)
}

fn take(containerd: &Containerd) -> Result<Steps> {
    let mut steps = Steps::new();
    let mut step = |name, outcome: Result<String>| outcome.map(|outcome| steps.push((name, outcome)));
    let ctr = |args: &[&str]| containerd.ctr(args);
    let id = |name: &str| format!("orlop-peers-{}-{name}", std::process::id());
    step("run", told(&mut containerd.run(&["--rm"], &id("run"), &["echo", "hello"])?))?;
    step("exit code", told(&mut containerd.run(&["--rm"], &id("code"), &["sh", "-c", "exit 7"])?))?;
    let terminal = containerd.run(&["--rm", "--tty"], &id("tty"), &["sh", "-c", "tty; exit 4"])?;
    step("run with a terminal", told_on_terminal(&terminal))?;

    let web = id("web");
    let log = containerd.folder.join("log");
    let uri = format!("file://{}", log.display());
    let flags = ["--detach", "--memory-limit=67108864", "--log-uri", &uri];
    command::stdout(&mut containerd.run(&flags, &web, &["sh", "-c", SERVICE])?)?;
    wait_for("the log", || Ok(std::fs::read_to_string(&log).unwrap_or_default() == "logged\n"))?;
    step("status", containerd.status(&web))?;
    step("exec", told(&mut ctr(&["tasks", "exec", "--exec-id=one", &web, "sh", "-c", "echo in; exit 6"])))?;
    let exec = ctr(&["tasks", "exec", "--tty", "--exec-id=two", &web, "sh", "-c", "tty; exit 5"]);
    step("exec with a terminal", told_on_terminal(&exec))?;
    let metrics = command::stdout(&mut ctr(&["tasks", "metrics", &web]))?;
    ensure!(metrics.contains("memory"), "metrics without memory: {metrics}");
    step(
        "metrics",
        Ok(metrics.lines().filter_map(|line| line.split_whitespace().next()).collect::<Vec<_>>().join(" ")),
    )?;
    let processes = command::stdout(&mut ctr(&["tasks", "ps", &web]))?;
    step("has processes", Ok((processes.lines().count() > 1).to_string()))?;
    for (verb, status) in [("pause", "PAUSED"), ("resume", "RUNNING")] {
        command::stdout(&mut ctr(&["tasks", verb, &web]))?;
        containerd.wait_for_status(&web, status)?;
        step(verb, containerd.status(&web))?;
    }
    command::stdout(&mut ctr(&["tasks", "kill", "--signal=SIGTERM", &web]))?;
    containerd.wait_for_status(&web, "STOPPED")?;
    step("stop by its handler", Ok(command::outcome(&mut ctr(&["tasks", "delete", &web]))?.code.to_string()))?;
    command::stdout(&mut ctr(&["containers", "delete", &web]))?;

    let stubborn = id("stubborn");
    let program = ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"];
    command::stdout(&mut containerd.run(&["--detach"], &stubborn, &program)?)?;
    command::stdout(&mut ctr(&["tasks", "kill", "--signal=SIGTERM", &stubborn]))?;
    step("not stopped by SIGTERM", containerd.status(&stubborn))?;
    command::stdout(&mut ctr(&["tasks", "kill", "--signal=SIGKILL", &stubborn]))?;
    containerd.wait_for_status(&stubborn, "STOPPED")?;
    step("stop by SIGKILL", Ok(command::outcome(&mut ctr(&["tasks", "delete", &stubborn]))?.code.to_string()))?;
    command::stdout(&mut ctr(&["containers", "delete", &stubborn]))?;

    let many: Vec<String> = (0..AT_ONCE).map(|number| id(&format!("many{number}"))).collect();
    let commands = many.iter().map(|id| containerd.run(&["--detach"], id, &["sleep", "1000"]));
    let lines: Vec<Command> = commands.collect::<Result<_>>()?;
    let again = |command: &Command| {
        let mut copy = Command::new(command.get_program());
        copy.args(command.get_args());
        copy
    };
    step("started at once", Ok(format!("{} of {AT_ONCE}", at_once(|number| again(&lines[number]))?)))?;
    let running = command::stdout(&mut ctr(&["tasks", "ls"]))?.matches("RUNNING").count();
    step("running", Ok(running.to_string()))?;
    let removed = at_once(|number| ctr(&["tasks", "delete", "--force", &many[number]]))?;
    step("removed at once", Ok((removed > 0).to_string()))?;
    at_once(|number| ctr(&["containers", "delete", &many[number]]))?;
    step("all removed", told(&mut ctr(&["containers", "ls", "--quiet"])))?;
    Ok(steps)
}
