//! More processes in a container: started by the shim, their streams held here.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use nix::libc;
use orlop_proto::v1;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{bundle, refused, running, shim_of};
use crate::engine::Shared;
use crate::error::{Context, Error, Kind, Result};
use crate::io::{AsyncFile, Capped, input_pipe, output_pipe};
use crate::shim::{ExitStatus, ShimClient, Stdio};
use crate::spec;

/// What ExecSync answers at most of each stream, as containerd.
const SYNC_OUTPUT_LIMIT: usize = 16 << 20;
/// Once a process has ended, its output is waited for this long: a child in the background may hold the streams
/// open, and write to them, for ever.
const DRAIN: Duration = Duration::from_millis(500);
/// What a pipe holds (pipe(7)): a reader that is slow gets what the process had written when it ended.
const PIPE: usize = 64 << 10;

/// Our ends of an exec's streams. With a terminal `stdin` and `stdout` are its master.
#[derive(Debug)]
pub(crate) struct ExecIo {
    pub(crate) stdin: Option<AsyncFile>,
    pub(crate) stdout: AsyncFile,
    pub(crate) stderr: Option<AsyncFile>,
}

/// A process in a container. Dropped before it has ended, it is killed with all that it started.
#[derive(Debug)]
pub(crate) struct Exec {
    engine: Shared,
    shim: ShimClient,
    container: String,
    id: String,
    ended: oneshot::Receiver<ExitStatus>,
    over: bool,
}

impl Exec {
    /// Starts `command` in a running container; it reads /dev/null unless `stdin`.
    pub(crate) async fn start(
        engine: &Shared,
        container: &str,
        command: Vec<String>,
        tty: bool,
        stdin: bool,
    ) -> Result<(Exec, ExecIo)> {
        let container = running(engine, container)?;
        let shim = shim_of(engine, &container)?;
        let process = spec::exec_process(&bundle::load_spec(&engine.config, &container)?, command, tty)?;
        let id = format!("{:032x}", rand::random::<u128>());
        let ended = engine.expect_exec(&container.id, &id);
        let exec = Exec { engine: Arc::clone(engine), shim, container: container.id.clone(), id, ended, over: false };
        let step = || format!("execute a command in container {}", container.id);
        let (stdio, ours) = if tty { (Stdio::Terminal, None) } else { pipes(stdin).step(step)? };
        let started = exec.shim.exec(&exec.container, &exec.id, process, stdio).await;
        let started = started.map_err(|error| refused(step(), error))?;
        let io = match (ours, started.terminal) {
            (Some(ours), _) => ours,
            (None, Some(master)) => {
                let master = AsyncFile::new(master).step(step)?;
                ExecIo { stdin: stdin.then(|| master.clone()), stdout: master, stderr: None }
            }
            (None, None) => return Err(Error::internal(format!("{}: the shim gave no terminal", step()))),
        };
        Ok((exec, io))
    }

    /// Waits for the end; to be called until it has been told, and not again.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.engine.told(&mut self.ended).await?;
        self.over = true;
        status
            .map_err(|_| Error::new(Kind::Unavailable, format!("container {} ended under the command", self.container)))
    }

    /// Sets the size of the terminal, in characters.
    pub(crate) async fn resize(&self, width: u16, height: u16) {
        if let Err(error) = self.shim.resize(&self.container, Some(&self.id), width, height).await {
            tracing::debug!(container = %self.container, %error, "a terminal was not resized");
        }
    }

    /// The same; at the deadline, unless that is zero, the process is killed.
    async fn wait_for(&mut self, deadline: Duration) -> Result<ExitStatus> {
        if deadline.is_zero() {
            return self.wait().await;
        }
        if let Ok(status) = tokio::time::timeout(deadline, self.wait()).await {
            return status;
        }
        let text = format!("the command timed out after {} s", deadline.as_secs());
        Err(Error::new(Kind::DeadlineExceeded, text).and_cleanup(self.kill().await))
    }

    /// Kills the process and what it started, and waits for the end.
    async fn kill(&mut self) -> Result<()> {
        let killed = self.shim.kill_exec(&self.container, &self.id, libc::SIGKILL).await;
        killed.map_err(|error| refused(format!("kill a command in container {}", self.container), error))?;
        self.wait().await.map(drop)
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        self.engine.forget_exec(&self.container, &self.id);
        if self.over {
            return;
        }
        let (shim, container, id) = (self.shim.clone(), self.container.clone(), self.id.clone());
        self.engine.tasks.spawn(async move {
            if let Err(error) = shim.kill_exec(&container, &id, libc::SIGKILL).await
                && !error.is_gone()
                && !error.is_not_found()
            {
                tracing::warn!(%container, %error, "a command whose client has gone was not killed");
            }
        });
    }
}

fn pipes(stdin: bool) -> std::io::Result<(Stdio, Option<ExecIo>)> {
    let (stdout, their_stdout) = output_pipe()?;
    let (stderr, their_stderr) = output_pipe()?;
    let (their_stdin, stdin): (OwnedFd, _) = if stdin {
        let (theirs, ours) = input_pipe()?;
        (theirs, Some(ours))
    } else {
        (OpenOptions::new().read(true).open("/dev/null")?.into(), None)
    };
    let stdio = Stdio::Descriptors { stdin: their_stdin, stdout: their_stdout, stderr: their_stderr };
    Ok((stdio, Some(ExecIo { stdin, stdout, stderr: Some(stderr) })))
}

/// Copies until the end of `from`, or for a while after `ended` and then what is there.
pub(crate) async fn copy_output(
    mut from: AsyncFile,
    mut to: impl AsyncWrite + Unpin,
    ended: &CancellationToken,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 32 << 10];
    let mut drained = std::pin::pin!(async {
        ended.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    });
    loop {
        let count = tokio::select! {
            biased;
            () = &mut drained => break,
            count = from.read(&mut buffer) => count?,
        };
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
    }
    let mut left = PIPE;
    while left > 0 {
        let most = left.min(buffer.len());
        let count = from.read(&mut buffer[..most]).now_or_never().transpose()?.unwrap_or(0);
        if count == 0 {
            break;
        }
        to.write_all(&buffer[..count]).await?;
        left -= count;
    }
    to.shutdown().await
}

/// ExecSync: runs a command to its end and answers with its output, of each stream the first 16 MiB.
pub(crate) async fn exec_sync(engine: &Shared, request: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse> {
    if request.timeout < 0 {
        return Err(Error::invalid("the timeout is negative"));
    }
    let (mut exec, io) = Exec::start(engine, &request.container_id, request.cmd, false, false).await?;
    let (mut stdout, mut stderr) = (Capped::new(SYNC_OUTPUT_LIMIT), Capped::new(SYNC_OUTPUT_LIMIT));
    let ended = CancellationToken::new();
    let copy = async {
        let copy_stderr = async {
            match io.stderr {
                Some(pipe) => copy_output(pipe, &mut stderr, &ended).await,
                None => Ok(()),
            }
        };
        tokio::try_join!(copy_output(io.stdout, &mut stdout, &ended), copy_stderr)
            .step(|| "read the output of the command".to_owned())
    };
    let deadline = Duration::from_secs(request.timeout as u64);
    let run = async {
        let status = exec.wait_for(deadline).await;
        ended.cancel();
        status
    };
    let (status, _) = tokio::try_join!(run, copy)?;
    Ok(v1::ExecSyncResponse { stdout: stdout.into_bytes(), stderr: stderr.into_bytes(), exit_code: status.code })
}
