//! A guest of its own kernel, with systemd and cgroup v2: give it files and programs, get their output and exit codes.
//!
//! The base image is made once from the recipe in `tests/vm/image`; each guest boots a snapshot of it, so that nothing
//! that a test does stays. There is no network: files come on a disk, outcomes go through a virtio port.

mod image;
mod outcomes;

use std::fmt;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::command::{Outcome, have};
use crate::wait;

/// How long a boot may take. Generous: it ends a test whose guest hangs.
const BOOT: Duration = Duration::from_mins(4);

/// How often a guest is booted whose kernel panics.
const BOOTS: u32 = 3;
const PANIC: &str = "Kernel panic";

/// What hinders attacks on a real processor makes an emulated one slower.
const PARAMETERS: &str = "root=/dev/vda rw console=ttyS0 quiet loglevel=4 panic=-1 net.ifnames=0 mitigations=off";

/// Where the guest's `run-job` looks.
const JOB: &str = "/var/lib/job";

/// The release of Debian that the guest has: `ORLOP_VM_RELEASE`.
fn release() -> String {
    std::env::var("ORLOP_VM_RELEASE").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "trixie".into())
}

/// Which control groups the guest has: `ORLOP_VM_CGROUPS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hierarchies {
    /// Version 2 alone, `unified`, which is usual.
    Unified,
    /// Version 1 with its controllers, and version 2 without, `hybrid`. trixie's kernel does not have all of them.
    Hybrid,
}

impl Hierarchies {
    fn parameters(self) -> &'static str {
        match self {
            Hierarchies::Unified => "",
            // The second is for a systemd from 256 on.
            Hierarchies::Hybrid => " systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1",
        }
    }
}

/// What the environment says of the guest's control groups.
pub fn hierarchies() -> Result<Hierarchies> {
    match std::env::var("ORLOP_VM_CGROUPS").as_deref() {
        Err(_) | Ok("" | "unified") => Ok(Hierarchies::Unified),
        Ok("hybrid") => Ok(Hierarchies::Hybrid),
        Ok(other) => bail!("ORLOP_VM_CGROUPS is {other:?}; it may be \"unified\" or \"hybrid\""),
    }
}

/// Why no guest can be run here, if so.
#[must_use]
pub fn unavailable() -> Option<String> {
    if !geteuid().is_root() {
        return Some("the guest's disk is made by root, and this is not root".into());
    }
    let missing: Vec<&str> =
        ["qemu-system-x86_64", "mmdebstrap", "mke2fs", "setpriv"].into_iter().filter(|name| !have(name)).collect();
    let missing = (!missing.is_empty()).then(|| missing.join(", "))?;
    Some(format!("a guest needs {missing}; `make deps-vm` installs them"))
}

/// What a guest is to run, and with which files.
pub struct Guest {
    folder: TempDir,
    job: tar::Builder<File>,
    programs: usize,
    patience: Duration,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("folder", &self.folder).field("programs", &self.programs).finish_non_exhaustive()
    }
}

impl Guest {
    /// A guest with nothing to run yet.
    pub fn new() -> Result<Guest> {
        // Not below /tmp, which may be memory: the disk of a node with its images is large.
        let folder = TempDir::with_prefix_in("orlop-vm-", "/var/tmp")?;
        let job = tar::Builder::new(File::create(folder.path().join("job"))?);
        Ok(Guest { folder, job, programs: 0, patience: BOOT })
    }

    /// Puts a copy of a file of the host at an absolute path of the guest.
    pub fn file(&mut self, path: &str, mode: u32, source: &Path) -> Result<&mut Guest> {
        let mut file = File::open(source).with_context(|| format!("open {}", source.display()))?;
        let size = file.metadata()?.len();
        self.append(path, mode, size, &mut file)?;
        Ok(self)
    }

    /// Puts a file with this content at an absolute path of the guest.
    pub fn text(&mut self, path: &str, mode: u32, content: &str) -> Result<&mut Guest> {
        self.append(path, mode, content.len() as u64, &mut content.as_bytes())?;
        Ok(self)
    }

