//! The program `orlop-cri`: the daemon alone, for kubelets and crictl.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use orlop_cri::{CniConfig, Config, Daemon};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Serve the Kubernetes Container Runtime Interface v1 on a unix socket
#[derive(Debug, Parser)]
#[command(name = "orlop-cri", version)]
struct Arguments {
    /// A TOML file with settings; flags go before it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Images, records and writable layers; survives a reboot [default: /var/lib/orlop]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Sockets, namespaces and bundles; a tmpfs [default: /run/orlop]
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// The socket to serve on [default: RUN/cri.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The program orlop-shim [default: beside this program]
    #[arg(long, value_name = "PATH", env = "ORLOP_SHIM")]
    shim: Option<PathBuf>,
    /// The address of the streaming server [default: 127.0.0.1:0]
    #[arg(long, value_name = "ADDRESS")]
    streaming: Option<SocketAddr>,
    /// The cgroup above pods that name no parent [default: /orlop]
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Folder with the CNI configuration [default: /etc/cni/net.d]
    #[arg(long, value_name = "DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// Folder with CNI plugins; may be given more than once [default: /opt/cni/bin]
    #[arg(long, value_name = "DIR")]
    cni_bin_dir: Vec<PathBuf>,
    /// Folder with a hosts.toml per registry [default: /etc/orlop/certs.d]
    #[arg(long, value_name = "DIR")]
    registry_config: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or a filter such as orlop_cri=debug
    #[arg(long, value_name = "FILTER", default_value = "info", env = "ORLOP_LOG")]
    log: EnvFilter,
}

impl Arguments {
    fn into_config(self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| anyhow::anyhow!("read {}: {error}", path.display()))?;
                toml::from_str(&text).map_err(|error| anyhow::anyhow!("read {}: {error}", path.display()))?
            }
            None => Config::default(),
        };
        let cni = CniConfig {
            conf_dir: self.cni_conf_dir.unwrap_or(config.cni.conf_dir),
            bin_dirs: if self.cni_bin_dir.is_empty() { config.cni.bin_dirs } else { self.cni_bin_dir },
            cache: config.cni.cache,
        };
        config = Config {
            state: self.state.unwrap_or(config.state),
            run: self.run.unwrap_or(config.run),
            socket: self.socket.or(config.socket),
            shim: self.shim.or(config.shim),
            streaming: self.streaming.unwrap_or(config.streaming),
            cgroup_parent: self.cgroup_parent.unwrap_or(config.cgroup_parent),
            cni,
            registry_config: self.registry_config.unwrap_or(config.registry_config),
            runtimes: config.runtimes,
        };
        Ok(config)
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let filter = std::mem::take(&mut arguments.log);
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("orlop-cri: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One thread: a call costs less than half of what it does with several, and what blocks has threads of its own.
fn run(arguments: Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(arguments));
    // Threads that wait for dead storage are not waited for.
    runtime.shutdown_background();
    outcome
}

async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let config = arguments.into_config()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let daemon = Daemon::start(config).await.map_err(|error| anyhow::anyhow!("{}", error.chain()))?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    daemon.shutdown().await.map_err(|error| anyhow::anyhow!("{}", error.chain()))
}
