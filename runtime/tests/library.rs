//! The library as the shim uses it: in the process that stays the container's parent.

mod common;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use common::{Container, can_run, make_rootfs};
use nix::sys::wait::{WaitStatus, waitpid};
use orlop_runtime::{CreateOptions, ExecOptions, Rootfs, Runtime, Signal, Status, Stdio};

fn stdio() -> (Stdio, File) {
    let (output, input) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("pipe");
    let null: OwnedFd = File::open("/dev/null").expect("null").into();
    let copy = input.try_clone().expect("pipe");
    (Stdio::Fds { stdin: null, stdout: input, stderr: copy }, File::from(output))
}

/// A create by the library, with these for the program's descriptors.
fn options(container: &Container, stdio: Stdio) -> CreateOptions {
    let mut options = CreateOptions::new(&container.id, container.folder.path());
    options.systemd_cgroup = common::by_systemd();
    options.stdio = stdio;
    options
}

fn text(mut output: File) -> String {
    let mut text = String::new();
    output.read_to_string(&mut text).expect("output");
    text
}

#[test]
fn detached_overlay() {
    if !can_run() {
        return;
    }
    let container = Container::new("cat /which /only; echo new > /written; rm /gone; ls /");
    let folder = |name: &str| -> PathBuf {
        let path = container.folder.path().join(name);
        std::fs::create_dir_all(&path).expect("folder");
        path
    };
    let (top, base, upper, work) = (folder("top"), folder("base"), folder("upper"), folder("work"));
    make_rootfs(&base);
    std::fs::write(base.join("which"), "base\n").expect("file");
    std::fs::write(base.join("only"), "base\n").expect("file");
    std::fs::write(base.join("gone"), "").expect("file");
    std::fs::write(top.join("which"), "top\n").expect("file");
    std::fs::remove_dir_all(container.rootfs()).expect("rootfs");
    std::fs::create_dir(container.rootfs()).expect("rootfs");
    container.write_config();

    let runtime = Runtime::new(container.root());
    let (stdio, output) = stdio();
    let mut options = options(&container, stdio);
    options.rootfs = Rootfs::Overlay { lower: vec![top, base.clone()], upper: Some(upper.clone()), work: Some(work) };
    let created = runtime.create(options).expect("create");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(container.folder.path().to_str().expect("path")), "the host sees the overlay");
    assert_eq!(runtime.state(&container.id).expect("state").status, Status::Created);
    runtime.start(&container.id).expect("start");
    let text = text(output);
    assert!(text.starts_with("top\nbase\n"), "{text}");
    assert!(!text.contains("gone") && text.contains("written"), "{text}");
    assert_eq!(waitpid(created.pid, None).expect("wait"), WaitStatus::Exited(created.pid, 0));
    assert_eq!(std::fs::read_to_string(upper.join("written")).expect("file"), "new\n");
    assert!(base.join("gone").exists(), "layers are not written to");
    runtime.delete(&container.id, false).expect("delete");
}

/// The kernel takes no value of more than 255 bytes, and gives some letters a meaning.
#[test]
fn an_overlay_of_many_layers_with_long_and_odd_names() {
    if !can_run() {
        return;
    }
    let container = Container::new("cat /which /layer*");
    let folder = |name: &str| -> PathBuf {
        let path = container.folder.path().join(name);
        std::fs::create_dir_all(&path).expect("folder");
        path
    };
    let long = format!("{}/{}", "a".repeat(200), "b".repeat(100));
    let mut lower: Vec<PathBuf> = (0..40).map(|number| folder(&format!("{long}/odd:\\,{number:02}"))).collect();
    for (number, layer) in lower.iter().enumerate() {
        std::fs::write(layer.join("which"), format!("{number}\n")).expect("file");
        std::fs::write(layer.join(format!("layer{number:02}")), format!("{number}\n")).expect("file");
    }
    lower.push(folder("base"));
    make_rootfs(&lower[40]);
    std::fs::remove_dir_all(container.rootfs()).expect("rootfs");
    std::fs::create_dir(container.rootfs()).expect("rootfs");
    container.write_config();
    let runtime = Runtime::new(container.root());
    for long in ["upper", &long] {
        let (stdio, output) = stdio();
        let mut options = options(&container, stdio);
        let (upper, work) = (Some(folder(&format!("{long}/upper"))), Some(folder(&format!("{long}/work"))));
        options.rootfs = Rootfs::Overlay { lower: lower.clone(), upper, work };
        let here = std::env::current_dir().expect("folder");
        let created = runtime.create(options).expect("create");
        assert_eq!(std::env::current_dir().expect("folder"), here);
        runtime.start(&container.id).expect("start");
        let wanted: Vec<String> = std::iter::once(0).chain(0..40).map(|number| format!("{number}\n")).collect();
        assert_eq!(text(output), wanted.concat());
        assert_eq!(waitpid(created.pid, None).expect("wait"), WaitStatus::Exited(created.pid, 0));
        runtime.delete(&container.id, false).expect("delete");
    }
}

