//! The life of containers.

mod common;

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use common::bundle::{Bundle, pipe, read_all};
use common::{OWN, OWN_AND_PID, Pod, alive, eventually, state};
use orlop_shim::protocol::{Answer, ContainerState, Event, ExitStatus, FailureKind, Request};
use serde_json::json;

with_each_runtime!(
    runs_to_its_end,
    is_killed,
    refuses_what_is_wrong,
    starts_clean,
    tells_of_out_of_memory,
    execs,
    kills_an_exec_and_what_it_started,
    a_background_child_does_not_delay_the_exit,
);

fn runs_to_its_end(runtime: Option<&Path>) {
    let pod = Pod::new(OWN);
    let bundle = Bundle::new(&pod, "a", "echo out; echo err >&2; exit 7", runtime);
    let id = bundle.id();
    let pid = pod.create(&bundle.create);
    let info = pod.container(id).unwrap();
    assert_eq!((info.pid, info.state, info.started_at, info.exit), (pid, ContainerState::Created, None, None));
    let events = pod.events();
    pod.start(id);
    let status = events.exit(id, None);
    assert_eq!((status.code, status.signal, status.oom), (7, None, false));
    let mut log: Vec<_> = bundle.log().into_iter().map(|line| (line.source, line.tag, line.text)).collect();
    log.sort();
    let line = |source: &str, text: &str| (source.to_owned(), "F".to_owned(), text.to_owned());
    assert_eq!(log, [line("stderr", "err"), line("stdout", "out")]);
    let recorded: ExitStatus =
        serde_json::from_slice(&fs::read(bundle.create.bundle.join("exit.json")).unwrap()).unwrap();
    assert_eq!(recorded, status);
    let info = pod.container(id).unwrap();
    assert_eq!((info.state, info.exit), (ContainerState::Ended, Some(status)));
    assert!(info.started_at.is_some_and(|at| info.created_at <= at && at <= status.at));
    assert_eq!(pod.events().backlog(), [Event::Exit { id: id.into(), exec_id: None, status }]);
    for _ in 0..2 {
        pod.done(&Request::Delete { id: id.into() });
        assert_eq!(pod.container(id), None);
    }
}

fn is_killed(runtime: Option<&Path>) {
    let pod = Pod::new(OWN);
    let bundle =
        Bundle::new(&pod, "a", "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.05; done", runtime);
    let kill = |signal| Request::Kill { id: bundle.id().into(), signal, all: false };
    pod.create_and_start(&bundle.create);
    eventually("it has set its trap", || bundle.text().contains(&"ready".into()));
    pod.done(&kill(libc::SIGTERM));
    assert_eq!(pod.wait(bundle.id()).code, 3);
    assert_eq!(bundle.text(), ["ready", "got it"]);
    pod.done(&kill(libc::SIGKILL));

    let other = Bundle::new(&pod, "b", "sleep 1000", runtime);
    pod.create_and_start(&other.create);
    pod.done(&Request::Kill { id: other.id().into(), signal: libc::SIGKILL, all: true });
    let status = pod.wait(other.id());
    assert_eq!((status.code, status.signal), (128 + libc::SIGKILL, Some(libc::SIGKILL)));
}

fn refuses_what_is_wrong(runtime: Option<&Path>) {
    let pod = Pod::new(OWN);
    let bundle = Bundle::new(&pod, "a", "sleep 1000", runtime);
    let id = || bundle.id().to_owned();
    pod.create(&bundle.create);
    assert_eq!(pod.refused(&Request::Create(bundle.create.clone())).kind, FailureKind::AlreadyExists);
    assert_eq!(pod.refused(&Request::Delete { id: id() }).kind, FailureKind::WrongState);
    assert_eq!(pod.refused(&bundle.exec("x", "true", true)).kind, FailureKind::WrongState);
    pod.start(&id());
    assert_eq!(pod.refused(&Request::Start { id: id() }).kind, FailureKind::WrongState);
    assert_eq!(pod.refused(&Request::Start { id: "other".into() }).kind, FailureKind::NotFound);
    assert_eq!(pod.refused(&Request::Kill { id: id(), signal: 99, all: false }).kind, FailureKind::Invalid);
    assert_eq!(pod.refused(&bundle.exec("x", "true", false)).kind, FailureKind::Invalid);
    let resize = Request::Resize { id: id(), exec_id: None, width: 80, height: 25 };
    assert_eq!(pod.refused(&resize).kind, FailureKind::WrongState);

    let missing = Bundle::new(&pod, "b", "", runtime).set("/process/args", json!(["/bin/no-such-program"]));
    let failure = match pod.ask(&Request::Create(missing.create.clone())) {
        Answer::Created { .. } => pod.refused(&Request::Start { id: missing.id().into() }),
        Answer::Error(failure) => failure,
        other => panic!("{other:?}"),
    };
    assert!(failure.message.contains("no-such-program"), "{failure:?}");
    if runtime.is_none() {
        assert_eq!(failure.kind, FailureKind::NotExecutable);
        assert_eq!(failure.errno, Some(libc::ENOENT));
    }
}

