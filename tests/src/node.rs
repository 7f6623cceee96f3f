//! A private orlop node: `orlop up` on folders, ports, cgroups, a bridge and an nftables table of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::command::{self, Outcome};
use crate::kubectl::Kubectl;
use crate::programs;
use crate::registry::free_port;

static NODES: AtomicU32 = AtomicU32::new(0);

/// A node that runs until it is dropped, and is then reset: nothing of it stays.
#[derive(Debug)]
pub struct Node {
    name: String,
    folder: TempDir,
    server: Option<Child>,
}

impl Node {
    /// Starts a node and waits until it is ready.
    pub fn start() -> Result<Node> {
        // Not below /tmp: what is made there is slow on a file system without a journal, and the figures would lie.
        let folder = TempDir::with_prefix_in("orlop-node-", "/var/tmp")?;
        let name = format!("t{}-{}", std::process::id(), NODES.fetch_add(1, Ordering::Relaxed));
        let mut node = Node { name, folder, server: None };
        fs::write(node.config(), node.configuration()?)?;
        node.up()?;
        Ok(node)
    }

    fn configuration(&self) -> Result<String> {
        let (folder, name) = (self.folder.path().display(), &self.name);
        let subnet = std::process::id() % 120 + 100;
        Ok(format!(
            "state = \"{folder}/state\"\nrun = \"{folder}/run\"\n\
             [node]\nname = \"{name}\"\ncgroup-root = \"/orlop-{name}\"\nlog-dir = \"{folder}/log\"\n\
             [control-plane]\nlisten = \"{}\"\n\
             [agent]\nlisten = \"0.0.0.0:{}\"\nstatic-pods = \"{folder}/manifests\"\n\
             [network]\npod-cidr = \"10.{subnet}.{}.0/24\"\nbridge = \"{}\"\nnft-table = \"orlop-{name}\"\n",
            free_port()?,
            free_port()?.port(),
            NODES.load(Ordering::Relaxed) % 256,
            self.bridge(),
        ))
    }

    /// The node's name, as Kubernetes has it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's bridge. An interface's name has at most 15 characters.
    #[must_use]
    pub fn bridge(&self) -> String {
        format!("ol{}", self.name)
    }

    /// The node's configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    /// The state folder.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The run folder.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// The folder of static pods.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.folder.path().join("manifests")
    }

    /// The folder of the containers' logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The node's nftables table.
    #[must_use]
    pub fn nft_table(&self) -> String {
        format!("orlop-{}", self.name)
    }

    /// The CRI socket.
    #[must_use]
    pub fn cri_socket(&self) -> PathBuf {
        self.run().join("cri.sock")
    }

    /// The cgroup below which everything of the node is.
    #[must_use]
    pub fn cgroup_root(&self) -> String {
        format!("/orlop-{}", self.name)
    }

    /// kubectl as the cluster's administrator.
    #[must_use]
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.state().join("admin.kubeconfig"), self.folder.path())
    }

    /// A command of the program `orlop`, with this node's configuration.
    pub fn orlop(&self, args: &[&str]) -> Result<Outcome> {
        command::outcome(Command::new(programs::path("orlop")?).arg("--config").arg(self.config()).args(args))
    }

    /// The pid of `orlop up`.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.server.as_ref().map(|server| server.id().cast_signed())
    }

    /// Starts `orlop up` and waits until the node is ready.
    pub fn up(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let server = Command::new(programs::path("orlop")?)
            .arg("--config")
            .arg(self.config())
            .arg("up")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start orlop up")?;
        self.server = Some(server);
        let ready = self.orlop(&["status", "--wait", "60"])?;
        if ready.code != 0 {
            bail!("the node did not become ready: {}{}\n{}", ready.stdout, ready.stderr, self.log_tail());
        }
        Ok(())
    }

    /// Ends `orlop up` at once, as a crash would. Pods go on.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    /// Asks `orlop up` to end and waits for it. Pods go on.
    pub fn stop(&mut self) -> Result<()> {
        self.end(Signal::SIGTERM)
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        if let Some(mut server) = self.server.take() {
            kill(Pid::from_raw(server.id().cast_signed()), signal)?;
            server.wait()?;
        }
        Ok(())
    }

    /// Ends the node and removes everything of it; an error says what would not go.
    pub fn reset(&mut self) -> Result<()> {
        self.stop()?;
        let reset = self.orlop(&["reset", "--yes"])?;
        if reset.code != 0 {
            bail!("orlop reset ended with {}: {}{}", reset.code, reset.stdout, reset.stderr);
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("orlop.log")
    }

    /// The end of the log of `orlop up`.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Keeps the log where it is found after a failure.
    pub fn keep_log(&self) -> Result<PathBuf> {
        let kept = Path::new("/var/tmp").join(format!("orlop-{}.log", self.name));
        fs::copy(self.log(), &kept)?;
        Ok(kept)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.reset() {
            eprintln!("{}: {error:#}", self.name);
        }
    }
}
