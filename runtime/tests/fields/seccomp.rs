//! Seccomp's listener.

use nix::errno::Errno;
use serde_json::{Value, json};

use crate::common::{self, Container, can_run};

/// What a listener of seccomp got: the message, and the filter's descriptor.
fn accept_filter(listener: &std::os::unix::net::UnixListener) -> (Value, std::os::fd::OwnedFd) {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    use std::os::fd::AsRawFd;
    let (connection, _) = listener.accept().expect("accept");
    let mut bytes = vec![0; 65536];
    let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(connection.as_raw_fd(), &mut parts, Some(&mut space), flags).expect("message");
    let mut fds = Vec::new();
    for control in message.cmsgs().expect("control messages") {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            fds.extend(numbers);
        }
    }
    let length = message.bytes;
    assert_eq!(fds.len(), 1);
    let filter = own(fds[0]);
    // One message for each connection, which ends with it.
    assert_eq!(std::io::Read::read(&mut &connection, &mut [0]).expect("end"), 0);
    (serde_json::from_slice(&bytes[..length]).expect("json"), filter)
}

#[allow(unsafe_code)]
fn own(number: i32) -> std::os::fd::OwnedFd {
    // SAFETY: recvmsg just made the descriptor, and nothing else knows its number.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(number) }
}

/// `struct seccomp_notif` and `struct seccomp_notif_resp` of linux/seccomp.h.
#[repr(C)]
#[derive(Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    architecture: u32,
    instruction: u64,
    args: [u64; 6],
}

#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[allow(unsafe_code)]
mod ioctl {
    nix::ioctl_readwrite!(receive, b'!', 0, super::Notification);
    nix::ioctl_readwrite!(send, b'!', 1, super::Answer);
}

/// Answers one system call with an error; returns whose it was.
#[allow(unsafe_code)]
fn answer(filter: &std::os::fd::OwnedFd, errno: Errno) -> u32 {
    use std::os::fd::AsRawFd;
    let mut notification = Notification::default();
    // SAFETY: the structure is the kernel's, zeroed, and lives through the call.
    unsafe { ioctl::receive(filter.as_raw_fd(), &raw mut notification) }.expect("receive");
    let mut answer = Answer { id: notification.id, value: 0, error: -(errno as i32), flags: 0 };
    // SAFETY: the structure is the kernel's and lives through the call.
    unsafe { ioctl::send(filter.as_raw_fd(), &raw mut answer) }.expect("send");
    notification.pid
}

#[test]
fn a_seccomp_listener_is_asked() {
    if !can_run() {
        return;
    }
    for no_new_privs in [true, false] {
        let container = Container::new("(mkdir /x) 2>&1; sleep 1000");
        let path = container.folder.path().join("seccomp.sock");
        let socket = std::os::unix::net::UnixListener::bind(&path).expect("listener");
        let container = container
            .set("/process/noNewPrivileges", json!(no_new_privs))
            .set("/annotations", json!({"org.example": "yes"}))
            .set(
                "/linux/seccomp",
                json!({
                    "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "for the listener",
                    "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
                    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]
                }),
            );
        let (message, filter) = std::thread::scope(|scope| {
            let got = scope.spawn(|| accept_filter(&socket));
            container.create().ok();
            got.join().expect("listener")
        });
        let pid = container.state()["pid"].clone();
        let bundle = container.folder.path().to_str().expect("path");
        let expected = json!({
            "ociVersion": "1.3.0", "fds": ["seccompFd"], "pid": pid, "metadata": "for the listener",
            "state": {
                "ociVersion": "1.3.0", "id": container.id, "status": "creating", "pid": pid, "bundle": bundle,
                "annotations": {"org.example": "yes"}
            }
        });
        assert_eq!(message, expected);
        container.start().ok();
        assert_ne!(answer(&filter, Errno::ENOTBLK), 0);
        common::wait_until("the answer", || container.output().contains("Block device required"));

        // Another process of the container has a filter of its own.
        let (message, filter) = std::thread::scope(|scope| {
            let exec = scope.spawn(|| container.exec("mkdir /y"));
            let got = accept_filter(&socket);
            answer(&got.1, Errno::EXFULL);
            assert!(exec.join().expect("exec").error().contains("Exchange full"));
            got
        });
        assert_eq!(message["state"]["status"], json!("running"));
        assert_eq!(message["state"]["pid"], pid);
        assert_ne!(message["pid"], pid);
        drop(filter);
    }
}

#[test]
fn a_seccomp_listener_that_cannot_be() {
    if !can_run() {
        return;
    }
    let fails = |more: Value, name: &str, action: &str| {
        let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [name], "action": action}]});
        profile.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        Container::new("true").set("/linux/seccomp", profile).run().error()
    };
    let notify = "SCMP_ACT_NOTIFY";
    assert!(fails(json!({}), "mkdir", notify).contains("linux.seccomp.listenerPath"));
    let nobody = fails(json!({"listenerPath": "/nobody.sock"}), "mkdir", notify);
    assert!(nobody.contains("seccomp listener /nobody.sock: No such file"), "{nobody}");
    assert!(fails(json!({"listenerPath": "/nobody.sock"}), "sendmsg", notify).contains("sendmsg"));
    let default = fails(json!({"defaultAction": notify, "listenerPath": "/nobody.sock"}), "mkdir", "SCMP_ACT_ALLOW");
    assert!(default.contains("linux.seccomp.defaultAction"), "{default}");
    assert!(fails(json!({"listenerMetadata": "x"}), "mkdir", "SCMP_ACT_ERRNO").contains("listenerMetadata"));
    // Who is not asked need not be there.
    let unused = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/nobody.sock",
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    });
    Container::new("true").set("/linux/seccomp", unused).run().ok();
}
