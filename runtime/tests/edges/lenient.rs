//! What runc takes from tools that are not exact, and what images hold that is not there.

use std::os::unix::fs::symlink;
use std::process::Stdio;

use serde_json::json;

use crate::common::{Container, can_run};

/// Many an image has a link for /etc/resolv.conf that leads to what only runs on a host.
#[test]
fn a_file_is_mounted_where_a_link_leads_to_nothing() {
    if !can_run() {
        return;
    }
    let source = tempfile::NamedTempFile::new_in("/var/tmp").expect("file");
    std::fs::write(source.path(), "the host's\n").expect("file");
    for target in ["../run/systemd/resolve/stub.conf", "/run/stub.conf", "/../../jump/stub.conf"] {
        let container = Container::new("cat /etc/resolv.conf").add_mount(json!({
            "destination": "/etc/resolv.conf", "source": source.path(), "options": ["bind"]
        }));
        let root = container.rootfs();
        std::fs::create_dir_all(root.join("etc")).expect("folder");
        symlink(target, root.join("etc/resolv.conf")).expect("link");
        symlink("/missing/../else", root.join("jump")).expect("link");
        assert_eq!(container.run().ok(), "the host's\n", "{target}");
    }
    let container = Container::new("").add_mount(json!({
        "destination": "/etc/loop/file", "source": source.path(), "options": ["bind"]
    }));
    std::fs::create_dir_all(container.rootfs().join("etc")).expect("folder");
    symlink("loop", container.rootfs().join("etc/loop")).expect("link");
    assert!(container.run().error().contains("symbolic links"));
}

/// Relative, or from the host's root on, as old tools wrote them.
#[test]
fn destinations_that_are_not_absolute_in_the_container() {
    if !can_run() {
        return;
    }
    let container = Container::new("grep -c ' /tmp/one ' /proc/mounts; grep -c ' /tmp/two ' /proc/mounts");
    let from_host = container.rootfs().join("tmp/two");
    let tmpfs = |at: &std::path::Path| json!({"destination": at, "type": "tmpfs", "source": "tmpfs"});
    let container = container.add_mount(tmpfs("tmp/one".as_ref())).add_mount(tmpfs(&from_host));
    let ran = container.run();
    assert_eq!(ran.stdout, "1\n1\n", "{ran:?}");
    assert!(ran.stderr.contains("mounts[tmp/one]: the destination is not absolute"), "{ran:?}");
}

#[test]
fn an_empty_home_is_none() {
    if !can_run() {
        return;
    }
    for (env, home) in [(json!(["HOME="]), "/root"), (json!(["HOME=/a", "HOME="]), "/root"), (json!(["HOME=/a"]), "/a")]
    {
        let container = Container::new("echo $HOME").set("/process/env", env.clone());
        std::fs::create_dir_all(container.rootfs().join("etc")).expect("folder");
        std::fs::write(container.rootfs().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").expect("file");
        assert_eq!(container.run().ok(), format!("{home}\n"), "{env}");
    }
}

/// As with runc: what a program writes is not changed where nobody needs it.
#[test]
fn a_foreground_terminal_leaves_line_ends_alone() {
    if !can_run() {
        return;
    }
    let container = Container::new("printf 'a\\nb\\n'").set("/process/terminal", json!(true));
    container.write_config();
    let bundle = container.folder.path().to_str().expect("path").to_owned();
    let ran =
        container.command(&["run", "--bundle", &bundle, &container.id]).stdin(Stdio::null()).output().expect("run");
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "a\nb\n");
}

/// A daemon that is bound to few processors does not bind its containers.
#[test]
fn the_callers_processors_are_not_the_containers() {
    if !can_run() {
        return;
    }
    let show = "grep Cpus_allowed_list /proc/self/status";
    let all = std::fs::read_to_string("/proc/self/status").expect("status");
    let all = all.lines().find(|line| line.starts_with("Cpus_allowed_list")).expect("line");
    let container = Container::new(&format!("{show}; exec sleep 1000"));
    container.write_config();
    let log = container.folder.path().join("log");
    let bound = |words: &[&str]| {
        let mut command = container.command(words);
        let runtime = command.get_program().to_owned();
        let mut taskset = std::process::Command::new("taskset");
        taskset.args(["-c", "0"]).arg(runtime).args(command.get_args());
        command = taskset;
        command
    };
    let bundle = container.folder.path().to_str().expect("path").to_owned();
    let output = std::fs::File::create(&log).expect("log");
    let status = bound(&["run", "-d", "--bundle", &bundle, &container.id]).stdout(output).status().expect("run");
    assert!(status.success());
    let seen = || std::fs::read_to_string(&log).expect("log").trim_end().to_owned();
    crate::common::wait_until("the container has told", || seen().contains("Cpus"));
    assert_eq!(seen(), all);
    let ran = bound(&["exec", &container.id, "sh", "-c", show]).output().expect("exec");
    assert_eq!(String::from_utf8_lossy(&ran.stdout).trim_end(), all);
}