#[test]
fn exec_and_kill() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000");
    container.write_config();
    let runtime = Runtime::new(container.root());
    let (first, _output) = stdio();
    let options = options(&container, first);
    let created = runtime.create(options).expect("create");
    runtime.start(&container.id).expect("start");

    let mut process = runtime.config(&container.id).expect("config").process().clone().expect("process");
    process.set_args(Some(["sh", "-c", "echo hello; exit 4"].map(str::to_owned).to_vec()));
    let (second, output) = stdio();
    let mut options = ExecOptions::new(process.clone());
    options.stdio = second;
    let started = runtime.exec(&container.id, options).expect("exec");
    assert_eq!(text(output), "hello\n");
    assert_eq!(waitpid(started.pid, None).expect("wait"), WaitStatus::Exited(started.pid, 4));

    process.set_terminal(Some(true));
    process.set_args(Some(["tty"].map(str::to_owned).to_vec()));
    let started = runtime.exec(&container.id, ExecOptions::new(process)).expect("exec");
    let mut master = File::from(started.terminal.expect("terminal"));
    let mut bytes = Vec::new();
    let _ = master.read_to_end(&mut bytes);
    assert_eq!(bytes, b"/dev/pts/0\r\n");
    waitpid(started.pid, None).expect("wait");

    runtime.kill(&container.id, Signal::KILL, false).expect("kill");
    let ended = waitpid(created.pid, None).expect("wait");
    assert!(matches!(ended, WaitStatus::Signaled(_, nix::sys::signal::Signal::SIGKILL, _)), "{ended:?}");
    assert_eq!(runtime.state(&container.id).expect("state").status, Status::Stopped);
    assert!(runtime.list().expect("list").iter().any(|state| state.id == container.id));
    runtime.delete(&container.id, false).expect("delete");
    runtime.delete(&container.id, true).expect("a second delete with force is fine");
}

/// A container that waits holds nothing of what else its parent has open, or the reader of a pipe would wait
/// for its end as long as it waits.
#[test]
fn a_waiting_container_holds_no_foreign_descriptors() {
    if !can_run() {
        return;
    }
    let container = Container::new("true");
    container.write_config();
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("pipe");
    let runtime = Runtime::new(container.root());
    let (stdio, _output) = stdio();
    let options = options(&container, stdio);
    let created = runtime.create(options).expect("create");
    drop(writer);
    assert_eq!(text(File::from(reader)), "");
    runtime.delete(&container.id, true).expect("delete");
    waitpid(created.pid, None).expect("wait");
}

/// Who creates a container to start it itself is the only one who can.
#[test]
fn a_held_container_is_started_by_its_holder() {
    if !can_run() {
        return;
    }
    let container = Container::new("echo hello; exit 3");
    container.write_config();
    let runtime = Runtime::new(container.root());
    let (stdio, output) = stdio();
    let options = options(&container, stdio);
    let (created, held) = runtime.create_held(options).expect("create");
    assert_eq!(runtime.state(&container.id).expect("state").status, Status::Created);
    let error = container.call(&["start", &container.id]).error();
    assert!(error.contains("start.sock") && error.contains("starts it itself"), "{error}");
    // It is not locked meanwhile: a terminal may keep its holder waiting.
    container.call(&["pause", &container.id]).ok();
    container.call(&["resume", &container.id]).ok();
    runtime.start_held(held).expect("start");
    assert_eq!(text(output), "hello\n");
    assert_eq!(waitpid(created.pid, None).expect("wait"), WaitStatus::Exited(created.pid, 3));
    runtime.delete(&container.id, false).expect("delete");
}

/// One that was deleted meanwhile is not there to be started, nor is its successor of the same name.
#[test]
fn a_held_container_that_is_gone_is_not_started() {
    if !can_run() {
        return;
    }
    let container = Container::new("echo hello");
    container.write_config();
    let runtime = Runtime::new(container.root());
    let create = || {
        let (stdio, output) = stdio();
        let options = options(&container, stdio);
        (runtime.create_held(options).expect("create"), output)
    };
    let ((first, held), _output) = create();
    runtime.delete(&container.id, true).expect("delete");
    waitpid(first.pid, None).expect("wait");
    let ((second, successor), output) = create();
    let error = runtime.start_held(held).expect_err("it is gone");
    assert!(matches!(error, orlop_runtime::Error::NotFound(_)), "{error}");
    runtime.start_held(successor).expect("start");
    assert_eq!(text(output), "hello\n");
    waitpid(second.pid, None).expect("wait");
    runtime.delete(&container.id, false).expect("delete");
}

#[test]
fn a_held_container_ends_with_its_holder() {
    if !can_run() {
        return;
    }
    let container = Container::new("echo hello");
    container.write_config();
    let runtime = Runtime::new(container.root());
    let (stdio, output) = stdio();
    let options = options(&container, stdio);
    let (created, held) = runtime.create_held(options).expect("create");
    drop(held);
    assert_eq!(waitpid(created.pid, None).expect("wait"), WaitStatus::Exited(created.pid, 1));
    assert_eq!(text(output), "");
    assert_eq!(runtime.state(&container.id).expect("state").status, Status::Stopped);
    runtime.delete(&container.id, false).expect("delete");
}