/// Nothing of the shim shows in a container: signals, umask, descriptors.
fn starts_clean(runtime: Option<&Path>) {
    let pod = Pod::new(OWN);
    let script =
        "while read -r key value; do case $key in Sig*|ShdPnd*) echo $key $value;; esac; done </proc/self/status
        umask; for fd in /proc/self/fd/*; do echo ${fd##*/}; done; echo x >/dev/stdout";
    let bundle = Bundle::new(&pod, "a", script, runtime);
    assert_eq!(pod.run(&bundle.create).code, 0);
    let text = bundle.text();
    assert!(text.contains(&"SigBlk: 0000000000000000".to_owned()), "{text:?}");
    // The shell itself ignores SIGQUIT.
    assert!(text.contains(&"SigIgn: 0000000000000004".to_owned()), "{text:?}");
    assert!(text.contains(&"0022".to_owned()), "{text:?}");
    let high: Vec<_> =
        text.iter().filter_map(|line| line.parse::<u32>().ok()).filter(|fd| (3..20).contains(fd)).collect();
    // The shell's own: its directory stream on /proc/self/fd.
    assert!(high.len() <= 1, "{text:?}");
    assert_eq!(text.last().map(String::as_str), Some("x"));
}

fn tells_of_out_of_memory(runtime: Option<&Path>) {
    let pod = Pod::new(OWN);
    let bundle = Bundle::new(&pod, "a", "a=xxxxxxxxxxxxxxxx; while :; do a=$a$a; done", runtime)
        .set("/linux/resources", json!({"memory": {"limit": 33_554_432, "swap": 33_554_432}}));
    let events = pod.events();
    pod.create_and_start(&bundle.create);
    let mut oom = false;
    let status = loop {
        match events.next() {
            Event::Oom { id } => oom = oom || id == bundle.id(),
            Event::Exit { status, .. } => break status,
            Event::Synced => {}
        }
    };
    assert_eq!((status.code, status.signal, status.oom), (137, Some(libc::SIGKILL), true));
    assert!(oom, "no Oom event before the exit");
}

fn execs(runtime: Option<&Path>) {
    let pod = Pod::new(OWN);
    let bundle = Bundle::new(&pod, "a", "sleep 1000", runtime);
    pod.create_and_start(&bundle.create);
    let events = pod.events();
    let ((stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr)) = (pipe(), pipe(), pipe());
    let request = bundle.exec("one", "cat; echo problem >&2; exit 5", false);
    let (answer, got) = pod.exchange(&request, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
    assert!(matches!(answer, Answer::Execed { pid } if pid > 0), "{answer:?}");
    assert!(got.is_empty());
    drop((stdin, stdout, stderr));
    nix::unistd::write(&to_stdin, b"hello\n").unwrap();
    drop(to_stdin);
    assert_eq!(read_all(from_stdout), "hello\n");
    assert_eq!(read_all(from_stderr), "problem\n");
    let status = events.exit(bundle.id(), Some("one"));
    assert_eq!((status.code, status.signal), (5, None));
    // Its name is taken as long as it is remembered, and its end is told again.
    let ended = Event::Exit { id: bundle.id().into(), exec_id: Some("one".into()), status };
    assert_eq!(pod.events().backlog(), [ended]);
    let null = fs::File::open("/dev/null").unwrap();
    let again = pod.exchange(&bundle.exec("one", "true", false), &[null.as_fd(), null.as_fd(), null.as_fd()]);
    assert!(matches!(again.0, Answer::Error(failure) if failure.kind == FailureKind::AlreadyExists));

    let (answer, mut got) =
        pod.exchange(&bundle.exec("two", "tty=$(stty size); echo size $tty; read x; stty size; exit 6", true), &[]);
    assert!(matches!(answer, Answer::Execed { .. }), "{answer:?}");
    let master = got.pop().expect("a terminal's master");
    pod.done(&Request::Resize { id: bundle.id().into(), exec_id: Some("two".into()), width: 101, height: 33 });
    nix::unistd::write(&master, b"\n").unwrap();
    assert_eq!(events.exit(bundle.id(), Some("two")).code, 6);
    let mut text = Vec::new();
    let mut part = [0; 1000];
    while let Ok(count @ 1..) = nix::unistd::read(&master, &mut part) {
        text.extend_from_slice(&part[..count]);
    }
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("33 101"), "{text:?}");
}

