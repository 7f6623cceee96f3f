//! orlop-runtime beside another OCI runtime: the same bundle, turn by turn, so that both see the same machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use orlop_tests::{command, programs};
use serde_json::{Value, json};

use crate::figures::{Times, against, line};
use crate::peak;
use crate::scratch;

/// A peer, and what of its time ours may take.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) target: f64,
    pub(crate) rounds: usize,
}

pub(crate) const RUNC: Peer = Peer { name: "runc", target: 0.2, rounds: 40 };
/// In the guest, where a round takes ten times as long.
pub(crate) const CRUN: Peer = Peer { name: "crun", target: 0.7, rounds: 20 };

/// What a create may have in memory at its highest, in KiB.
const PEAK: f64 = 3.0 * 1024.0;

type Step = fn(&Runtime<'_>) -> Result<()>;

const CASES: [(&str, Step); 3] = [
    ("run", |runtime| runtime.bundle("run", "true")),
    ("create+start+state+delete", |runtime| runtime.life()),
    ("exec", |runtime| runtime.verb(&["exec", &runtime.id("sleep"), "/bin/true"])),
];

pub(crate) fn compare(peer: &Peer) -> Result<()> {
    println!("\n# OCI runtime: busybox /bin/true with the default spec, beside {}", peer.name);
    let folder = scratch()?;
    for (name, args) in [("true", json!(["/bin/true"])), ("sleep", json!(["/bin/sleep", "10000"]))] {
        bundle(peer.name, &folder.path().join(name), &args)?;
    }
    // State belongs on a tmpfs, and /run is none everywhere.
    let state = tempfile::TempDir::with_prefix_in("orlop-bench-", "/dev/shm").context("make a folder in /dev/shm")?;
    let runtimes = [(peer.name, peer.name.into()), ("orlop-runtime", programs::path("orlop-runtime")?)];
    let runtimes = runtimes.map(|(name, program)| Runtime {
        name,
        program,
        root: state.path().join(name),
        bundles: folder.path(),
    });
    let mut times = CASES.map(|_| [Times::default(), Times::default()]);
    let peaks = runtimes.each_ref().map(Runtime::sleep);
    let measured = (0..peer.rounds).try_for_each(|round| {
        for ((what, step), times) in CASES.iter().zip(&mut times) {
            for turn in [round % 2, 1 - round % 2] {
                let runtime = &runtimes[turn];
                times[turn].take(|| step(runtime)).with_context(|| format!("{} {what}", runtime.name))?;
            }
        }
        Ok(())
    });
    let deleted = runtimes.each_ref().map(|runtime| runtime.verb(&["delete", "--force", &runtime.id("sleep")]));
    measured.and_then(|()| deleted.into_iter().collect::<Result<()>>())?;

    for ((what, _), [theirs, ours]) in CASES.iter().zip(&times) {
        line(&format!("{} {what}", peer.name), theirs);
        line(&format!("orlop-runtime {what}"), ours);
        against(&format!("ratio of {what}"), ours.median() / theirs.median(), "", peer.target);
    }
    let [theirs, ours] = peaks;
    println!("{:<44} {:>12.0} KiB", format!("{} create, peak memory", peer.name), theirs?);
    against("orlop-runtime create, peak memory", ours?, "KiB", PEAK);
    Ok(())
}

struct Runtime<'a> {
    name: &'static str,
    program: PathBuf,
    root: PathBuf,
    bundles: &'a Path,
}

impl Runtime<'_> {
    fn id(&self, bundle: &str) -> String {
        format!("bench-{}-{bundle}", self.name)
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(&self.program);
        // A created container keeps the stdio it is given; a pipe would have us wait for its end.
        command.arg("--root").arg(&self.root).args(words).stdin(null(true)?).stdout(null(false)?).stderr(null(false)?);
        Ok(command)
    }

    fn verb(&self, words: &[&str]) -> Result<()> {
        let mut command = self.command(words)?;
        let status = command.status()?;
        ensure!(status.success(), "{command:?} ended with {status}");
        Ok(())
    }

    /// A verb that makes a container of a bundle.
    fn bundle(&self, verb: &str, name: &str) -> Result<()> {
        let bundle = self.bundles.join(name);
        self.verb(&[verb, "--bundle", bundle.to_str().context("bundle")?, &self.id(name)])
    }

    fn life(&self) -> Result<()> {
        self.bundle("create", "true")?;
        let id = self.id("true");
        self.verb(&["start", &id])?;
        self.verb(&["state", &id])?;
        self.verb(&["delete", "--force", &id])
    }

    /// Makes the container that exec is measured in; returns the peak memory of its create, in KiB.
    fn sleep(&self) -> Result<f64> {
        let (bundle, id) = (self.bundles.join("sleep"), self.id("sleep"));
        let words = ["create", "--bundle", bundle.to_str().context("bundle")?, &id];
        let peak = peak::of(self.command(&words)?)?;
        self.verb(&["start", &id])?;
        Ok(peak)
    }
}

fn null(read: bool) -> Result<fs::File> {
    Ok(fs::File::options().read(read).write(!read).open("/dev/null")?)
}

/// A bundle with busybox as its root, and the spec that `PEER spec` writes, but for the program.
fn bundle(peer: &str, folder: &Path, args: &Value) -> Result<()> {
    let bin = folder.join("rootfs/bin");
    fs::create_dir_all(&bin)?;
    for name in ["proc", "sys", "dev", "etc"] {
        fs::create_dir(folder.join("rootfs").join(name))?;
    }
    fs::copy("/bin/busybox", bin.join("busybox"))?;
    for name in ["true", "sleep"] {
        symlink("busybox", bin.join(name))?;
    }
    command::stdout(Command::new(peer).arg("spec").current_dir(folder))?;
    let config = folder.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&config)?)?;
    spec["process"]["args"] = args.clone();
    spec["process"]["terminal"] = json!(false);
    fs::write(&config, spec.to_string())?;
    Ok(())
}
