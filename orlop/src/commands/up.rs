//! `orlop up`: control plane, agent and CRI daemon in one process.
//!
//! They are joined as they would be on three machines: the agent has a kubeconfig and a CRI socket, and no other
//! way to either. Ending the process, in whatever way, leaves the pods running.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use orlop_agent::Agent;
use orlop_control_plane::{CertificateAndKey, ControlPlane};
use serde_json::json;

use crate::commands::{asked_to_end, ready};
use crate::config::Config;

pub(crate) async fn run(config: Config) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("orlop up makes namespaces, mounts and cgroups: run it as root");
    }
    let name = config.node_name()?;
    for folder in [&config.state, &config.run] {
        private_folder(folder)?;
    }
    pod_network(&config)?;
    let (daemon, control_plane) =
        tokio::join!(orlop_cri::Daemon::start(config.for_cri()), ControlPlane::start(config.for_control_plane()),);
    let (daemon, control_plane) = (daemon?, control_plane?);
    let admin = config.admin_kubeconfig();
    control_plane.write_admin_kubeconfig(&admin)?;
    let agent = Agent::start(agent_settings(&config, &name, &control_plane)?).await?;
    tracing::info!(
        node = name,
        api = control_plane.url(),
        agent = %agent.address(),
        cri = %daemon.socket().display(),
        kubeconfig = %admin.display(),
        "orlop is up"
    );
    ready();
    asked_to_end().await?;
    agent.shutdown().await;
    control_plane.shutdown().await;
    Ok(daemon.shutdown().await?)
}

/// The agent gets an identity and a serving certificate from the control plane's authority.
fn agent_settings(config: &Config, name: &str, control_plane: &ControlPlane) -> Result<orlop_agent::Config> {
    let settings = config.for_agent()?;
    private_folder(&settings.state_dir)?;
    let kubeconfig = settings.state_dir.join("kubeconfig");
    control_plane.write_node_kubeconfig(name, &kubeconfig)?;
    let mut names = vec!["localhost".to_owned(), settings.listen.ip().to_string(), "127.0.0.1".to_owned()];
    names.extend(settings.node_address().map(|ip| ip.to_string()));
    names.extend(config.control_plane.advertise.map(|ip| ip.to_string()));
    let serving = control_plane.issue_kubelet_serving(name, &names)?;
    let (cert, key) = (settings.state_dir.join("serving.crt"), settings.state_dir.join("serving.key"));
    write_serving(&serving, &cert, &key)?;
    Ok(orlop_agent::Config {
        kubeconfig: Some(kubeconfig),
        client_ca: Some(control_plane.ca_path()),
        serving_cert: Some(cert),
        serving_key: Some(key),
        ..settings
    })
}

fn write_serving(serving: &CertificateAndKey, cert: &Path, key: &Path) -> Result<()> {
    for (path, pem) in [(cert, &serving.certificate_pem), (key, &serving.key_pem)] {
        let fresh = path.with_extension("new");
        File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut file| file.write_all(pem.as_bytes()))
            .and_then(|()| fs::rename(&fresh, path))
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Makes a folder that only root may enter, or makes it so.
fn private_folder(folder: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .and_then(|()| fs::set_permissions(folder, Permissions::from_mode(0o700)))
        .with_context(|| format!("make the folder {}", folder.display()))
}

/// Writes the conflist of the built-in pod network, unless the user has a folder with one.
pub(crate) fn pod_network(config: &Config) -> Result<()> {
    if config.network.conf_dir.is_some() {
        return Ok(());
    }
    let folder = config.cni_conf_dir();
    fs::create_dir_all(&folder).with_context(|| format!("make the folder {}", folder.display()))?;
    let network = &config.network;
    let conflist = serde_json::to_vec_pretty(&json!({
        "cniVersion": "1.1.0",
        "name": "orlop",
        "plugins": [
            {
                "type": "bridge", "bridge": network.bridge, "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "nftTable": network.nft_table,
                "ipam": {
                    "type": "host-local", "dataDir": config.state.join("cni/networks"),
                    "ranges": [[{"subnet": network.pod_cidr}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "nftTable": network.nft_table},
        ],
    }))?;
    let path = folder.join("10-orlop.conflist");
    match fs::read(&path) {
        Ok(present) if present == conflist => return Ok(()),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("read {}", path.display()));
        }
        _ => {}
    }
    let fresh = folder.join(".10-orlop.conflist");
    fs::write(&fresh, conflist)
        .and_then(|()| fs::rename(&fresh, &path))
        .with_context(|| format!("write the pod network's configuration {}", path.display()))
}