fn kills_an_exec_and_what_it_started(runtime: Option<&Path>) {
    let pod = Pod::new(OWN);
    let bundle = Bundle::new(&pod, "a", "sleep 1000", runtime);
    pod.create_and_start(&bundle.create);
    let (output, write_end) = pipe();
    let null = fs::File::open("/dev/null").unwrap();
    // Some are about to make sessions of their own when the signal comes.
    let some = "setsid sleep 2002 & ".repeat(20);
    let script = &format!("sleep 2001 & (sleep 2003 &) ; {some} echo started; wait");
    let request = bundle.exec("one", script, false);
    let (answer, _) = pod.exchange(&request, &[null.as_fd(), write_end.as_fd(), null.as_fd()]);
    assert!(matches!(answer, Answer::Execed { .. }), "{answer:?}");
    drop(write_end);
    let mut started = [0; 8];
    assert_eq!(nix::unistd::read(&output, &mut started), Ok(8));
    let events = pod.events();
    let kill = Request::KillExec { id: bundle.id().into(), exec_id: "one".into(), signal: libc::SIGKILL };
    pod.done(&kill);
    let status = events.exit(bundle.id(), Some("one"));
    assert_eq!((status.code, status.signal, status.oom), (137, Some(libc::SIGKILL), false));
    // All that held its stdout is gone.
    assert_eq!(read_all(output), "");
    pod.done(&kill);
    assert_eq!(pod.container(bundle.id()).unwrap().state, ContainerState::Running);
}

/// In a PID namespace that it shares, a container's children outlive it.
fn a_background_child_does_not_delay_the_exit(runtime: Option<&Path>) {
    let pod = Pod::new(OWN_AND_PID);
    let bundle = Bundle::new(&pod, "a", "sleep 3001 & echo $!; exit 4", runtime).in_pod_pid(&pod);
    assert_eq!(pod.run(&bundle.create).code, 4);
    assert_eq!(bundle.log().len(), 1);
    pod.done(&Request::Delete { id: bundle.id().into() });
}

#[test]
fn a_shared_pid_namespace_reaps_and_ends_with_the_shim() {
    if common::cannot_run(None) {
        return;
    }
    let mut pod = Pod::new(OWN_AND_PID);
    // An orphan whose parent in the namespace is PID 1; `ps` lists what is there, zombies too.
    let script = "(sleep 0.01 &); sleep 0.3; ps -o pid,stat,comm; echo end; sleep 1000";
    let bundle = Bundle::new(&pod, "a", script, None).in_pod_pid(&pod);
    pod.create_and_start(&bundle.create);
    eventually("it has listed its processes", || bundle.text().contains(&"end".into()));
    let text = bundle.text();
    assert!(text.iter().any(|line| line.trim_start().starts_with("1 ")), "{text:?}");
    assert!(!text.iter().any(|line| line.contains(" Z ")), "{text:?}");

    let first = pod.container(bundle.id()).unwrap().pid;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pod.shim), nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("the container has ended with the shim", || state(first).is_none_or(|state| state == 'Z'));
    let shim = pod.shim;
    eventually("the shim is gone", || !alive(shim));
    pod.clean_up_after_dead_shim(&[bundle.id()]);
}

/// What a program had made when it failed is deleted by it, too.
#[test]
fn another_runtimes_half_made_container_can_be_deleted() {
    let runc = Path::new("/usr/sbin/runc");
    if common::cannot_run(Some(runc)) {
        return;
    }
    let pod = Pod::new(OWN);
    let program = pod.path("fails");
    fs::write(&program, "#!/bin/sh\n/usr/sbin/runc \"$@\"\ncase \"$*\" in *' create '*) exit 1;; esac\n").unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bundle = Bundle::new(&pod, "a", "sleep 1000", Some(&program));
    let id = || bundle.id().to_owned();
    assert_eq!(pod.refused(&Request::Create(bundle.create.clone())).kind, FailureKind::Runtime);
    let state = orlop_shim::protocol::state_root(&pod.runtime_root, &program).join(bundle.id());
    assert!(state.exists());
    pod.done(&Request::Kill { id: id(), signal: libc::SIGKILL, all: true });
    pod.done(&Request::Delete { id: id() });
    assert!(!state.exists());
    assert_eq!(pod.container(bundle.id()), None);
    // Or with the pod.
    assert_eq!(pod.refused(&Request::Create(bundle.create.clone())).kind, FailureKind::Runtime);
    assert!(state.exists());
    let state_is_gone = || !state.exists();
    drop(pod);
    assert!(state_is_gone());
}
