//! The pod itself: namespaces and their pins, the shim's independence, its end.

mod common;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use common::bundle::Bundle;
use common::{OWN, OWN_AND_PID, Pod, alive, cannot_run, eventually, plan, receive, send, spawn, state};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid, getsid};
use orlop_shim::packet;
use orlop_shim::pins::PodFolder;
use orlop_shim::protocol::{Answer, ContainerState, FailureKind, PodNamespaces, Request, SOCKET};

/// The namespace that a pin or a /proc link stands for.
fn namespace(path: impl AsRef<std::path::Path>) -> (u64, u64) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.dev(), metadata.ino())
}

/// Runs in the namespaces that are pinned, in a thread of its own.
fn within<T: Send + 'static>(pod: &Pod, names: &[(&str, CloneFlags)], act: impl FnOnce() -> T + Send + 'static) -> T {
    let open = |(name, flag): &(&str, CloneFlags)| (fs::File::open(pod.dir().join("ns").join(name)).unwrap(), *flag);
    let files: Vec<_> = names.iter().map(open).collect();
    let thread = std::thread::spawn(move || {
        for (file, flag) in files {
            setns(file, flag).unwrap();
        }
        act()
    });
    thread.join().unwrap()
}

#[test]
fn makes_and_pins_the_namespaces() {
    if cannot_run(None) {
        return;
    }
    let mut pod = Pod::with(OWN_AND_PID, |init| {
        init.sysctls = [("net.ipv4.ip_unprivileged_port_start", "0"), ("kernel.shm_rmid_forced", "1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    });
    for name in ["net", "ipc", "uts"] {
        let pinned = namespace(pod.dir().join("ns").join(name));
        assert_eq!(pinned, namespace(format!("/proc/{}/ns/{name}", pod.shim)));
        assert_ne!(pinned, namespace(format!("/proc/self/ns/{name}")));
    }
    let pinned = namespace(pod.dir().join("ns/pid"));
    assert_ne!(pinned, namespace("/proc/self/ns/pid"));
    assert_eq!(namespace(format!("/proc/{}/ns/pid", pod.shim)), namespace("/proc/self/ns/pid"));
    let all = [("net", CloneFlags::CLONE_NEWNET), ("ipc", CloneFlags::CLONE_NEWIPC), ("uts", CloneFlags::CLONE_NEWUTS)];
    let (hostname, port, shm, interfaces) = within(&pod, &all, || {
        let read = |path: &str| fs::read_to_string(path).unwrap();
        (
            nix::unistd::gethostname().unwrap(),
            read("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
            read("/proc/sys/kernel/shm_rmid_forced"),
            read("/proc/thread-self/net/if_inet6") + &read("/proc/thread-self/net/dev"),
        )
    });
    assert_eq!((hostname.to_str(), port.trim(), shm.trim()), (Some("pod-name"), "0", "1"));
    assert!(interfaces.contains("lo"), "{interfaces}");
    assert_eq!(fs::metadata(pod.dir().join(SOCKET)).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(pod.dir().join("shim.log")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(pod.complaints(), "");
    let reaper = fs::read_to_string(format!("/proc/{0}/task/{0}/children", pod.shim)).unwrap();
    let reaper: i32 = reaper.trim().parse().unwrap();
    eventually("the pod's PID 1 holds nothing open", || {
        fs::read_dir(format!("/proc/{reaper}/fd")).unwrap().count() == 0
    });
    pod.shutdown();
    assert!(!alive(reaper));
}

#[test]
fn a_host_network_pod_has_no_pins() {
    if cannot_run(None) {
        return;
    }
    let pod = Pod::new(PodNamespaces::default());
    assert!(!pod.dir().join("ns").exists());
    for name in ["net", "ipc", "uts"] {
        assert_eq!(namespace(format!("/proc/{}/ns/{name}", pod.shim)), namespace(format!("/proc/self/ns/{name}")));
    }
}

#[test]
fn a_refused_init_leaves_nothing() {
    if cannot_run(None) {
        return;
    }
    let (folder, mut init) = plan(OWN_AND_PID);
    init.sysctls.insert("kernel.core_pattern".into(), "|/bin/false".into());
    let (answer, connection) = spawn(&init);
    assert!(matches!(answer, Answer::Error(failure) if failure.kind == FailureKind::Invalid));
    assert!(receive(&connection).is_none(), "the shim stays");
    let left: Vec<_> = fs::read_dir(&init.dir).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["shim.log"]);
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(folder.path().to_str().unwrap()));

    init.sysctls.clear();
    fs::set_permissions(&init.dir, fs::Permissions::from_mode(0o755)).unwrap();
    let (answer, _) = spawn(&init);
    assert!(matches!(answer, Answer::Error(failure) if failure.message.contains("0700")));
}

#[test]
fn there_is_one_shim_per_pod() {
    if cannot_run(None) {
        return;
    }
    let (_folder, init) = plan(OWN);
    let (first, connection) = spawn(&init);
    assert!(matches!(first, Answer::Ready { .. }), "{first:?}");
    let (second, _) = spawn(&init);
    assert!(matches!(second, Answer::Error(failure) if failure.errno == Some(libc::EAGAIN)));
    assert!(PodFolder::lock(&init.dir).is_err(), "nobody cleans up after a shim that lives");
    // The first has noticed nothing.
    send(&connection, &Request::List, &[]);
    assert!(matches!(receive(&connection).unwrap().0, Answer::Listed(_)));
    send(&connection, &Request::Shutdown, &[]);
    assert_eq!(receive(&connection).unwrap().0, Answer::Done);
}

#[test]
fn does_not_care_for_the_daemon() {
    if cannot_run(None) {
        return;
    }
    let mut pod = Pod::new(OWN);
    let shim = Pid::from_raw(pod.shim);
    assert_eq!(getsid(Some(shim)), Ok(shim));
    assert_eq!(getpgid(Some(shim)), Ok(shim));
    let status = fs::read_to_string(format!("/proc/{shim}/status")).unwrap();
    assert!(!status.contains(&format!("PPid:\t{}\n", std::process::id())), "{status}");
    assert!(status.contains("Threads:\t1\n"), "{status}");
    for fd in ["0", "1"] {
        assert_eq!(fs::read_link(format!("/proc/{shim}/fd/{fd}")).unwrap().to_str(), Some("/dev/null"));
    }
    let runc = std::path::Path::new("/usr/sbin/runc");
    let runtime = runc.exists().then_some(runc);
    let bundle = Bundle::new(&pod, "a", "while [ ! -e /tmp/go ]; do sleep 0.02; done; echo done; exit 3", runtime);
    pod.create_and_start(&bundle.create);
    pod.drop_first_connection();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGPIPE] {
        kill(shim, signal).unwrap();
    }
    assert_eq!(pod.container(bundle.id()).unwrap().state, ContainerState::Running);
    fs::write(bundle.create.bundle.join("rootfs/tmp/go"), "").unwrap();
    eventually("it has ended while nobody listened", || pod.container(bundle.id()).unwrap().exit.is_some());
    assert_eq!(pod.wait(bundle.id()).code, 3);
    assert_eq!(bundle.text(), ["done"]);
}

#[test]
fn nonsense_is_answered_or_closed() {
    if cannot_run(None) {
        return;
    }
    let pod = Pod::new(OWN);
    for text in [&b"{"[..], b"\"Nonsense\"", b"{\"Create\":{}}", b"\xff\xfe"] {
        let connection = pod.connect();
        packet::send(connection.as_fd(), text, &[]).unwrap();
        let (answer, _) = receive(&connection).unwrap();
        assert!(matches!(answer, Answer::Error(failure) if failure.kind == FailureKind::Invalid));
    }
    let connection = pod.connect();
    send(&connection, &Request::Subscribe, &[]);
    assert_eq!(receive(&connection).unwrap().0, Answer::Done);
    send(&connection, &Request::List, &[]);
    let mut packets = std::iter::from_fn(|| {
        common::wait_readable(&connection);
        packet::receive(connection.as_fd()).ok().flatten()
    });
    assert_eq!(packets.by_ref().count(), 1, "Synced, and then the end");
    // More connections than there may be: the rest is closed, and the pod goes on.
    let many: Vec<_> = (0..200).filter_map(|_| packet::connect_to(&pod.dir().join(SOCKET)).ok()).collect();
    drop(many);
    eventually("it serves again", || {
        let connection = pod.connect();
        send(&connection, &Request::List, &[]);
        receive(&connection).is_some()
    });
}

#[test]
fn by_hand_it_explains_itself() {
    let output = Command::new(env!("CARGO_BIN_EXE_orlop-shim")).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("The CRI daemon starts it"));
}

#[test]
fn killed_it_leaves_pins_and_socket_for_the_daemon() {
    if cannot_run(None) {
        return;
    }
    let mut pod = Pod::new(OWN);
    kill(Pid::from_raw(pod.shim), Signal::SIGKILL).unwrap();
    let shim = pod.shim;
    eventually("it is gone", || state(shim).is_none_or(|state| state == 'Z'));
    eventually("nobody listens", || packet::connect_to(&pod.dir().join(SOCKET)).is_err());
    let mut left: Vec<_> = fs::read_dir(pod.dir()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, ["ns", "shim.log", "shim.sock"]);
    pod.clean_up_after_dead_shim(&[]);
    // As often as one likes.
    pod.clean_up_after_dead_shim(&[]);
}
