//! `orlop agent`: the node agent alone.

use std::path::PathBuf;

use anyhow::Result;
use orlop_agent::Agent;

use crate::commands::{asked_to_end, ready};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How to reach the API server; without it only the static pods run
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The authorities (PEM) whose client certificates the agent's HTTPS API believes
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// The CRI socket, when it is not this node's own
    #[arg(long, value_name = "SOCKET")]
    cri_socket: Option<PathBuf>,
}

pub(crate) async fn run(config: Config, args: Args) -> Result<()> {
    let mut settings =
        orlop_agent::Config { kubeconfig: args.kubeconfig, client_ca: args.client_ca, ..config.for_agent()? };
    if let Some(socket) = args.cri_socket {
        settings.cri_socket = socket;
    }
    let agent = Agent::start(settings).await?;
    tracing::info!(address = %agent.address(), "agent serves");
    ready();
    asked_to_end().await?;
    agent.shutdown().await;
    Ok(())
}
