//! Programs that cannot be executed: who tells it, and in which words.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use orlop_runtime::{CreateOptions, ErrorKind, Runtime};
use serde_json::{Value, json};

use crate::common::{Container, can_run};

fn put(path: &Path, text: &[u8], mode: u32) {
    std::fs::write(path, text).expect("file");
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("mode");
}

/// A container for this program and user, with files that are no programs, and one that is root's only.
fn container(name: &str, user: u32) -> Container {
    let container = Container::new("");
    let root = container.rootfs();
    put(&root.join("plain"), b"text", 0o644);
    put(&root.join("bin/plain"), b"text", 0o644);
    put(&root.join("bin/private"), b"#!/bin/sh\n", 0o700);
    put(&root.join("orphan"), b"#!/nosuch\n", 0o755);
    std::fs::create_dir(root.join("bin/folder")).expect("folder");
    symlink("loop", root.join("loop")).expect("link");
    let process = json!({ "uid": user, "gid": user });
    container.set("/process/args", json!([name, "-c", "exit 0"])).set("/process/user", process)
}

/// Program, user, and what runc says of it in create as in exec.
const REFUSED: [(&str, u32, &str); 10] = [
    ("nosuch", 0, r#"exec: "nosuch": executable file not found in $PATH"#),
    ("plain", 0, r#"exec: "plain": executable file not found in $PATH"#),
    ("folder", 0, r#"exec: "folder": executable file not found in $PATH"#),
    ("private", 1000, "permission denied"),
    ("/nosuch", 0, r#"exec: "/nosuch": stat /nosuch: no such file or directory"#),
    ("./nosuch", 0, r#"exec: "./nosuch": stat ./nosuch: no such file or directory"#),
    ("/plain", 0, r#"exec: "/plain": permission denied"#),
    ("/bin", 0, r#"exec: "/bin": permission denied"#),
    ("/bin/private", 1000, "permission denied"),
    ("/loop", 0, r#"exec: "/loop": "#),
];

#[test]
fn create_tells_that_a_program_is_missing() {
    if !can_run() {
        return;
    }
    for (name, user, why) in REFUSED {
        let container = container(name, user);
        let message = container.create().error();
        assert!(message.contains(why), "{name}: {message}");
        assert_eq!(container.left_behind(), Vec::<String>::new(), "{name}");
    }
    for (name, user) in [("private", 0), ("sh", 1000), ("./bin/sh", 0), ("/bin/../bin/sh", 1000)] {
        let container = container(name, user);
        container.create().ok();
        container.start().ok();
    }
    let exits = container("nosuch", 0).run();
    assert_eq!(exits.code, Some(1), "{}", exits.stderr);
}

#[test]
fn exec_tells_it_in_the_same_words() {
    if !can_run() {
        return;
    }
    let container = container("sh", 0).set("/process/args", json!(["sleep", "1000"]));
    container.run_detached().ok();
    for (name, user, why) in REFUSED {
        let ran = container.call(&["exec", "-u", &user.to_string(), &container.id, name, "-c", "exit 0"]);
        assert_eq!(ran.code, Some(255), "{name}: {}", ran.stderr);
        assert!(ran.stderr.contains(why), "{name}: {}", ran.stderr);
    }
}

/// What only execve can know is told by start, also when the program went away after create.
#[test]
fn start_tells_the_rest() {
    if !can_run() {
        return;
    }
    let orphan = container("/orphan", 0);
    orphan.create().ok();
    let message = orphan.start().error();
    assert!(message.contains(r#"exec: "/orphan": "#) && message.contains("interpreter"), "{message}");
    let gone = container("private", 0);
    gone.create().ok();
    std::fs::remove_file(gone.rootfs().join("bin/private")).expect("remove");
    let message = gone.start().error();
    assert!(message.contains("stat /bin/private: no such file or directory"), "{message}");
}

/// The kubelet's runtime asks for this: a container that ended, and not one that could not be made.
#[test]
fn start_tells_all_if_it_is_to() {
    if !can_run() {
        return;
    }
    let container = container("nosuch", 0);
    container.write_config();
    let runtime = Runtime::new(container.root());
    let mut options = CreateOptions::new(&container.id, container.folder.path());
    options.systemd_cgroup = crate::common::by_systemd();
    options.program_by_start = true;
    let created = runtime.create(options).expect("create");
    let error = runtime.start(&container.id).expect_err("start");
    assert_eq!((error.kind(), error.errno()), (ErrorKind::NotExecutable, Some(libc::ENOENT)));
    nix::sys::wait::waitpid(created.pid, None).expect("wait");
}

/// A filter that is there already need not allow to look: execve decides.
#[test]
fn a_filter_that_forbids_to_look() {
    if !can_run() {
        return;
    }
    let names = ["stat", "newfstatat", "fstatat64", "statx", "faccessat", "faccessat2"];
    let filter = |arch: &str| -> Value {
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": [arch],
            "syscalls": [{ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }] })
    };
    let arch = if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
    for name in ["true", "/bin/true"] {
        let container = container(name, 0).set("/linux/seccomp", filter(arch));
        assert_eq!(container.run().code, Some(0), "{name}");
    }
}
