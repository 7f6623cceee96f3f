//! One method per request of the protocol.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use oci_spec::runtime::{LinuxResources, Process};
use orlop_shim::protocol::{Answer, Create, Exec, Listed, Request};
use tokio::net::{TcpSocket, TcpStream};

use super::connection::Connection;
use super::{Error, ShimClient};

/// For what the shim does by itself, at once.
const QUICK: Duration = Duration::from_secs(10);
/// For what runs an OCI runtime and its hooks.
const RUNTIME: Duration = Duration::from_secs(150);
/// For ending every process of a pod.
const SHUTDOWN: Duration = Duration::from_secs(30);

/// The stdio of a process to exec.
#[derive(Debug)]
pub enum Stdio {
    /// Handed to the process itself; bytes don't travel through the shim.
    Descriptors { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
    /// A new terminal, whose master comes back.
    Terminal,
}

/// A process that was started.
#[derive(Debug)]
pub struct Execed {
    pub pid: i32,
    /// The pty's master, with [`Stdio::Terminal`].
    pub terminal: Option<OwnedFd>,
}

/// A container that is attached to.
#[derive(Debug)]
pub struct Attached {
    pub tty: bool,
    /// Where to write its input, if asked for and there is one. With a terminal this is its master: it is
    /// in non-blocking mode, and what it would give to read belongs to the shim.
    pub stdin: Option<OwnedFd>,
}

impl ShimClient {
    /// Makes a container, its process waiting before exec; the pid of its first process.
    pub async fn create(&self, create: Create) -> Result<i32, Error> {
        match self.ask("Create", Request::Create(create), RUNTIME).await? {
            Answer::Created { pid } => Ok(pid),
            other => Err(unexpected("Create", &other)),
        }
    }

    /// Lets a created container exec; when that was, in nanoseconds since the epoch.
    pub async fn start(&self, id: &str) -> Result<i64, Error> {
        match self.ask("Start", Request::Start { id: id.into() }, RUNTIME).await? {
            Answer::Started { at } => Ok(at),
            other => Err(unexpected("Start", &other)),
        }
    }

    /// Sends a signal to a container's first process, or to `all` its processes. Ok if it has ended.
    pub async fn kill(&self, id: &str, signal: i32, all: bool) -> Result<(), Error> {
        let id = id.into();
        self.done("Kill", Request::Kill { id, signal, all }, QUICK).await
    }

    /// Removes a container that has ended. Ok if there is none.
    pub async fn delete(&self, id: &str) -> Result<(), Error> {
        self.done("Delete", Request::Delete { id: id.into() }, RUNTIME).await
    }

    /// Freezes a container.
    pub async fn pause(&self, id: &str) -> Result<(), Error> {
        self.done("Pause", Request::Pause { id: id.into() }, QUICK).await
    }

    /// Thaws a container.
    pub async fn resume(&self, id: &str) -> Result<(), Error> {
        self.done("Resume", Request::Resume { id: id.into() }, QUICK).await
    }

    /// Changes a container's limits.
    pub async fn update(&self, id: &str, resources: LinuxResources) -> Result<(), Error> {
        let (id, resources) = (id.into(), Box::new(resources));
        self.done("Update", Request::Update { id, resources }, QUICK).await
    }

    /// Runs one more process in a container; its end is told by an event with `exec_id`.
    pub async fn exec(&self, id: &str, exec_id: &str, process: Process, stdio: Stdio) -> Result<Execed, Error> {
        let request = Request::Exec(Exec {
            id: id.into(),
            exec_id: exec_id.into(),
            process: Box::new(process),
            tty: matches!(stdio, Stdio::Terminal),
        });
        let descriptors = match &stdio {
            Stdio::Terminal => Vec::new(),
            Stdio::Descriptors { stdin, stdout, stderr } => vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        };
        match self.exchange("Exec", request, &descriptors, RUNTIME).await? {
            (Answer::Execed { pid }, mut got) => Ok(Execed { pid, terminal: got.pop() }),
            (other, _) => Err(unexpected("Exec", &other)),
        }
    }

    /// Signals a process of `exec`, and what it started. Ok if it has ended.
    pub async fn kill_exec(&self, id: &str, exec_id: &str, signal: i32) -> Result<(), Error> {
        let (id, exec_id) = (id.into(), exec_id.into());
        let request = Request::KillExec { id, exec_id, signal };
        self.done("KillExec", request, QUICK).await
    }

    /// Has a container's output copied to `stdout` and `stderr` (only `stdout` with a terminal), from now
    /// on. These should be the write ends of pipes: a reader that falls behind by more than the pipe holds
    /// (1 MiB) is let go of, which it sees as end-of-file.
    pub async fn attach(
        &self,
        id: &str,
        stdin: bool,
        stdout: OwnedFd,
        stderr: Option<OwnedFd>,
    ) -> Result<Attached, Error> {
        let request = Request::Attach { id: id.into(), stdin };
        let mut descriptors = vec![stdout.as_fd()];
        descriptors.extend(stderr.as_ref().map(AsFd::as_fd));
        match self.exchange("Attach", request, &descriptors, QUICK).await? {
            (Answer::Attached { tty }, mut got) => Ok(Attached { tty, stdin: got.pop() }),
            (other, _) => Err(unexpected("Attach", &other)),
        }
    }

