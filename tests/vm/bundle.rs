//! A container from a busybox bundle, run in the guest by a runtime's command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use orlop_tests::command::{self, Outcome};
use orlop_tests::wait;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::BIN;

const APPLETS: [&str; 8] = ["sh", "cat", "dd", "echo", "mknod", "sleep", "tail", "true"];

/// A bundle, and the container that may have been made from it. Dropped, it deletes the container.
#[derive(Debug)]
pub(crate) struct Container {
    runtime: PathBuf,
    folder: TempDir,
    id: String,
}

impl Container {
    /// A bundle for orlop-runtime: a line of shell with `resources`.
    pub(crate) fn new(id: &str, script: &str, resources: &Value) -> Result<Container> {
        Container::of(&Path::new(BIN).join("orlop-runtime"), id, script, resources, &json!([]))
    }

    /// A bundle for any runtime that has runc's command line, with devices.
    pub(crate) fn of(runtime: &Path, id: &str, script: &str, resources: &Value, devices: &Value) -> Result<Container> {
        let folder = TempDir::with_prefix_in("bundle-", "/var/tmp")?;
        let bin = folder.path().join("rootfs/bin");
        fs::create_dir_all(&bin)?;
        for name in ["proc", "sys", "dev", "tmp"] {
            fs::create_dir(folder.path().join("rootfs").join(name))?;
        }
        fs::copy("/bin/busybox", bin.join("busybox")).context("copy the guest's busybox")?;
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", bin.join(applet))?;
        }
        let container = Container { runtime: runtime.to_owned(), folder, id: id.to_owned() };
        let config = container.config(script, resources, devices);
        fs::write(container.folder.path().join("config.json"), config.to_string())?;
        Ok(container)
    }

    fn config(&self, script: &str, resources: &Value, devices: &Value) -> Value {
        let capabilities = json!(["CAP_MKNOD"]);
        let mount = |path: &str, kind: &str| json!({"destination": path, "type": kind, "source": kind});
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["sh", "-c", script],
                "env": ["PATH=/bin"],
                "cwd": "/",
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities}
            },
            "root": {"path": "rootfs"},
            "mounts": [mount("/proc", "proc"), mount("/dev", "tmpfs"), mount("/sys/fs/cgroup", "cgroup")],
            "linux": {
                "cgroupsPath": format!("/test-{0}/{0}", self.id),
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "cgroup"}],
                "resources": resources,
                "devices": devices
            }
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(self.folder.path().join("state")).args(arguments);
        command
    }

    /// Runs a verb to its end; any exit code is an outcome.
    pub(crate) fn call(&self, arguments: &[&str]) -> Result<Outcome> {
        command::outcome(&mut self.command(arguments))
    }

    /// The output of a verb that must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Result<String> {
        command::stdout(self.command(arguments).stdin(Stdio::null()))
    }

    /// Runs the container in the foreground, to its end.
    pub(crate) fn run(&self) -> Result<Outcome> {
        self.call(&["run", "--bundle", &self.folder.path().to_string_lossy(), &self.id])
    }

    /// Creates and starts the container; its output goes to a file, see [`Container::output`].
    pub(crate) fn start(&self) -> Result<()> {
        let (output, errors) = (self.folder.path().join("output"), self.folder.path().join("errors"));
        let mut create = self.command(&["create", "--bundle", &self.folder.path().to_string_lossy(), &self.id]);
        // No pipe: the container would hold it open, and reading to its end would wait for the container.
        let create = create.stdin(Stdio::null()).stdout(fs::File::create(output)?).stderr(fs::File::create(&errors)?);
        if !create.status()?.success() {
            bail!("create {}: {}", self.id, fs::read_to_string(errors)?);
        }
        self.ok(&["start", &self.id])?;
        Ok(())
    }

    /// What the container has written.
    pub(crate) fn output(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("output"))?)
    }

    /// The container's id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The status that `state` tells.
    pub(crate) fn status(&self) -> Result<String> {
        let state: Value = serde_json::from_str(&self.ok(&["state", &self.id])?)?;
        Ok(state["status"].as_str().context("no status")?.to_owned())
    }

    /// Waits until `state` tells this status.
    pub(crate) fn until(&self, status: &str) -> Result<()> {
        wait::until_equal(&format!("{} of {}", status, self.id), &status.to_owned(), || self.status())
    }

    /// The container's cgroup.
    pub(crate) fn cgroup(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(format!("test-{0}/{0}", self.id))
    }

    /// A file of the container's cgroup.
    pub(crate) fn setting(&self, file: &str) -> Result<String> {
        let path = self.cgroup().join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(text.trim_end().to_owned())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // A case that ended well has deleted it already, and then there is nothing to complain about.
        let _ = self.call(&["delete", "--force", &self.id]);
    }
}
