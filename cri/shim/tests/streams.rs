//! Attach, stdin, terminals, and sockets of the pod.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use common::bundle::{Bundle, pipe, read_all, read_until};
use common::{OWN, Pod, eventually};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{SockaddrIn, connect};
use orlop_shim::protocol::{Answer, FailureKind, Request};

with_each_runtime!(
    stdin_is_shared_until_it_is_closed,
    stdin_once_ends_with_its_attach,
    output_is_copied_to_all_attached,
    a_slow_reader_is_let_go_of,
    a_terminal,
    a_port_of_the_pod,
);

fn attach(pod: &Pod, id: &str, stdin: bool, fds: &[&OwnedFd]) -> Option<OwnedFd> {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    let (answer, mut got) = pod.exchange(&Request::Attach { id: id.into(), stdin }, &fds);
    assert!(matches!(answer, Answer::Attached { .. }), "{answer:?}");
    got.pop()
}

fn write_all(fd: &OwnedFd, text: &str) {
    assert_eq!(nix::unistd::write(fd, text.as_bytes()), Ok(text.len()));
}

fn stdin_is_shared_until_it_is_closed(runtime: Option<&Path>) {
    let pod = Pod::new(OWN);
    let bundle = Bundle::new(&pod, "a", "cat; echo end", runtime).with_stdin(false);
    pod.create_and_start(&bundle.create);
    for word in ["one", "two"] {
        let (output, write_end) = pipe();
        let stdin = attach(&pod, bundle.id(), true, &[&write_end]).expect("the container has a stdin");
        drop(write_end);
        write_all(&stdin, &format!("{word}\n"));
        assert_eq!(read_until(&output, "\n"), format!("{word}\n"));
        // Leaving does not end it.
    }
    pod.done(&Request::CloseStdin { id: bundle.id().into() });
    assert_eq!(pod.wait(bundle.id()).code, 0);
    assert_eq!(bundle.text(), ["one", "two", "end"]);
}

fn stdin_once_ends_with_its_attach(runtime: Option<&Path>) {
    let pod = Pod::new(OWN);
    let bundle = Bundle::new(&pod, "a", "cat; echo end", runtime).with_stdin(true);
    pod.create_and_start(&bundle.create);
    let (_output, write_end) = pipe();
    let stdin = attach(&pod, bundle.id(), true, &[&write_end]).expect("the container has a stdin");
    assert!(attach(&pod, bundle.id(), true, &[&write_end]).is_none(), "it has been given away");
    write_all(&stdin, "only\n");
    drop(stdin);
    assert_eq!(pod.wait(bundle.id()).code, 0);
    assert_eq!(bundle.text(), ["only", "end"]);
}

fn output_is_copied_to_all_attached(runtime: Option<&Path>) {
    let pod = Pod::new(OWN);
    let script = "echo before; read go; echo out; echo err >&2";
    let bundle = Bundle::new(&pod, "a", script, runtime).with_stdin(false);
    pod.create_and_start(&bundle.create);
    eventually("it waits", || bundle.text() == ["before"]);
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let ((out, out_end), (err, err_end)) = (pipe(), pipe());
            attach(&pod, bundle.id(), false, &[&out_end, &err_end]);
            (out, err)
        })
        .collect();
    let (gone, gone_end) = pipe();
    let stdin = attach(&pod, bundle.id(), true, &[&gone_end]).unwrap();
    drop((gone, gone_end));
    write_all(&stdin, "\n");
    for (out, err) in readers {
        // Nothing from before, and an end.
        assert_eq!(read_all(out), "out\n");
        assert_eq!(read_all(err), "err\n");
    }
    assert_eq!(pod.wait(bundle.id()).code, 0);
    let failure = pod.exchange(&Request::Attach { id: bundle.id().into(), stdin: false }, &[stdin.as_fd()]).0;
    assert!(matches!(failure, Answer::Error(failure) if failure.kind == FailureKind::WrongState));
}

fn a_slow_reader_is_let_go_of(runtime: Option<&Path>) {
    const LINES: usize = 1_000_000;
    let pod = Pod::new(OWN);
    let bundle = Bundle::new(&pod, "a", &format!("read go; seq 1 {LINES}"), runtime).with_stdin(false);
    pod.create_and_start(&bundle.create);
    let (output, write_end) = pipe();
    let stdin = attach(&pod, bundle.id(), true, &[&write_end]).unwrap();
    drop(write_end);
    write_all(&stdin, "\n");
    // Nobody reads; the container ends all the same, and its log is whole.
    assert_eq!(pod.wait(bundle.id()).code, 0);
    assert_eq!(bundle.log().len(), LINES);
    let text = read_all(output);
    assert!(text.starts_with("1\n2\n3\n"));
    assert!(text.len() < 2 * 1024 * 1024, "{} bytes were kept for who does not read", text.len());
}

fn a_terminal(runtime: Option<&Path>) {
    let pod = Pod::new(OWN);
    let bundle = Bundle::new(&pod, "a", "read x; stty size; echo got $x; exit 9", runtime).with_tty();
    pod.create(&bundle.create);
    let (output, write_end) = pipe();
    let input = attach(&pod, bundle.id(), true, &[&write_end]).expect("a terminal's master");
    drop(write_end);
    pod.start(bundle.id());
    pod.done(&Request::Resize { id: bundle.id().into(), exec_id: None, width: 132, height: 43 });
    write_all(&input, "word\n");
    assert_eq!(pod.wait(bundle.id()).code, 9);
    let text = read_all(output);
    assert!(text.contains("43 132\r\n") && text.contains("got word\r\n"), "{text:?}");
    assert!(bundle.log().iter().all(|line| line.source == "stdout"));
    assert!(bundle.text().contains(&"got word\r".to_owned()), "{:?}", bundle.text());
}

fn a_port_of_the_pod(runtime: Option<&Path>) {
    let pod = Pod::new(OWN);
    let bundle = Bundle::new(&pod, "a", "echo listening; nc -l -p 8080 -e /bin/cat", runtime);
    pod.create_and_start(&bundle.create);
    let socket = || {
        let (answer, mut got) = pod.exchange(&Request::Socket { ipv6: false }, &[]);
        assert_eq!(answer, Answer::Socket);
        let socket = got.pop().unwrap();
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        socket
    };
    let address = SockaddrIn::new(127, 0, 0, 1, 8080);
    let mut connected = None;
    eventually("the port is open", || {
        let socket = socket();
        let done = connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &address).is_ok();
        connected = Some(socket);
        done
    });
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
    assert!(TcpStream::connect_timeout(&here, Duration::from_secs(1)).is_err(), "the host has this port, too");
    let mut stream = TcpStream::from(connected.unwrap());
    stream.write_all(b"ping").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "ping");
}
