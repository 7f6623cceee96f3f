//! A connection to a manager of units: to its private socket, where there is nobody in between, or through the message
//! bus. One call at a time; signals that come meanwhile are kept.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use super::Manager;
use super::wire::{Call, ERROR, METHOD_RETURN, Message, PROLOGUE, SIGNAL, Value, rest_of};
use crate::error::{Context, Failure};

/// How long systemd may take for an answer, or for a job.
const PATIENCE: Duration = Duration::from_secs(30);

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: (&str, &str) = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
const BUS: (&str, &str, &str) = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus");

/// What a call ended with, other than its answer.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The other side says no: the name of its error, and its words.
    Error { name: String, text: String },
    /// There is no answer.
    Failed(Failure),
}

impl Refusal {
    /// Whether it is this error of systemd's.
    pub(super) fn is(&self, error: &str) -> bool {
        matches!(self, Refusal::Error { name, .. } if name.strip_prefix(SYSTEMD).is_some_and(|rest| rest[1..] == *error))
    }

    /// As a failure of a step with a unit.
    pub(super) fn at(self, step: &str, unit: &str) -> Failure {
        match self {
            Refusal::Error { name, text } if text.is_empty() => Failure::refused(step, unit, name),
            Refusal::Error { text, .. } => Failure::refused(step, unit, text),
            Refusal::Failed(failure) => failure,
        }
    }
}

/// How a job ended.
struct Job {
    path: String,
    result: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    /// The manager itself is at the other end.
    Private,
    /// The message bus is.
    Bus,
}

/// A connection that systemd listens to.
pub(super) struct Connection {
    stream: UnixStream,
    deadline: Instant,
    serial: u32,
    /// Jobs that ended while something else was waited for.
    jobs: Vec<Job>,
    address: PathBuf,
}

impl Connection {
    /// Connects to a manager and asks to be told of jobs.
    pub(super) fn open(manager: Manager) -> Result<Connection, Failure> {
        let places = places(manager);
        let mut first = None;
        for (route, address) in places {
            let opened = UnixStream::connect(&address)
                .at("connect to systemd at", address.display())
                .and_then(|stream| Connection::begin(stream, route, address));
            match opened {
                Ok(connection) => return Ok(connection),
                Err(failure) => first = first.or(Some(failure)),
            }
        }
        Err(first.unwrap_or_else(|| {
            let note = "neither XDG_RUNTIME_DIR nor DBUS_SESSION_BUS_ADDRESS is set; log in through systemd, or use \
                        cgroupfs";
            Failure::refused("connect to", "the systemd of this user", note)
        }))
    }

    /// As [`Connection::open`], to give systemd processes by their numbers. One to which these numbers are those of other
    /// processes, or of none, is refused: it made its socket in a PID namespace from where it cannot be seen here.
    pub(super) fn open_with_processes(manager: Manager) -> Result<Connection, Failure> {
        let connection = Connection::open(manager)?;
        let address = connection.address.display();
        if getsockopt(&connection.stream, PeerCredentials).at("ask who is at", &address)?.pid() == 0 {
            let note = "it has another PID namespace, where the numbers of processes are others; use cgroupfs";
            return Err(Failure::refused("give processes to systemd at", address, note));
        }
        Ok(connection)
    }

