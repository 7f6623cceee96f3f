//! What runs behind the streaming server: execs, attached containers, ports of pods.

use futures::future::BoxFuture;
use tokio::io::AsyncWrite;
use tokio_util::sync::CancellationToken;

use crate::container::{Exec, ExecIo, copy_output, running, shim_of};
use crate::engine::Shared;
use crate::error::{Context, Error, Result};
use crate::io::{AsyncFile, output_pipe};
use crate::streaming::{AttachStream, Backend, BackendError, Connection, ExecStream, Reader, Resize, Streams, Writer};

/// The engine, as the streaming server sees it.
#[derive(Debug)]
pub(crate) struct Streamed {
    pub(crate) engine: Shared,
}

impl Backend for Streamed {
    fn exec(&self, request: ExecStream, streams: Streams) -> BoxFuture<'_, Result<i32, BackendError>> {
        Box::pin(async move { exec(&self.engine, request, streams).await.map_err(boxed) })
    }

    fn attach(&self, request: AttachStream, streams: Streams) -> BoxFuture<'_, Result<(), BackendError>> {
        Box::pin(async move { attach(&self.engine, request, streams).await.map_err(boxed) })
    }

    fn port_forward(&self, sandbox_id: String, port: u16) -> BoxFuture<'_, Result<Box<dyn Connection>, BackendError>> {
        Box::pin(async move { dial(&self.engine, &sandbox_id, port).await.map_err(boxed) })
    }
}

fn boxed(error: Error) -> BackendError {
    Box::new(error)
}

async fn exec(engine: &Shared, request: ExecStream, streams: Streams) -> Result<i32> {
    let Streams { stdin, stdout, stderr, mut resize } = streams;
    let started = Exec::start(engine, &request.container_id, request.command, request.tty, stdin.is_some());
    let (mut exec, ExecIo { stdin: to_stdin, stdout: from_stdout, stderr: from_stderr }) = started.await?;
    let ended = CancellationToken::new();
    let outputs = async {
        let copy_stderr = async {
            match from_stderr {
                Some(pipe) => copy_output(pipe, writer(stderr), &ended).await,
                None => Ok(()),
            }
        };
        // A client that does not read its output any more has gone, and then this future is dropped.
        drop(tokio::join!(copy_output(from_stdout, writer(stdout), &ended), copy_stderr));
    };
    let mut run = std::pin::pin!(async {
        let input = copy_input(stdin, to_stdin);
        let (mut input, mut outputs) = (std::pin::pin!(input), std::pin::pin!(outputs));
        let (mut input_open, mut output_open) = (true, true);
        let status = loop {
            tokio::select! {
                status = exec.wait() => break status,
                () = &mut input, if input_open => input_open = false,
                () = &mut outputs, if output_open => output_open = false,
                Some(size) = resize.next(), if request.tty => exec.resize(size.width, size.height).await,
            }
        };
        ended.cancel();
        if output_open && status.is_ok() {
            outputs.await;
        }
        status
    });
    Ok((&mut run).await?.code)
}

async fn attach(engine: &Shared, request: AttachStream, streams: Streams) -> Result<()> {
    let container = running(engine, &request.container_id)?;
    let shim = shim_of(engine, &container)?;
    let step = || format!("attach to container {}", container.id);
    let Streams { stdin, stdout, stderr, resize } = streams;
    let tty = container.config().tty;
    let (from_stdout, their_stdout) = output_pipe().step(step)?;
    let (from_stderr, their_stderr) = if tty {
        (None, None)
    } else {
        let (ours, theirs) = output_pipe().step(step)?;
        (Some(ours), Some(theirs))
    };
    let attached = shim.attach(&container.id, stdin.is_some(), their_stdout, their_stderr).await;
    let attached = attached.map_err(|error| crate::container::refused(step(), error))?;
    let to_stdin = attached.stdin.map(AsyncFile::new).transpose().step(step)?;

    let never = CancellationToken::new();
    let outputs = async {
        let copy_stderr = async {
            match from_stderr {
                Some(pipe) => copy_output(pipe, writer(stderr), &never).await,
                None => Ok(()),
            }
        };
        drop(tokio::join!(copy_output(from_stdout, writer(stdout), &never), copy_stderr));
    };
    let resizing = resize_container(&shim, &container.id, resize, tty);
    // Input that ends does not end the output; output that ends, ends it all.
    let background = async {
        tokio::join!(copy_input(stdin, to_stdin), resizing);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = outputs => {}
        () = background => {}
    }
    Ok(())
}

async fn resize_container(shim: &crate::shim::ShimClient, container: &str, mut resize: Resize, tty: bool) {
    while let Some(size) = resize.next().await {
        if !tty {
            continue;
        }
        if let Err(error) = shim.resize(container, None, size.width, size.height).await {
            tracing::debug!(%container, %error, "a terminal was not resized");
        }
    }
}

/// Copies the client's input, and lets the process read end-of-file when it ends.
async fn copy_input(from: Option<Reader>, to: Option<AsyncFile>) {
    if let (Some(mut from), Some(mut to)) = (from, to) {
        // A process that closes its input, or ends, is no error.
        drop(tokio::io::copy(&mut from, &mut to).await);
    }
}

/// Output that nobody asked for is read and thrown away.
fn writer(to: Option<Writer>) -> Box<dyn AsyncWrite + Send + Unpin> {
    to.unwrap_or_else(|| Box::new(tokio::io::sink()))
}

async fn dial(engine: &Shared, sandbox: &str, port: u16) -> Result<Box<dyn Connection>> {
    let sandbox = engine.store.sandboxes.find(sandbox)?;
    let shim = sandbox.shim().ok_or_else(|| Error::precondition(format!("sandbox {} is not ready", sandbox.id)))?;
    let stream = shim.dial(port).await;
    Ok(Box::new(stream.map_err(|error| {
        crate::container::refused(format!("connect to port {port} of sandbox {}", sandbox.id), error)
    })?))
}
