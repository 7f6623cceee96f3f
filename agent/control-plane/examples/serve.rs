//! Serves a control plane on loopback until Ctrl-C: `cargo run --example serve -- STATE_DIR PORT`.
//! Writes `STATE_DIR/admin.kubeconfig`.

use std::net::SocketAddr;
use std::path::PathBuf;

use orlop_control_plane::{Config, ControlPlane};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let state: PathBuf = arguments.next().ok_or("a state folder is missing")?.into();
    let port: u16 = arguments.next().map_or(Ok(0), |port| port.parse())?;
    let config = Config { listen: SocketAddr::from(([127, 0, 0, 1], port)), ..Config::new(&state) };
    let control_plane = ControlPlane::start(config).await?;
    control_plane.write_admin_kubeconfig(&state.join("admin.kubeconfig"))?;
    control_plane.write_node_kubeconfig("n1", &state.join("n1.kubeconfig"))?;
    println!("serving {}", control_plane.url());
    tokio::signal::ctrl_c().await?;
    control_plane.shutdown().await;
    Ok(())
}