    fn append(&mut self, path: &str, mode: u32, size: u64, content: &mut dyn std::io::Read) -> Result<()> {
        let name = path.strip_prefix('/').with_context(|| format!("{path:?} is not an absolute path of the guest"))?;
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        self.job.append_data(&mut header, name, content).with_context(|| format!("put {path} on the guest's disk"))
    }

    /// Adds a program, its path first; programs run as root, one after the other. One that has not ended after `limit`
    /// is killed, and its code is 124 or 137.
    pub fn program(&mut self, arguments: &[&str], limit: Duration) -> Result<&mut Guest> {
        ensure!(self.programs < 1000, "a guest runs at most 1000 programs");
        let quoted: Vec<String> = arguments.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
        let number = format!("{:03}", self.programs);
        self.text(&format!("{JOB}/programs/{number}"), 0o755, &format!("#!/bin/sh\nexec {}\n", quoted.join(" ")))?;
        self.text(&format!("{JOB}/limits/{number}"), 0o644, &limit.as_secs().max(1).to_string())?;
        self.programs += 1;
        self.patience += limit + Duration::from_secs(10);
        Ok(self)
    }

    /// Boots, runs all programs and powers off. The outcomes are in the order of the programs. When the guest ends
    /// before all are there, the error has the end of its console.
    ///
    /// A guest whose kernel panics is booted again, for the programs that are left: emulated on several threads, a
    /// processor now and then sees the breakpoint by which another one has exchanged an instruction after that is over.
    pub fn run(mut self) -> Result<Vec<Outcome>> {
        let image = image::get(&release())?;
        self.job.finish().context("finish the guest's disk")?;
        self.job.get_ref().sync_data()?;
        let mut outcomes = Vec::new();
        for boot in 1.. {
            match self.boot(&image, &mut outcomes) {
                Err(error) if boot < BOOTS && format!("{error:#}").contains(PANIC) => {
                    eprintln!("the guest's kernel panicked at program {}: {error:#}", outcomes.len());
                }
                ended => {
                    ended?;
                    break;
                }
            }
        }
        Ok(outcomes)
    }

    /// Boots for the programs that have no outcome yet.
    fn boot(&self, image: &Path, outcomes: &mut Vec<Outcome>) -> Result<()> {
        let path = |name: &str| self.folder.path().join(name);
        let (console, results) = (path("console"), path("results"));
        let disk = |file: &Path, option: &str| format!("file={},if=virtio,format=raw,{option}", file.display());
        // A test that is killed takes its guest with it.
        let mut qemu = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
            .args(["-M", "q35", "-cpu", "max", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "2048"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(image.join("kernel"))
            .arg("-initrd")
            .arg(image.join("initrd"))
            .args(["-append", &format!("{PARAMETERS}{} job.first={}", hierarchies()?.parameters(), outcomes.len())])
            .args(["-drive", &disk(&image.join("disk"), "snapshot=on")])
            .args(["-drive", &disk(&path("job"), "readonly=on")])
            .args(["-serial", &format!("file:{}", console.display())])
            .args(["-device", "virtio-serial-pci"])
            .args(["-chardev", &format!("file,id=results,path={}", results.display())])
            .args(["-device", "virtserialport,chardev=results,name=job.results"])
            .env("TMPDIR", self.folder.path())
            .stdin(Stdio::null())
            .spawn()
            .context("start qemu-system-x86_64")?;
        let ended = wait::until_within(self.patience, "the guest to power off", || Ok(qemu.try_wait()?));
        if ended.is_err() {
            qemu.kill().and_then(|()| qemu.wait()).context("end the guest")?;
        }
        let console = || last_lines(&fs::read(&console).unwrap_or_default(), 40);
        let status = ended.with_context(|| format!("the guest's console ended with\n{}", console()))?;
        outcomes.extend(outcomes::parse(&fs::read(&results).context("read the guest's results")?, outcomes.len())?);
        if !status.success() || outcomes.len() != self.programs {
            let (there, all) = (outcomes.len(), self.programs);
            bail!("the guest ({status}) gave {there} of {all} outcomes; its console ended with\n{}", console());
        }
        Ok(())
    }
}

fn last_lines(text: &[u8], count: usize) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
