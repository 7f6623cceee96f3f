//! A client that goes away in the middle leaves nothing: no descriptor, no process, no call of the backend.
//! One test alone in its program, since it counts what the process has.

#[path = "streaming/backend.rs"]
mod backend;
#[path = "streaming/http.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod http;
#[path = "streaming/spdy.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod spdy;

use std::time::Duration;

use tokio::net::TcpListener;

const V4: &str = "v4.channel.k8s.io";

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn children() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok())
        .map(|children| children.split_whitespace().count())
        .sum()
}

/// Waits for `condition`; the test's own time limit ends it.
async fn until(what: &str, condition: impl Fn() -> bool) {
    for round in 0_u64.. {
        if condition() {
            return;
        }
        if round.is_multiple_of(500) && round > 0 {
            eprintln!("still waiting until {what}: {} descriptors, {} children", descriptors(), children());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What the client does before it goes.
#[derive(Debug, Clone, Copy)]
enum Gone {
    /// Before it has opened its streams.
    Early,
    /// While the command waits for input.
    Waiting,
    /// While the command writes and nobody reads.
    NotReading,
    /// While the command does not read what the client sends.
    NotRead,
}

async fn run_and_go(server: &orlop_cri::streaming::StreamingServer, host: &backend::Host, gone: Gone) {
    let script = match gone {
        Gone::Early | Gone::Waiting => "cat",
        Gone::NotReading => "exec cat /dev/zero",
        Gone::NotRead => "exec sleep 1000",
    };
    let (stream, _) = http::upgrade_to_spdy(&server.exec_url(backend::sh(script)).unwrap(), &[V4]).await.unwrap();
    let (input, output) = stream.into_split();
    let (mut sender, _receiver) = spdy::client(input, output);
    if matches!(gone, Gone::Early) {
        sender.open(&[("streamtype", "error")]).await.unwrap();
        return;
    }
    let mut stdin = 0;
    for kind in ["error", "stdout", "stderr", "stdin"] {
        stdin = sender.open(&[("streamtype", kind)]).await.unwrap();
    }
    until("the command runs", || host.running() == 1 && children() > 0).await;
    if matches!(gone, Gone::NotRead) {
        // More than the session keeps and the kernel's buffers hold: this blocks, and is given up.
        let flood = async {
            loop {
                sender.data(stdin, &vec![0; 32 * 1024], false).await.unwrap();
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(500), flood).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_leaves_nothing() {
    let (server, host) = backend::start().await;
    // What the runtime and the process machinery open once is opened before the count.
    run_and_go(&server, &host, Gone::Waiting).await;
    until("the first is over", || host.running() == 0 && children() == 0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = descriptors();
    for gone in [Gone::Early, Gone::Waiting, Gone::NotReading, Gone::NotRead] {
        eprintln!("{gone:?}");
        run_and_go(&server, &host, gone).await;
        until("the command is gone", || host.running() == 0 && children() == 0).await;
        until("the descriptors are closed", || descriptors() == before).await;
    }
    forwards_end_with_their_client(&server).await;
    until("the descriptors are closed", || descriptors() == before).await;
    drop(server);
    until("the listener is closed", || descriptors() < before).await;
}

async fn forwards_end_with_their_client(server: &orlop_cri::streaming::StreamingServer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let url = server.port_forward_url(backend::forward(&[])).unwrap();
    let (stream, _) = http::upgrade_to_spdy(&url, &["portforward.k8s.io"]).await.unwrap();
    let (input, output) = stream.into_split();
    let (mut sender, receiver) = spdy::client(input, output);
    let mut in_pod = Vec::new();
    for request in ["0", "1", "2"] {
        for kind in ["error", "data"] {
            sender.open(&[("streamtype", kind), ("port", &port), ("requestid", request)]).await.unwrap();
        }
        in_pod.push(listener.accept().await.unwrap().0);
    }
    drop((sender, receiver));
    for stream in in_pod {
        stream.readable().await.unwrap();
        assert_eq!(stream.try_read(&mut [0; 8]).unwrap_or(0), 0, "the connection into the pod is closed");
    }
}
