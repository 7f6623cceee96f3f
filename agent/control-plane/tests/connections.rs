//! Connections that nothing is asked on. In a program of its own, since it lowers the limit of descriptors.

mod common;

use common::{Cluster, PATIENCE};
use http::StatusCode;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_without_a_certificate_cannot_keep_others_out() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // A quarter is for strangers; both ends of a connection are in this process.
    setrlimit(Resource::RLIMIT_NOFILE, 400, hard).unwrap();
    let cluster = Cluster::start().await;
    let (admin, stranger) = (cluster.admin(), cluster.stranger(None));
    let mut idle = Vec::new();
    for _ in 0..150 {
        idle.push(stranger.connect().await);
    }
    // The server finishes its side of a handshake a moment after the client.
    eventually(async || !stranger.is_served().await).await;
    assert_eq!(admin.get("/api").await.0, StatusCode::OK);
    drop(idle);
    eventually(async || stranger.is_served().await).await;
}

async fn eventually(test: impl AsyncFn() -> bool) {
    let asking = async { while !test().await {} };
    tokio::time::timeout(PATIENCE, asking).await.expect("what should happen, in time");
}