    /// Sets the size of a terminal, in characters.
    pub async fn resize(&self, id: &str, exec_id: Option<&str>, width: u16, height: u16) -> Result<(), Error> {
        let request = Request::Resize { id: id.into(), exec_id: exec_id.map(Into::into), width, height };
        self.done("Resize", request, QUICK).await
    }

    /// Closes the shim's write end of a container's stdin; the container reads end-of-file once all
    /// attached are gone, too.
    pub async fn close_stdin(&self, id: &str) -> Result<(), Error> {
        self.done("CloseStdin", Request::CloseStdin { id: id.into() }, QUICK).await
    }

    /// Opens a container's log file by its path again, after its rotation.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        self.done("ReopenLog", Request::ReopenLog { id: id.into() }, QUICK).await
    }

    /// Connects to a TCP port of localhost inside the pod: 127.0.0.1, else ::1.
    ///
    /// # Errors
    /// [`Error::Dial`] with what 127.0.0.1 answered when neither does.
    pub async fn dial(&self, port: u16) -> Result<TcpStream, Error> {
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        match self.connect_in_pod(v4).await {
            Err(Error::Dial { address, source }) => {
                self.connect_in_pod(v6).await.map_err(|_| Error::Dial { address, source })
            }
            other => other,
        }
    }

    /// The socket is made by the shim, in the pod's network namespace, and connected here.
    async fn connect_in_pod(&self, address: SocketAddr) -> Result<TcpStream, Error> {
        const NAME: &str = "Socket";
        let request = Request::Socket { ipv6: address.is_ipv6() };
        let socket = match self.exchange(NAME, request, &[], QUICK).await? {
            (Answer::Socket, mut got) => got.pop().ok_or_else(|| unexpected(NAME, &Answer::Socket))?,
            (other, _) => return Err(unexpected(NAME, &other)),
        };
        let connecting = TcpSocket::from_std_stream(socket.into()).connect(address);
        match tokio::time::timeout(QUICK, connecting).await {
            Ok(connected) => connected.map_err(|source| Error::Dial { address, source }),
            Err(_) => Err(Error::Dial { address, source: ErrorKind::TimedOut.into() }),
        }
    }

    /// All that the shim knows.
    pub async fn list(&self) -> Result<Listed, Error> {
        match self.ask("List", Request::List, QUICK).await? {
            Answer::Listed(listed) => Ok(listed),
            other => Err(unexpected("List", &other)),
        }
    }

    /// Kills and deletes every container, unpins the namespaces; then the shim exits. Ok if it is gone: what
    /// one that was killed has left is for [`PodFolder::clear`](orlop_shim::pins::PodFolder::clear), which
    /// is fine after any end.
    ///
    /// # Errors
    /// [`FailureKind::Timeout`](super::FailureKind::Timeout) when a process cannot be killed; the shim stays.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let first = self.done("Shutdown", Request::Shutdown, SHUTDOWN).await;
        // It may have been exiting just then, asked by somebody else: who asks again hears which it was.
        let last = match first {
            Err(Error::Transport { .. }) => self.done("Shutdown", Request::Shutdown, SHUTDOWN).await,
            other => other,
        };
        match last {
            Err(error) if error.is_gone() => Ok(()),
            other => other,
        }
    }

    async fn done(&self, name: &'static str, request: Request, deadline: Duration) -> Result<(), Error> {
        match self.ask(name, request, deadline).await? {
            Answer::Done => Ok(()),
            other => Err(unexpected(name, &other)),
        }
    }

    async fn ask(&self, name: &'static str, request: Request, deadline: Duration) -> Result<Answer, Error> {
        Ok(self.exchange(name, request, &[], deadline).await?.0)
    }

    async fn exchange(
        &self,
        name: &'static str,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
        deadline: Duration,
    ) -> Result<(Answer, Vec<OwnedFd>), Error> {
        within(name, deadline, async {
            let connection = self.connection().await?;
            let answer = call(&connection, name, &request, descriptors).await;
            if matches!(answer, Ok(_) | Err(Error::Refused { .. })) {
                self.give_back(connection);
            }
            answer
        })
        .await
    }
}

/// The time that a request may take, connecting included: a shim that hangs does not accept either.
pub(super) async fn within<T>(
    request: &'static str,
    after: Duration,
    talk: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(after, talk).await.unwrap_or(Err(Error::Timeout { request, after }))
}

/// One request and its answer on a connection; an [`Answer::Error`] becomes [`Error::Refused`].
pub(super) async fn call(
    connection: &Connection,
    name: &'static str,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(Answer, Vec<OwnedFd>), Error> {
    let malformed =
        |error: serde_json::Error| Error::Protocol { request: name, problem: format!("malformed message: {error}") };
    let bytes = serde_json::to_vec(request).map_err(malformed)?;
    let broke = |source: std::io::Error| match source.raw_os_error() {
        Some(libc::EMSGSIZE) => Error::TooLong { request: name },
        _ => Error::Transport { request: name, source },
    };
    connection.send(&bytes, descriptors).await.map_err(broke)?;
    let packet = connection.receive().await.map_err(broke)?;
    match serde_json::from_slice(&packet.bytes).map_err(malformed)? {
        Answer::Error(failure) => Err(Error::Refused { request: name, failure }),
        answer => Ok((answer, packet.descriptors)),
    }
}

pub(super) fn unexpected(request: &'static str, answer: &Answer) -> Error {
    Error::Protocol { request, problem: format!("unexpected answer {answer:?}") }
}
