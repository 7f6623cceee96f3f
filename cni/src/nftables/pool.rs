//! Sockets that stay open. When a netfilter socket closes, the kernel first waits for everything that was
//! removed from any table to be freed, 15 ms, and holds up all other changes meanwhile; so none is closed on
//! the way of a container.

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::netlink::Socket;
use crate::plugin::Error;

/// More than this many at a time are closed after use.
const KEPT: usize = 4;

/// A network namespace by device and inode.
type NetnsId = (u64, u64);

static IDLE: Mutex<Vec<(NetnsId, Socket)>> = Mutex::new(Vec::new());

/// Does `work` with a socket of the calling thread's network namespace.
pub(super) fn with_socket<T>(work: impl FnOnce(&mut Socket) -> Result<T, Error>) -> Result<T, Error> {
    let netns = own_netns()?;
    let mut socket = match take(netns) {
        Some(socket) => socket,
        None => Socket::open(NETLINK_NETFILTER).map_err(|f| f.during("open a netfilter netlink socket"))?,
    };
    let result = work(&mut socket);
    put_back(netns, socket);
    result
}

fn own_netns() -> Result<NetnsId, Error> {
    let path = "/proc/thread-self/ns/net".as_ref();
    let metadata = fs::metadata(path).map_err(Error::file("look at", path))?;
    Ok((metadata.st_dev(), metadata.st_ino()))
}

fn take(netns: NetnsId) -> Option<Socket> {
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    let found = idle.iter().position(|(id, _)| *id == netns)?;
    Some(idle.swap_remove(found).1)
}

/// A socket keeps its namespace alive, so those of other namespaces go.
fn put_back(netns: NetnsId, socket: Socket) {
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    idle.push((netns, socket));
    let (mut own, mut surplus): (Vec<_>, Vec<_>) = idle.drain(..).partition(|(id, _)| *id == netns);
    surplus.extend(own.drain(own.len().min(KEPT)..));
    *idle = own;
    // Closing takes its time: not under the lock.
    drop(idle);
    drop(surplus);
}
