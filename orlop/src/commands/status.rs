//! `orlop status`: whether the node is ready.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use tokio::time::{Instant, sleep};

use crate::config::Config;

/// How often a node that is not ready yet is looked at.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Wait so many seconds for the node to become ready
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
}

pub(crate) async fn run(config: Config, args: Args) -> Result<ExitCode> {
    let deadline = Instant::now() + Duration::from_secs(args.wait);
    let name = config.node_name()?;
    loop {
        match ready(&config, &name).await {
            Ok(()) => {
                println!("node {name} is ready; KUBECONFIG={}", config.admin_kubeconfig().display());
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) if Instant::now() >= deadline => return Err(error.context(format!("node {name} is not ready"))),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// `Ok` if the API server says that the node is.
async fn ready(config: &Config, name: &str) -> Result<()> {
    let path = config.admin_kubeconfig();
    let kubeconfig = Kubeconfig::read_from(&path)
        .with_context(|| format!("read {}; has `orlop up` been started?", path.display()))?;
    let client_config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let node = Api::<Node>::all(Client::try_from(client_config)?).get(name).await?;
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    match conditions.iter().find(|condition| condition.type_ == "Ready") {
        Some(condition) if condition.status == "True" => Ok(()),
        Some(condition) => bail!("{}", condition.message.as_deref().unwrap_or("it does not say why")),
        None => bail!("the agent has not reported yet"),
    }
}