#[test]
fn what_is_masked_twice_is_masked_once() {
    if !can_run() {
        return;
    }
    let container = Container::new("grep -c ' /tmp/secret ' /proc/mounts");
    std::fs::create_dir(container.rootfs().join("tmp/secret")).expect("folder");
    let container = container.set("/linux/maskedPaths", json!(["/tmp/secret", "/tmp/secret"]));
    assert_eq!(container.run().ok(), "1\n");
}

/// What a hook says is in the error, and not in the container's output; it begins where runc's does.
#[test]
fn hooks_have_runcs_surroundings() {
    if !can_run() {
        return;
    }
    let hook = |script: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    let container = Container::new("true")
        .set("/process/env", json!(["PATH=/bin", "ONE=two"]))
        .set("/hooks", json!({"startContainer": hook("test $ONE = two && test -n \"$HOME\"")}));
    container.run().ok();

    // The caller's environment is for hooks on the host alone.
    let shows = hook("env >./made-by-hook");
    let container = Container::new("true").set("/hooks", json!({"createContainer": shows, "createRuntime": shows}));
    container.write_config();
    let bundle = container.folder.path().to_str().expect("path").to_owned();
    let mut command = container.command(&["run", "--bundle", &bundle, &container.id]);
    let ran = command.current_dir(&bundle).env("OF_THE_CALLER", "1").output().expect("run");
    assert!(ran.status.success(), "{ran:?}");
    let seen = |path: std::path::PathBuf| std::fs::read_to_string(path).expect("what the hook made");
    assert!(!seen(container.rootfs().join("made-by-hook")).contains("OF_THE_CALLER"));
    assert!(seen(container.folder.path().join("made-by-hook")).contains("OF_THE_CALLER=1"));

    for kind in ["createRuntime", "createContainer", "startContainer"] {
        let script = "echo on standard output; printf 'on the other\\033[2J' >&2; exit 3";
        let container = Container::new("true").set("/hooks", json!({kind: hook(script)}));
        let ran = container.run();
        assert_eq!(ran.stdout, "", "{kind}");
        for word in [kind, "#0", "exit status: 3", "on standard output", "on the other"] {
            assert!(ran.stderr.contains(word), "{kind}: {ran:?}");
        }
        assert!(!ran.stderr.contains('\x1b'), "{kind}: {ran:?}");
    }
}

#[test]
fn a_process_of_exec_needs_no_user() {
    if !can_run() {
        return;
    }
    let container = Container::new("exec sleep 1000");
    container.run_detached().ok();
    let file = container.folder.path().join("process.json");
    let process = json!({"cwd": "/", "args": ["sh", "-c", "id -u"], "env": ["PATH=/bin"]});
    std::fs::write(&file, process.to_string()).expect("file");
    let path = file.to_str().expect("path");
    let ran = container.command(&["exec", "--process", path, &container.id]).output().expect("exec");
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "0\n", "{ran:?}");
}

/// What is mounted on the root would not be seen: the container has the one of `root.path`.
#[test]
fn a_mount_on_the_root_itself_is_refused() {
    if !can_run() {
        return;
    }
    for destination in ["/", "//", "/./"] {
        let tmpfs = json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"});
        let container = Container::new("true").add_mount(tmpfs);
        let error = container.create().error();
        assert!(error.contains("it would hide the root filesystem"), "{error}");
        assert_eq!(container.left_behind(), Vec::<String>::new());
    }
    // Other options for it are another matter.
    let remount = json!({"destination": "/", "options": ["remount", "bind", "ro"]});
    let ran = Container::new("touch /file 2>&1; true").add_mount(remount).run();
    assert!(ran.stdout.contains("Read-only file system"), "{ran:?}");
}
