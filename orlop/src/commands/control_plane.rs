//! `orlop control-plane`: the control plane alone.

use anyhow::Result;
use orlop_control_plane::ControlPlane;

use crate::commands::{asked_to_end, ready};
use crate::config::Config;

pub(crate) async fn run(config: Config) -> Result<()> {
    // Agents elsewhere bring their own serving certificates.
    let settings = orlop_control_plane::Config { verify_kubelets: false, ..config.for_control_plane() };
    let control_plane = ControlPlane::start(settings).await?;
    let kubeconfig = config.admin_kubeconfig();
    control_plane.write_admin_kubeconfig(&kubeconfig)?;
    tracing::info!(url = control_plane.url(), kubeconfig = %kubeconfig.display(), "control plane serves");
    ready();
    asked_to_end().await?;
    control_plane.shutdown().await;
    Ok(())
}
