//! What the runtime writes to /proc, led to another file (CVE-2025-52881, CVE-2019-19921, CVE-2019-16884).

use std::os::unix::fs::symlink;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::common::{Container, can_run, wait_until};
use crate::harness::{Swapper, attempt, bind, host_settings, listing, races, with_capabilities, without_mounts_at};

/// The image has files where the runtime writes, and nothing is mounted over them.
#[test]
fn a_made_up_proc_gets_none_of_what_is_written() {
    if !can_run() {
        return;
    }
    let container = without_mounts_at(Container::new("echo started"), "/proc")
        .set("/linux/sysctl", json!({"kernel.shmmni": "123"}))
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]))
        .set("/process/oomScoreAdj", json!(321));
    let proc = container.rootfs().join("proc");
    for file in ["sys/kernel/shmmni", "self/oom_score_adj", "self/attr/exec", "self/attr/apparmor/exec"] {
        std::fs::create_dir_all(proc.join(file).parent().expect("folder")).expect("folder");
        std::fs::write(proc.join(file), "as the image has it").expect("file");
    }
    let before = listing(&proc);
    assert_eq!(container.run().ok(), "started\n");
    assert_eq!(listing(&proc), before);
}

/// A container may put what it likes at its own /proc after its start; exec must not care.
#[test]
fn exec_does_not_write_to_the_proc_of_a_container() {
    if !can_run() {
        return;
    }
    let script = "mount -t tmpfs none /proc && mkdir -p /proc/self && echo fake > /proc/self/oom_score_adj && \
                  echo ready && exec sleep 1000";
    let container =
        with_capabilities(Container::new(script), &["CAP_SYS_ADMIN"]).set("/linux/readonlyPaths", json!([]));
    let container = container.set("/linux/maskedPaths", json!([]));
    container.run_detached().ok();
    wait_until("the mount", || container.output().contains("ready"));
    let process = container.folder.path().join("process.json");
    let mut wanted: Value = container.spec["process"].clone();
    wanted["args"] = json!(["sleep", "1000"]);
    wanted["oomScoreAdj"] = json!(321);
    std::fs::write(&process, wanted.to_string()).expect("file");
    let pid_file = container.folder.path().join("pid");
    let (process, pid_path) = (process.to_str().expect("path"), pid_file.to_str().expect("path"));
    let mut exec = container.command(&["exec", "-d", "-p", process, "--pid-file", pid_path, &container.id]);
    // No pipes: the process would hold them open.
    assert!(exec.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("exec").success());
    let pid = std::fs::read_to_string(&pid_file).expect("pid");
    let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("score");
    assert_eq!(score.trim(), "321");
    assert_eq!(container.exec("cat /proc/self/oom_score_adj").ok(), "fake\n");
}

#[test]
fn only_a_procfs_is_mounted_at_proc() {
    if !can_run() {
        return;
    }
    let fake = tempfile::tempdir().expect("folder");
    let tmpfs =
        |destination: &str| json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": []});
    for mount in [
        tmpfs("/proc"),
        tmpfs("/proc/self/attr"),
        tmpfs("/proc/sys/../sys/kernel"),
        tmpfs("/tmp/link/attr"),
        bind(fake.path(), "/proc", &[]),
        bind(std::path::Path::new("/proc/self"), "/proc", &[]),
        bind(fake.path(), "/proc/sys", &[]),
    ] {
        let container = Container::new("echo started").add_mount(mount.clone());
        symlink("/proc/self", container.rootfs().join("tmp/link")).expect("link");
        let ran = container.run();
        assert!(!ran.stdout.contains("started"), "{mount}");
        assert!(ran.error().contains("/proc"), "{mount}");
    }
    let host = bind(std::path::Path::new("/proc"), "/proc", &["rbind"]);
    let container = without_mounts_at(Container::new("echo started"), "/proc").add_mount(host);
    assert_eq!(container.run().ok(), "started\n");
}

/// Two mounts meet at a volume that the attacker shares, one of which is to cover /proc.
#[test]
fn a_volume_that_becomes_a_link_to_proc_covers_nothing_there() {
    if !can_run() {
        return;
    }
    let settings = host_settings();
    let volume = tempfile::tempdir().expect("folder");
    let (target, evil) = (volume.path().join("target"), volume.path().join("evil"));
    std::fs::create_dir(&target).expect("folder");
    symlink("/proc/self", &evil).expect("link");
    let covers = json!({"destination": "/vol/target/attr", "type": "tmpfs", "source": "orlop-race", "options": []});
    let container = Container::new("grep ' - tmpfs orlop-race ' /proc/self/mountinfo; true")
        .add_mount(bind(volume.path(), "/vol", &[]))
        .add_mount(covers)
        .set("/linux/sysctl", json!({"kernel.shmmni": "123"}));
    let swapper = Swapper::start(&target, &evil);
    let mut started = 0;
    for _ in 0..races() {
        let ran = attempt(&container);
        assert!(!ran.stdout.contains(" /proc/"), "{}", ran.stdout);
        started += usize::from(ran.code == Some(0));
    }
    assert!(started > 0 && swapper.swaps() > races() as u64, "{started}");
    drop(swapper);
    assert_eq!(host_settings(), settings);
}
