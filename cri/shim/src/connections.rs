//! Who is connected, what they ask, and what they are told.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::unistd::geteuid;
use orlop_shim::packet::{self, Packet};
use orlop_shim::protocol::{Answer, Event, Failure, FailureKind, Request};

use crate::failure::failure;
use crate::journal::note;
use crate::poller::{Poller, Token, Watched};
use crate::requests::{Outcome, Reply};
use crate::shim::Shim;
use crate::sys;

/// More are refused: each costs the shim a descriptor.
const MOST: usize = 128;
/// What a subscriber may leave unread, in bytes as the kernel counts them (about 1 KiB an event).
const SUBSCRIBER_BUFFER: usize = 1024 * 1024;
/// For which no connection is accepted when the process has run out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Idle,
    /// Its request is being worked on; no other is read.
    Waiting,
    Subscriber,
}

#[derive(Debug)]
struct Connection {
    serial: u32,
    socket: Watched,
    role: Role,
}

#[derive(Debug)]
pub(crate) struct Connections {
    listener: Watched,
    paused: bool,
    all: Vec<Connection>,
}

impl Connections {
    pub(crate) fn new(poller: &Poller, listener: OwnedFd) -> nix::Result<Connections> {
        let listener = poller.watch(listener, Token::Listener, EpollFlags::EPOLLIN)?;
        Ok(Connections { listener, paused: false, all: Vec::new() })
    }

    pub(crate) fn add(&mut self, poller: &Poller, serial: u32, socket: OwnedFd) -> nix::Result<()> {
        let socket = poller.watch(socket, Token::Connection(serial), EpollFlags::EPOLLIN)?;
        self.all.push(Connection { serial, socket, role: Role::Idle });
        Ok(())
    }

    /// How long to wait before accepting again, if that is paused.
    pub(crate) fn pause(&self) -> Option<Duration> {
        self.paused.then_some(PAUSE)
    }

    pub(crate) fn resume(&mut self) {
        if self.paused {
            self.paused = self.listener.rearm(EpollFlags::EPOLLIN).is_err();
        }
    }

    /// Tells every subscriber. One that does not keep up is let go of; it subscribes again, and is told.
    pub(crate) fn tell(&mut self, event: &Event) {
        let Ok(bytes) = serde_json::to_vec(event) else { return };
        self.all.retain(|connection| {
            connection.role != Role::Subscriber || packet::send(connection.socket.as_fd(), &bytes, &[]).is_ok()
        });
    }

    /// Answers who asked, if they are still there.
    pub(crate) fn answer(&mut self, serial: u32, answer: Result<Reply, Failure>) {
        let Some(connection) = self.get(serial) else { return };
        let sent = send(connection, answer).is_ok() && connection.expect(Role::Idle).is_ok();
        if !sent {
            self.close(serial);
        }
    }

    fn get(&mut self, serial: u32) -> Option<&mut Connection> {
        self.all.iter_mut().find(|connection| connection.serial == serial)
    }

    fn close(&mut self, serial: u32) {
        self.all.retain(|connection| connection.serial != serial);
    }
}

impl Connection {
    fn expect(&mut self, role: Role) -> nix::Result<()> {
        if self.role != role {
            self.role = role;
            // A hang-up is told in any case.
            self.socket.rearm(if role == Role::Waiting { EpollFlags::empty() } else { EpollFlags::EPOLLIN })?;
        }
        Ok(())
    }
}

fn send(connection: &Connection, answer: Result<Reply, Failure>) -> std::io::Result<()> {
    let reply = answer.unwrap_or_else(|failure| Reply::from(Answer::Error(failure)));
    let bytes = serde_json::to_vec(&reply.answer)?;
    let descriptors: Vec<_> = reply.descriptors.iter().map(AsFd::as_fd).collect();
    match packet::send(connection.socket.as_fd(), &bytes, &descriptors) {
        Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => {
            let limit = Answer::Error(failure(FailureKind::Limit, "the answer is longer than a message may be"));
            packet::send(connection.socket.as_fd(), &serde_json::to_vec(&limit)?, &[])
        }
        other => other,
    }
}