    fn begin(stream: UnixStream, route: Route, address: PathBuf) -> Result<Connection, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut connection = Connection { stream, deadline, serial: 0, jobs: Vec::new(), address };
        connection.authenticate()?;
        if route == Route::Bus {
            // On the bus who wants signals says so, to the bus and to systemd; on the private socket all come.
            let rule = "type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.systemd1.Manager',\
                        member='JobRemoved'";
            for (member, arguments) in [("Hello", Vec::new()), ("AddMatch", vec![Value::str(rule)])] {
                let (destination, path, interface) = BUS;
                let call = Call { destination, path, interface, member, arguments };
                connection.call(&call).map_err(|refusal| refusal.at("register with", "the message bus"))?;
            }
            connection.manager("Subscribe", Vec::new()).map_err(|refusal| refusal.at("subscribe to", SYSTEMD))?;
        }
        Ok(connection)
    }

    /// As whom the kernel says the other end is talked to; no number is given, since a user namespace has its own.
    ///
    /// All of it in one write, as systemd's own clients do: a call that systemd reads together with BEGIN waits there
    /// until something follows it.
    fn authenticate(&mut self) -> Result<(), Failure> {
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        for wanted in ["DATA", "OK"] {
            let line = self.line()?;
            if line.split_whitespace().next() != Some(wanted) {
                return Err(self.odd(&format!("it answers the authentication with {line:?}")));
            }
        }
        Ok(())
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            // By bytes: what follows the line is not to be read yet. There are two short lines.
            let mut byte = [0];
            self.receive(&mut byte)?;
            line.extend(byte);
            if line.len() > 1024 {
                return Err(self.odd("it sends something other than D-Bus"));
            }
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Calls a method of the manager.
    pub(super) fn manager(&mut self, member: &str, arguments: Vec<Value>) -> Result<Message, Refusal> {
        let (path, interface) = MANAGER;
        self.call(&Call { destination: SYSTEMD, path, interface, member, arguments })
    }

    /// Calls a method that begins a job, and waits for the job's end; returns its result, `done` as a rule.
    pub(super) fn job(&mut self, member: &str, arguments: Vec<Value>) -> Result<String, Refusal> {
        let path = self.manager(member, arguments)?.texts().into_iter().next().unwrap_or_default();
        loop {
            if let Some(job) = self.jobs.iter().find(|job| job.path == path) {
                return Ok(job.result.clone());
            }
            self.message().map_err(Refusal::Failed)?;
        }
    }

    /// The group that a scope has, as a path from the root of its hierarchy; empty if it has none.
    pub(super) fn cgroup_of_scope(&mut self, name: &str) -> Result<String, Refusal> {
        let path = self.manager("GetUnit", vec![Value::str(name)])?.texts().into_iter().next().unwrap_or_default();
        self.property(&path, "org.freedesktop.systemd1.Scope", "ControlGroup")
    }

    /// The version of the manager; 0 when it does not tell.
    pub(super) fn version(&mut self) -> u32 {
        self.property(MANAGER.0, MANAGER.1, "Version").ok().and_then(|text| version(&text)).unwrap_or(0)
    }

    fn property(&mut self, path: &str, interface: &str, name: &str) -> Result<String, Refusal> {
        let arguments = vec![Value::str(interface), Value::str(name)];
        let interface = "org.freedesktop.DBus.Properties";
        let answer = self.call(&Call { destination: SYSTEMD, path, interface, member: "Get", arguments })?;
        Ok(answer.texts().into_iter().next().unwrap_or_default())
    }

    fn call(&mut self, call: &Call<'_>) -> Result<Message, Refusal> {
        self.deadline = Instant::now() + PATIENCE;
        self.serial += 1;
        self.send(&call.bytes(self.serial)).map_err(Refusal::Failed)?;
        loop {
            let message = self.message().map_err(Refusal::Failed)?;
            match message.kind {
                METHOD_RETURN if message.reply_to == self.serial => return Ok(message),
                ERROR if message.reply_to == self.serial => {
                    let text = message.texts().into_iter().next().unwrap_or_default();
                    return Err(Refusal::Error { name: message.error, text });
                }
                _ => (),
            }
        }
    }

    /// Receives a message; a signal that a job ended is kept.
    fn message(&mut self) -> Result<Message, Failure> {
        let mut prologue = [0; PROLOGUE];
        self.receive(&mut prologue)?;
        let broken = "it sends a message that cannot be understood";
        let mut rest = vec![0; rest_of(&prologue).ok_or_else(|| self.odd(broken))?];
        self.receive(&mut rest)?;
        let message = Message::parse(&prologue, &rest).ok_or_else(|| self.odd(broken))?;
        if message.kind == SIGNAL
            && message.member == "JobRemoved"
            && let [_, path, _, result] = &*message.texts()
        {
            self.jobs.push(Job { path: path.clone(), result: result.clone() });
        }
        Ok(message)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.limit()?;
        (&self.stream).write_all(bytes).map_err(|error| self.silent(&error))
    }

    fn receive(&mut self, bytes: &mut [u8]) -> Result<(), Failure> {
        self.limit()?;
        (&self.stream).read_exact(bytes).map_err(|error| self.silent(&error))
    }

    /// Gives the next read and write the time that is left.
    fn limit(&self) -> Result<(), Failure> {
        let left = self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let set = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.set_write_timeout(Some(left)));
        set.at("limit the time of", self.address.display())
    }

    fn silent(&self, error: &std::io::Error) -> Failure {
        match error.kind() {
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                self.odd(&format!("it does not answer within {} s", PATIENCE.as_secs()))
            }
            std::io::ErrorKind::UnexpectedEof => self.odd("it closes the connection"),
            _ => {
                let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                Failure::new("talk to systemd at", self.address.display(), errno)
            }
        }
    }

    fn odd(&self, note: &str) -> Failure {
        Failure::refused("talk to systemd at", self.address.display(), note)
    }
}

