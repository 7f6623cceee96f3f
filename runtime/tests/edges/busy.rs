//! Hooks that call the runtime about their own container, and those that never end.

use std::process::Stdio;

use serde_json::json;

use crate::common::{Container, can_run, children_of, program, wait_until};

/// A hook that calls the runtime; `RT` in the line is the program with its global flags.
fn hook(container: &Container, line: &str) -> serde_json::Value {
    let driver = if crate::common::by_systemd() { "--systemd-cgroup " } else { "" };
    let runtime = format!("{} {driver}--root {}", program().display(), container.root().display());
    let line = format!("exec 2>&1 >{}/said; {}", container.folder.path().display(), line.replace("RT", &runtime));
    json!([{ "path": "/bin/busybox", "args": ["sh", "-c", line.replace("ID", &container.id)],
             "env": ["PATH=/usr/bin:/bin"], "timeout": 30 }])
}

fn said(container: &Container) -> String {
    std::fs::read_to_string(container.folder.path().join("said")).unwrap_or_else(|error| format!("nothing: {error}"))
}

#[test]
fn a_poststart_hook_may_use_its_container() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000").set("/hooks", json!({}));
    let line = "RT pause ID && RT resume ID && RT update --pids-limit 50 ID && RT exec ID echo done";
    let poststart = hook(&container, line);
    let container = container.set("/hooks/poststart", poststart);
    container.run_detached().ok();
    assert_eq!(said(&container), "done\n");
    assert_eq!(container.status(), "running");
}

#[test]
fn a_poststart_hook_may_delete_its_container() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000").set("/hooks", json!({}));
    let poststart = hook(&container, "RT delete --force ID && echo deleted; false");
    let container = container.set("/hooks/poststart", poststart);
    container.create().ok();
    let error = container.start().error();
    assert!(error.contains("poststart hook"), "{error}");
    assert_eq!(said(&container), "deleted\n", "{error}");
    assert_eq!(container.left_behind(), Vec::<String>::new());
}

#[test]
fn a_create_hook_is_refused_and_does_not_wait_for_itself() {
    if !can_run() {
        return;
    }
    let container = Container::new("true").set("/hooks", json!({}));
    let line = "for verb in pause resume start 'update --pids-limit 5'; do RT $verb ID 2>&1; done; echo; RT state ID";
    let create = hook(&container, line);
    let container = container.set("/hooks/createRuntime", create);
    container.create().ok();
    let said = said(&container);
    for verb in ["pause", "resume", "start", "update"] {
        let refused = format!("cannot {verb} container {:?}: it is creating", container.id);
        assert!(said.contains(&refused), "{verb}: {said}");
    }
    assert!(said.contains(r#""status": "creating""#), "{said}");
}

/// runc has no lock and removes what there is; here the name of who is at work comes instead, after a while.
#[test]
fn delete_beside_a_hook_that_hangs_says_who_holds_the_container() {
    if !can_run() {
        return;
    }
    let container = Container::new("true").set("/hooks", json!({}));
    let mark = container.folder.path().join("mark");
    let line = format!("touch {}; exec sleep 1000", mark.display());
    let container =
        container.set("/hooks/createRuntime", json!([{"path": "/bin/busybox", "args": ["sh", "-c", line]}]));
    container.write_config();
    let bundle = container.folder.path().to_str().expect("path");
    let mut command = container.command(&["create", "--bundle", bundle, &container.id]);
    let mut create = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("create");
    wait_until("the hook", || mark.exists());
    let message = container.call(&["delete", "--force", &container.id]).error();
    assert!(message.contains(&format!("process {} (orlop-runtime)", create.id())), "{message}");
    for child in children_of(create.id()) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL).expect("kill");
    }
    assert!(!create.wait().expect("create").success());
    container.call(&["delete", "--force", &container.id]).ok();
    assert_eq!(container.left_behind(), Vec::<String>::new());
}
