//! Debian packages unpacked into a folder: the named ones and what they depend on, without what a container that
//! runs one server has no use for.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

/// Starts of the names of packages that are dependencies but not needed to run the server: what sets up
/// accounts and services on a host, interpreters of their scripts, and a JIT compiler.
const LEFT_OUT: &[&str] = &[
    "adduser",
    "base-files",
    "base-passwd",
    "bash",
    "bsdextrautils",
    "bsdutils",
    "cdebconf",
    "coreutils",
    "cron",
    "dash",
    "debconf",
    "debianutils",
    "diffutils",
    "dmsetup",
    "dpkg",
    "e2fsprogs",
    "findutils",
    "gcc-",
    "grep",
    "gzip",
    "hostname",
    "init",
    "iproute2",
    "libc-bin",
    "libc-l10n",
    "libfile-find",
    "libjson-perl",
    "libnumber",
    "libtext-glob",
    "locales",
    "libapt",
    "libdebconf",
    "libdevmapper",
    "libllvm",
    "libpam",
    "libperl",
    "libpython",
    "libz3",
    "login",
    "logrotate",
    "logsave",
    "lsb-base",
    "mount",
    "ncurses",
    "openssl",
    "passwd",
    "perl",
    "postgresql-client-common",
    "postgresql-common",
    "procps",
    "python",
    "sed",
    "sensible-utils",
    "ssl-cert",
    "systemd",
    "sysv",
    "tar",
    "ucf",
    "usrmerge",
    "usr-is-merged",
    "util-linux",
    "xml-core",
    "sgml-base",
];

/// What of a package is never needed in a container.
const NOT_UNPACKED: &[&str] =
    &["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "etc/init.d"];

/// `name=version` of the packages and of what they need, as apt resolves it from nothing.
pub(super) fn closure(packages: &[&str]) -> Result<Vec<String>> {
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    let plan = command::stdout(
        Command::new("apt-get")
            .args(["--simulate", "--no-install-recommends", "-o", "Dir::State::status=/dev/null", "install"])
            .args(packages),
    )?;
    let mut wanted: Vec<String> = plan.lines().filter_map(planned).filter(|package| needed(package)).collect();
    wanted.sort();
    Ok(wanted)
}

/// `Inst NAME (VERSION SUITE [ARCH])` of a simulation, as `NAME=VERSION`.
fn planned(line: &str) -> Option<String> {
    let mut words = line.strip_prefix("Inst ")?.split(' ');
    let name = words.next()?;
    let version = words.next()?.strip_prefix('(')?;
    Some(format!("{name}={version}"))
}

fn needed(package: &str) -> bool {
    !LEFT_OUT.iter().any(|start| package.starts_with(start))
        || package.starts_with("libpam0g") // linked to, unlike the modules beside it
        || package.starts_with("gcc-12-base")
}

/// Downloads `packages` (of [`closure`]) into `cache` and unpacks them into `rootfs`.
pub(super) fn unpack(packages: &[String], cache: &Path, rootfs: &Path) -> Result<()> {
    fs::create_dir_all(cache)?;
    let download = tempfile::tempdir_in(cache)?;
    command::stdout(Command::new("apt-get").args(["-qq", "download"]).args(packages).current_dir(download.path()))
        .context("download Debian packages (is `apt-get update` done?)")?;
    for package in fs::read_dir(download.path())? {
        command::run("dpkg-deb", [Path::new("--extract"), &package?.path(), rootfs])?;
    }
    for folder in NOT_UNPACKED {
        let folder = rootfs.join(folder);
        if folder.is_dir() {
            fs::remove_dir_all(folder)?;
        }
    }
    Ok(())
}
