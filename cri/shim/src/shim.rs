//! The shim's state, and the loop that everything happens in.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signalfd::SignalFd;
use orlop_runtime::Runtime;
use orlop_shim::pins::PodFolder;
use orlop_shim::protocol::{Failure, Init};

use crate::connections::Connections;
use crate::container::{Container, Phase};
use crate::failure::{Step, no_container};
use crate::jobs::Jobs;
use crate::journal::note;
use crate::poller::{Poller, Token, Watched};
use crate::proc::Proc;
use crate::reaper::Reaper;
use crate::scratch::Scratch;
use crate::shutdown::Shutdown;

/// News taken from the kernel at a time.
const EVENTS: usize = 32;
/// After this long without output its buffers are given back.
const IDLE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) init: Init,
    pub(crate) folder: PodFolder,
    pub(crate) proc: Proc,
    pub(crate) runtime: Runtime,
    pub(crate) poller: Poller,
    pub(crate) signals: SignalFd,
    pub(crate) reaper: Option<Reaper>,
    pub(crate) connections: Connections,
    pub(crate) containers: Vec<Container>,
    pub(crate) jobs: Jobs,
    pub(crate) scratch: Scratch,
    pub(crate) shutdown: Option<Shutdown>,
    /// Keeps the signals in the poller.
    pub(crate) _signal_watch: Watched,
    pub(crate) next_serial: u32,
}

/// What the pod's shim is made from once its namespaces are there.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) init: Init,
    pub(crate) folder: PodFolder,
    pub(crate) proc: Proc,
    pub(crate) signals: SignalFd,
    pub(crate) reaper: Option<Reaper>,
    pub(crate) listener: OwnedFd,
    pub(crate) first: OwnedFd,
}

impl Shim {
    pub(crate) fn new(parts: Parts) -> Result<Shim, Failure> {
        let Parts { init, folder, proc, signals, reaper, listener, first } = parts;
        let poller = Poller::new().step("make an epoll instance")?;
        let copy = std::os::fd::AsFd::as_fd(&signals).try_clone_to_owned().step("copy the signal descriptor")?;
        let signal_watch = poller.watch(copy, Token::Signals, EpollFlags::EPOLLIN).step("wait for signals")?;
        let mut connections = Connections::new(&poller, listener).step("wait for connections")?;
        let mut next_serial = 0;
        connections.add(&poller, serial(&mut next_serial), first).step("wait for requests")?;
        Ok(Shim {
            runtime: Runtime::new(&init.runtime_root).on_warning(|text| note!("{text}")),
            scratch: Scratch::new().step("map the output buffers")?,
            init,
            folder,
            proc,
            poller,
            signals,
            reaper,
            connections,
            containers: Vec::new(),
            jobs: Jobs::default(),
            shutdown: None,
            _signal_watch: signal_watch,
            next_serial,
        })
    }

    /// Serves until the pod is shut down.
    pub(crate) fn run(&mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        while !self.shutdown.as_ref().is_some_and(Shutdown::is_done) {
            let poller = self.poller.clone();
            let mut quiet = true;
            match poller.wait(&mut events, self.timeout()) {
                Ok(ready) => ready.for_each(|token| {
                    quiet = false;
                    self.dispatch(token);
                }),
                Err(Errno::EINTR) => {}
                Err(errno) => note!("wait for events: {errno}"),
            }
            if quiet && self.scratch.is_dirty() {
                self.scratch.release();
            }
            self.tick(Instant::now());
        }
    }

    pub(crate) fn serial(&mut self) -> u32 {
        serial(&mut self.next_serial)
    }

    pub(crate) fn container(&mut self, id: &str) -> Result<&mut Container, Failure> {
        self.containers.iter_mut().find(|container| container.id == id).ok_or_else(|| no_container(id))
    }

    pub(crate) fn index(&self, serial: u32) -> Option<usize> {
        self.containers.iter().position(|container| container.serial == serial)
    }

    fn dispatch(&mut self, token: Token) {
        match token {
            Token::Signals => self.reap_children(),
            Token::Listener => self.accept_connections(),
            Token::Connection(serial) => self.serve(serial),
            Token::Output(serial, part) => {
                if let Some(index) = self.index(serial) {
                    self.containers[index].outputs.relay(part, &mut self.scratch);
                    self.settle(index, Instant::now());
                }
            }
            Token::Oom(serial) => self.notice_oom(serial),
            Token::Attacher(serial, part) => {
                self.containers.iter_mut().any(|container| container.outputs.detach(serial, part));
            }
        }
    }

    /// What is due by now.
    fn tick(&mut self, now: Instant) {
        for index in 0..self.containers.len() {
            self.settle(index, now);
        }
        self.end_late_jobs(now);
        self.connections.resume();
        self.go_on_shutting_down(now);
    }

    fn timeout(&self) -> EpollTimeout {
        let draining = self.containers.iter().filter_map(|container| match container.phase {
            Phase::Draining { until, .. } => Some(until),
            _ => None,
        });
        let due = draining.chain(self.jobs.due()).chain(self.shutdown.as_ref().map(|shutdown| shutdown.until)).min();
        let wait = due.map(|due| due.saturating_duration_since(Instant::now()));
        let idle = self.scratch.is_dirty().then_some(IDLE);
        let wait = wait.into_iter().chain(idle).chain(self.connections.pause()).min();
        // Rounded up: it must not wake just before it is due, again and again.
        wait.map_or(EpollTimeout::NONE, |wait| {
            EpollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(EpollTimeout::MAX)
        })
    }
}

fn serial(next: &mut u32) -> u32 {
    *next = next.wrapping_add(1);
    *next
}