/// Where a manager listens, in the order of the ways to it: the private socket is there before the message bus is, and
/// on hosts without one; but it need not be for ever, and a container may have been given the bus alone.
fn places(manager: Manager) -> Vec<(Route, PathBuf)> {
    if manager == Manager::System {
        return vec![
            (Route::Private, "/run/systemd/private".into()),
            (Route::Bus, "/run/dbus/system_bus_socket".into()),
        ];
    }
    let folder = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let mut places = Vec::new();
    places.extend(folder.as_ref().map(|folder| (Route::Private, folder.join("systemd/private"))));
    let bus = std::env::var("DBUS_SESSION_BUS_ADDRESS").ok().and_then(|address| socket(&address));
    places.extend(bus.or(folder.map(|folder| folder.join("bus"))).map(|bus| (Route::Bus, bus)));
    places
}

/// The first socket of an address list that has a path (D-Bus specification, "Server Addresses").
fn socket(addresses: &str) -> Option<PathBuf> {
    let keys = addresses.split(';').filter_map(|address| address.strip_prefix("unix:"));
    let path = keys.flat_map(|keys| keys.split(',')).find_map(|pair| pair.strip_prefix("path="))?;
    let mut bytes = Vec::new();
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        bytes.push(if byte == b'%' { (digit(rest.next())? * 16 + digit(rest.next())?) as u8 } else { byte });
    }
    use std::os::unix::ffi::OsStrExt;
    Some(Path::new(std::ffi::OsStr::from_bytes(&bytes)).to_owned())
}

/// The number in a version, as in `257`, `257.9-1~deb13u1` or `v245.4-1.fc32`.
fn version(text: &str) -> Option<u32> {
    let text = text.trim_start_matches('v');
    text[..text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let path = |text: &str| socket(text).map(|path| path.display().to_string());
        assert_eq!(path("unix:path=/run/user/7/bus").as_deref(), Some("/run/user/7/bus"));
        assert_eq!(path("tcp:host=a;unix:guid=0f,path=/a%20b").as_deref(), Some("/a b"));
        assert_eq!(path("unix:abstract=/x"), None);
        assert_eq!(path("unix:path=/a%2"), None);
    }

    #[test]
    fn versions() {
        assert_eq!(version("257.9-1~deb13u1"), Some(257));
        assert_eq!(version("v245.4-1.fc32"), Some(245));
        assert_eq!(version("unknown"), None);
    }
}
