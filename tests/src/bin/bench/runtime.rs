//! orlop-runtime beside Debian's runc: the same bundle, turn by turn, so that both see the same machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use orlop_tests::{command, programs};
use serde_json::{Value, json};

use crate::figures::{Times, against, line};
use crate::scratch;

const ROUNDS: usize = 40;

pub(crate) fn compare() -> Result<()> {
    println!("\n# OCI runtime: busybox /bin/true with the default spec, beside runc");
    let folder = scratch()?;
    bundle(folder.path())?;
    let runtimes = [("runc", "runc".into()), ("orlop-runtime", programs::path("orlop-runtime")?)];
    let mut whole = [Times::default(), Times::default()];
    let mut steps = [Times::default(), Times::default()];
    for round in 0..ROUNDS {
        for (turn, (name, program)) in runtimes.iter().enumerate() {
            let runtime = Runtime {
                program,
                root: folder.path().join(name),
                bundle: folder.path(),
                id: format!("bench-{name}-{round}"),
            };
            whole[turn].take(|| runtime.verb("run", true)).with_context(|| format!("{name} run"))?;
            steps[turn].take(|| runtime.steps()).with_context(|| format!("{name} create, start, state, delete"))?;
        }
    }
    for (what, times, target) in [("run", &whole, 0.4), ("create+start+state+delete", &steps, 0.4)] {
        line(&format!("runc {what}"), &times[0]);
        line(&format!("orlop-runtime {what}"), &times[1]);
        against(&format!("ratio of {what}"), times[1].median() / times[0].median(), "", target);
    }
    Ok(())
}

struct Runtime<'a> {
    program: &'a Path,
    root: PathBuf,
    bundle: &'a Path,
    id: String,
}

impl Runtime<'_> {
    fn verb(&self, verb: &str, with_bundle: bool) -> Result<()> {
        let mut command = Command::new(self.program);
        command.arg("--root").arg(&self.root).arg(verb);
        if with_bundle {
            command.arg("--bundle").arg(self.bundle);
        }
        // A created container keeps the stdio it is given; a pipe would have us wait for its end.
        let status = command.arg(&self.id).stdin(null(true)?).stdout(null(false)?).stderr(null(false)?).status()?;
        ensure!(status.success(), "{command:?} ended with {status}");
        Ok(())
    }

    fn steps(&self) -> Result<()> {
        self.verb("create", true)?;
        self.verb("start", false)?;
        self.verb("state", false)?;
        command::stdout(
            Command::new(self.program).arg("--root").arg(&self.root).args(["delete", "--force", &self.id]),
        )?;
        Ok(())
    }
}

fn null(read: bool) -> Result<fs::File> {
    Ok(fs::File::options().read(read).write(!read).open("/dev/null")?)
}

/// A bundle with busybox as its root, and the spec that `runc spec` writes, but for the program.
fn bundle(folder: &Path) -> Result<()> {
    let bin = folder.join("rootfs/bin");
    fs::create_dir_all(&bin)?;
    for name in ["proc", "sys", "dev", "etc"] {
        fs::create_dir(folder.join("rootfs").join(name))?;
    }
    fs::copy("/bin/busybox", bin.join("busybox"))?;
    symlink("busybox", bin.join("true"))?;
    command::stdout(Command::new("runc").arg("spec").current_dir(folder))?;
    let config = folder.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&config)?)?;
    spec["process"]["args"] = json!(["/bin/true"]);
    spec["process"]["terminal"] = json!(false);
    fs::write(&config, spec.to_string())?;
    Ok(())
}
