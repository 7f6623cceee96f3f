//! A real registry: Debian's docker-registry on a free loopback port, with its storage in a temporary folder.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::{fs, io};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::images::Image;
use crate::{command, wait};

/// A registry that runs until it is dropped.
#[derive(Debug)]
pub struct Registry {
    server: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Registry {
    /// Starts an empty registry that takes anything from anybody.
    pub fn start() -> Result<Registry> {
        let folder = TempDir::with_prefix("orlop-registry-")?;
        let address = free_port()?;
        let config = folder.path().join("config.yml");
        fs::write(&config, configuration(folder.path(), address))?;
        let log = fs::File::create(folder.path().join("log"))?;
        let server = Command::new("docker-registry")
            .args(["serve".as_ref(), config.as_os_str()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start docker-registry (Debian package docker-registry)")?;
        let mut registry = Registry { server, address, folder };
        wait::until("the registry to listen", || registry.listening())?;
        Ok(registry)
    }

    fn listening(&mut self) -> Result<Option<()>> {
        if let Some(status) = self.server.try_wait()? {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            bail!("docker-registry ended with {status}: {log}");
        }
        Ok(TcpStream::connect(self.address).ok().map(drop))
    }

    /// `127.0.0.1:PORT`, as image names have it.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Where the registry keeps blobs and manifests, for tests that damage them.
    #[must_use]
    pub fn storage(&self) -> &Path {
        self.folder.path()
    }

    /// Pushes `image` under its own name and returns the reference to pull.
    pub fn push(&self, image: &Image) -> Result<String> {
        let reference = format!("{}/{}", self.host(), image.name());
        command::stdout(
            Command::new("skopeo")
                .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
                .arg(format!("oci:{}:image", image.layout().display()))
                .arg(format!("docker://{reference}")),
        )
        .with_context(|| format!("push {reference}"))?;
        Ok(reference)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn configuration(folder: &Path, address: SocketAddr) -> String {
    format!(
        "version: 0.1\n\
         log: {{level: warn}}\n\
         storage:\n  filesystem: {{rootdirectory: {}/storage}}\n  delete: {{enabled: true}}\n\
         http: {{addr: '{address}'}}\n",
        folder.display()
    )
}

/// A loopback port that nobody listens on now.
pub fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