impl Shim {
    pub(crate) fn accept_connections(&mut self) {
        loop {
            match sys::accept(self.connections.listener.as_fd()) {
                Ok(socket) => self.admit(socket),
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(errno) => {
                    note!("accept a connection: {errno}");
                    self.connections.paused = self.connections.listener.rearm(EpollFlags::empty()).is_ok();
                    return;
                }
            }
        }
    }

    /// The folder is closed to others, and the socket too; this is the third door.
    fn admit(&mut self, socket: OwnedFd) {
        let peer = getsockopt(&socket, sockopt::PeerCredentials);
        if !peer.is_ok_and(|peer| peer.uid() == geteuid().as_raw()) {
            note!("refused a connection from another user");
            return;
        }
        if self.connections.all.len() >= MOST {
            note!("refused a connection: {MOST} are open");
            return;
        }
        let serial = self.serial();
        if let Err(errno) = self.connections.add(&self.poller, serial, socket) {
            note!("wait for requests: {errno}");
        }
    }

    /// Receives and answers one request, or closes a connection that the other side has closed.
    pub(crate) fn serve(&mut self, serial: u32) {
        let Some(connection) = self.connections.get(serial) else { return };
        let role = connection.role;
        let packet = match packet::receive(connection.socket.as_fd()) {
            Ok(Some(packet)) if role == Role::Idle => packet,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && role == Role::Idle => return,
            // Closed, or not keeping to the protocol: one request at a time, none after Subscribe.
            _ => return self.connections.close(serial),
        };
        match self.perform(serial, packet) {
            Ok(Outcome::Reply(reply)) => self.connections.answer(serial, Ok(reply)),
            Err(failure) => self.connections.answer(serial, Err(failure)),
            Ok(Outcome::Later) => self.set_role(serial, Role::Waiting),
            Ok(Outcome::Subscribe) => self.subscribe(serial),
        }
    }

    fn perform(&mut self, serial: u32, packet: Packet) -> Result<Outcome, Failure> {
        let request: Request = serde_json::from_slice(&packet.bytes)
            .map_err(|error| failure(FailureKind::Invalid, format!("malformed request: {error}")))?;
        self.handle(serial, request, packet.descriptors)
    }

    fn set_role(&mut self, serial: u32, role: Role) {
        let Some(connection) = self.connections.get(serial) else { return };
        if let Err(errno) = connection.expect(role) {
            note!("wait on a connection: {errno}");
            self.connections.close(serial);
        }
    }

    fn subscribe(&mut self, serial: u32) {
        self.connections.answer(serial, Ok(Answer::Done.into()));
        self.set_role(serial, Role::Subscriber);
        let backlog = self.backlog();
        let Some(connection) = self.connections.get(serial) else { return };
        // Beyond the host's limit, which root may; otherwise the limit.
        if setsockopt(&connection.socket, sockopt::SndBufForce, &SUBSCRIBER_BUFFER).is_err() {
            let _ = setsockopt(&connection.socket, sockopt::SndBuf, &SUBSCRIBER_BUFFER);
        }
        let told = backlog
            .iter()
            .try_for_each(|event| packet::send(connection.socket.as_fd(), &serde_json::to_vec(event)?, &[]));
        if told.is_err() {
            self.connections.close(serial);
        }
    }

    /// What ended before.
    fn backlog(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for container in &self.containers {
            for exec in &container.execs {
                let (id, exec_id) = (container.id.clone(), Some(exec.id.clone()));
                events.extend(exec.exit.map(|status| Event::Exit { id, exec_id, status }));
            }
            let id = container.id.clone();
            events.extend(container.exit().map(|status| Event::Exit { id, exec_id: None, status }));
        }
        events.push(Event::Synced);
        events
    }
}
