//! The pod's folder: the files that its containers see, the shared memory, and how all of it goes away.

use std::fs;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use orlop_proto::v1;
use orlop_shim::pins::PodFolder;

use crate::error::{Context, Error, Kind, Result};
use crate::store::Sandbox;

/// Of the tmpfs that holds the files and the shared memory: the usual size of /dev/shm, that of Docker and containerd.
const FILES_OPTIONS: &str = "mode=700,size=67108864";
/// No resolv.conf of a host is longer; one that is gets cut.
const HOST_FILE_LIMIT: u64 = 1 << 20;
/// How long a shim that has ended or was killed may still have its folder locked, and how often that is looked at.
const SHIM_EXIT: Duration = Duration::from_secs(1);
const SHIM_EXIT_PAUSE: Duration = Duration::from_millis(1);

/// Where the shared memory of a pod is mounted.
pub(crate) fn shm_of(pod: &Path) -> PathBuf {
    pod.join("files/shm")
}

/// Makes the folder of a pod, all but /etc/hosts of it.
pub(super) fn make(pod: &Path, sandbox: &Sandbox) -> Result<()> {
    let files = pod.join("files");
    for folder in [pod, &pod.join("c"), &files] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .step(|| format!("make the folder {}", folder.display()))?;
    }
    mount_files(&files)?;
    write(pod, "hostname", &format!("{}\n", sandbox.hostname()))?;
    write(pod, "resolv.conf", &resolv_conf(sandbox.config.dns_config.as_ref()))?;
    if sandbox.namespace_options().ipc() != v1::NamespaceMode::Node {
        let shm = shm_of(pod);
        fs::create_dir(&shm)
            .and_then(|()| fs::set_permissions(&shm, fs::Permissions::from_mode(0o1777)))
            .step(|| format!("make the folder {}", shm.display()))?;
    }
    let logs = &sandbox.config.log_directory;
    if !logs.is_empty() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(logs)
            .step(|| format!("make the log folder {logs}"))?;
    }
    Ok(())
}

/// Writes /etc/hosts, for pods whose client mounts none of its own.
pub(super) fn write_hosts(pod: &Path, sandbox: &Sandbox) -> Result<()> {
    write(pod, "hosts", &hosts(&sandbox.hostname(), &sandbox.addresses()))
}

fn write(pod: &Path, name: &str, content: &str) -> Result<()> {
    let path = pod.join("files").join(name);
    fs::write(&path, content)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)))
        .step(|| format!("write {}", path.display()))
}

/// A tmpfs, so that a pod, which may write to its files, cannot fill the host's.
fn mount_files(path: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("pod"), path, Some("tmpfs"), flags, Some(FILES_OPTIONS))
        .step(|| format!("mount a tmpfs at {}", path.display()))
}

/// resolv.conf(5) from the pod's configuration; the host's when it has none.
fn resolv_conf(dns: Option<&v1::DnsConfig>) -> String {
    let Some(dns) = dns else { return host_file("/etc/resolv.conf") };
    let line = |keyword: &str, words: &str| format!("{keyword} {words}\n");
    let some = |words: &[String]| Some(words.join(" ")).filter(|words| !words.is_empty());
    let search = some(&dns.searches).map(|words| line("search", &words));
    let servers = dns.servers.iter().map(|server| line("nameserver", server));
    let options = some(&dns.options).map(|words| line("options", &words));
    search.into_iter().chain(servers).chain(options).collect()
}

fn hosts(hostname: &str, addresses: &[String]) -> String {
    let localhost = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    let known = addresses.iter().filter(|address| address.parse::<IpAddr>().is_ok());
    std::iter::once(localhost).chain(known.map(|address| format!("{address}\t{hostname}\n"))).collect()
}

/// A text file of the host; empty if it has none.
fn host_file(path: &str) -> String {
    let mut text = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(HOST_FILE_LIMIT).read_to_end(&mut text)) {
        Ok(_) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => String::new(),
    }
}

/// Lets go of the namespaces that a shim which is gone had pinned. Blocks.
pub(crate) fn unpin(pod: &Path) -> Result<()> {
    lock(pod)?.map_or(Ok(()), |folder| clear(&folder))
}

/// Refuses while the pod's shim lives, though nobody may have reached it. Blocks.
pub(crate) fn shim_is_gone(pod: &Path) -> Result<()> {
    lock(pod).map(drop)
}

/// The folder of a pod without a shim; none when it is gone, too.
fn lock(pod: &Path) -> Result<Option<PodFolder>> {
    let deadline = Instant::now() + SHIM_EXIT;
    loop {
        return match PodFolder::lock(pod) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(SHIM_EXIT_PAUSE);
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::new(
                Kind::Unavailable,
                format!("the shim of {} lives and does not answer; try again when it does", pod.display()),
            )),
            Err(error) => Err(error).step(|| format!("lock {}", pod.display())),
        };
    }
}

fn clear(folder: &PodFolder) -> Result<()> {
    folder.clear().step(|| format!("let go of the namespaces of {}", folder.path().display()))
}

/// Removes the folder of a pod whose shim is gone: mounts below it first, those of its shim too. Already gone is
/// success. Never goes into what is still mounted. Blocks.
pub(crate) fn dispose(pod: &Path) -> Result<()> {
    let Some(folder) = lock(pod)? else { return Ok(()) };
    clear(&folder)?;
    unmount(&pod.join("files"))?;
    match fs::remove_dir_all(pod) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).step(|| format!("remove {}", pod.display()))
        }
        _ => Ok(()),
    }
}

fn unmount(path: &Path) -> Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // There may be one more below it.
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(errno) => return Err(errno).step(|| format!("unmount {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{hosts, resolv_conf};
    use orlop_proto::v1;

    #[test]
    fn resolv_conf_says_what_the_pod_asked() {
        let dns = v1::DnsConfig {
            servers: vec!["10.0.0.10".to_owned()],
            searches: vec!["a.svc".to_owned(), "svc".to_owned()],
            options: vec!["ndots:5".to_owned()],
        };
        assert_eq!(resolv_conf(Some(&dns)), "search a.svc svc\nnameserver 10.0.0.10\noptions ndots:5\n");
        assert_eq!(resolv_conf(Some(&v1::DnsConfig::default())), "");
    }

    #[test]
    fn hosts_names_the_pod() {
        assert!(hosts("web", &["10.1.0.5".to_owned()]).ends_with("10.1.0.5\tweb\n"));
    }
}
