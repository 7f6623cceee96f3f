//! A backend of real processes and real sockets on this host: the container and sandbox ids have no meaning in it.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::{BoxFuture, FutureExt};
use nix::pty::{OpenptyResult, openpty};
use orlop_cri::streaming::{
    AttachStream, Backend, BackendError, Connection, ExecStream, PortForwardStream, StreamingServer, Streams,
    TerminalSize,
};
use tokio::io::{AsyncWriteExt, copy};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Runs commands as processes of this host, and forwards to ports of its loopback.
#[derive(Debug, Default)]
pub(crate) struct Host {
    running: Arc<AtomicUsize>,
}

/// Counts what runs; dropped when a call has ended or was cancelled.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Host {
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    fn enter(&self) -> Running {
        self.running.fetch_add(1, Ordering::SeqCst);
        Running(Arc::clone(&self.running))
    }
}

/// A server on a free port of the loopback, and the backend that it has.
pub(crate) async fn start() -> (StreamingServer, Arc<Host>) {
    let host = Arc::new(Host::default());
    let backend: Arc<dyn Backend> = Arc::clone(&host) as Arc<dyn Backend>;
    let server = StreamingServer::start(([127, 0, 0, 1], 0).into(), backend).await.expect("the server starts");
    (server, host)
}

/// A request for `sh -c script` with every stream.
pub(crate) fn sh(script: &str) -> ExecStream {
    ExecStream {
        container_id: "c1".into(),
        command: vec!["sh".into(), "-c".into(), script.into()],
        tty: false,
        stdin: true,
        stdout: true,
        stderr: true,
    }
}

/// A request to forward `ports`.
pub(crate) fn forward(ports: &[u16]) -> PortForwardStream {
    PortForwardStream { sandbox_id: "s1".into(), ports: ports.to_vec() }
}

impl Backend for Host {
    fn exec(&self, request: ExecStream, streams: Streams) -> BoxFuture<'_, Result<i32, BackendError>> {
        let running = self.enter();
        async move {
            let _running = running;
            if request.tty { on_terminal(&request, streams).await } else { on_pipes(&request.command, streams).await }
        }
        .boxed()
    }

    fn attach(&self, request: AttachStream, streams: Streams) -> BoxFuture<'_, Result<(), BackendError>> {
        let running = self.enter();
        async move {
            let _running = running;
            if request.container_id == "stopped" {
                return Err(io::Error::other("container stopped is not running").into());
            }
            on_pipes(&["cat".to_owned()], streams).await.map(drop)
        }
        .boxed()
    }

    fn port_forward(&self, _: String, port: u16) -> BoxFuture<'_, Result<Box<dyn Connection>, BackendError>> {
        async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        }
        .boxed()
    }
}

async fn on_pipes(command: &[String], streams: Streams) -> Result<i32, BackendError> {
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .stdin(if streams.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let input = async {
        if let (Some(mut from), Some(mut to)) = (streams.stdin, stdin) {
            let _ = copy(&mut from, &mut to).await;
        }
        std::future::pending::<()>().await;
    };
    let output = async {
        if let (Some(mut from), Some(mut to)) = (stdout, streams.stdout) {
            copy(&mut from, &mut to).await?;
        }
        io::Result::Ok(())
    };
    let errors = async {
        if let (Some(mut from), Some(mut to)) = (stderr, streams.stderr) {
            copy(&mut from, &mut to).await?;
        }
        io::Result::Ok(())
    };
    tokio::select! {
        result = async { tokio::try_join!(output, errors) } => result?,
        () = input => unreachable!(),
    };
    exit_code(&mut child).await
}

/// Waits for the first size, runs the command on a terminal of it, and sets the sizes that follow.
async fn on_terminal(request: &ExecStream, mut streams: Streams) -> Result<i32, BackendError> {
    let first = streams.resize.next().await.ok_or("no terminal size came")?;
    let OpenptyResult { master, slave } = openpty(None, None)?;
    set_size(&slave, first).await?;
    let mut child = Command::new(&request.command[0])
        .args(&request.command[1..])
        .stdin(slave.try_clone()?)
        .stdout(slave.try_clone()?)
        .stderr(slave.try_clone()?)
        .kill_on_drop(true)
        .spawn()?;
    let mut reader = tokio::fs::File::from_std(master.try_clone()?.into());
    let mut writer = tokio::fs::File::from_std(master.into());
    let (Some(mut stdin), Some(mut stdout)) = (streams.stdin, streams.stdout) else {
        return Err("a terminal has stdin and stdout".into());
    };
    let resizes = async {
        while let Some(size) = streams.resize.next().await {
            set_size(&slave, size).await?;
        }
        std::future::pending::<Result<i32, BackendError>>().await
    };
    let input = async {
        let _ = copy(&mut stdin, &mut writer).await;
        let _ = writer.flush().await;
        std::future::pending::<Result<i32, BackendError>>().await
    };
    let mut output = std::pin::pin!(copy(&mut reader, &mut stdout));
    let code = tokio::select! {
        result = resizes => result,
        result = input => result,
        result = exit_code(&mut child) => result,
        result = &mut output => return Err(format!("the terminal ended before the command: {result:?}").into()),
    };
    // Reading a terminal whose other end is closed fails: that is its end of file.
    drop(slave);
    let _ = output.await;
    code
}

async fn set_size(terminal: &OwnedFd, size: TerminalSize) -> io::Result<()> {
    let mut stty = Command::new("stty");
    stty.args(["rows", &size.height.to_string(), "cols", &size.width.to_string()]);
    stty.stdin(terminal.try_clone()?).status().await.map(drop)
}

async fn exit_code(child: &mut Child) -> Result<i32, BackendError> {
    child.wait().await?.code().ok_or_else(|| "a signal ended the command".into())
}
