//! The terminal at /dev/console, and what else could be mounted there (CVE-2025-52565).

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::common::{Container, can_run};
use crate::harness::{self, Canary, bind, device_folder, run_with_terminal, without_mounts_at};

const LOOK: &str = "cat /proc/self/mountinfo; echo done";

fn with_terminal(volume: &Path) -> Container {
    let pts = json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]});
    without_mounts_at(Container::new(LOOK).set("/process/terminal", json!(true)), "/dev")
        .add_mount(bind(volume, "/dev", &["dev"]))
        .add_mount(pts)
}

/// A terminal is mounted in /dev only, and nothing of procfs is mounted outside of /proc.
#[track_caller]
fn check(mountinfo: &str) {
    for line in mountinfo.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
        let point = mount.split(' ').nth(4).expect("mount point");
        match filesystem.split(' ').next() {
            Some("devpts") => assert!(point.starts_with("/dev/"), "{mountinfo}"),
            Some("proc") => assert!(point.starts_with("/proc"), "{mountinfo}"),
            _ => (),
        }
    }
}

#[track_caller]
fn race(container: &Container, canary: &Canary, one: &Path, other: &Path) {
    harness::race(one, other, || {
        let ran = run_with_terminal(container);
        canary.assert_untouched();
        check(&ran.stdout);
        ran.stdout.contains("done")
    });
}

#[test]
fn a_console_swapped_for_a_link_leads_nowhere() {
    if !can_run() {
        return;
    }
    let (canary, volume) = (Canary::new(), device_folder());
    std::fs::create_dir(volume.path().join("pts")).expect("folder");
    let (console, evil) = (volume.path().join("console"), volume.path().join("evil"));
    std::fs::write(&console, "").expect("file");
    symlink(canary.path().join("secret"), &evil).expect("link");
    let container = with_terminal(volume.path());
    // In the container the link leads to a file of procfs; outside of it to the canary.
    let inside = container.rootfs().join(canary.path().strip_prefix("/").expect("absolute"));
    std::fs::create_dir_all(&inside).expect("folder");
    symlink("/proc/version", inside.join("secret")).expect("link");
    race(&container, &canary, &console, &evil);
}

#[test]
fn a_terminal_swapped_for_a_link_is_not_the_console() {
    if !can_run() {
        return;
    }
    let (canary, volume) = (Canary::new(), device_folder());
    let (pts, evil) = (volume.path().join("pts"), volume.path().join("evil"));
    std::fs::create_dir(&pts).expect("folder");
    std::fs::create_dir(&evil).expect("folder");
    for number in 0..4 {
        symlink("/proc/version", evil.join(number.to_string())).expect("link");
    }
    race(&with_terminal(volume.path()), &canary, &pts, &evil);
}

#[test]
fn a_console_that_is_a_link_is_refused() {
    if !can_run() {
        return;
    }
    let canary = Canary::new();
    for target in [canary.path().join("secret"), "/proc/version".into(), "console".into()] {
        let volume = device_folder();
        std::fs::create_dir(volume.path().join("pts")).expect("folder");
        symlink(&target, volume.path().join("console")).expect("link");
        let ran = run_with_terminal(&with_terminal(volume.path()));
        assert!(!ran.stdout.contains("done"), "{}", ran.stdout);
        assert!(ran.stderr.contains("/dev/console"), "{}", ran.stderr);
        canary.assert_untouched();
    }
}

/// What the image has at /dev/pts is no terminal, whatever it is.
#[test]
fn a_terminal_is_only_opened_on_a_devpts() {
    if !can_run() {
        return;
    }
    let canary = Canary::new();
    for link in [true, false] {
        let volume = device_folder();
        std::fs::create_dir(volume.path().join("pts")).expect("folder");
        let ptmx = volume.path().join("pts/ptmx");
        if link {
            symlink(canary.path().join("secret"), &ptmx).expect("link");
        } else {
            std::fs::write(&ptmx, "").expect("file");
        }
        let container = Container::new(LOOK).set("/process/terminal", json!(true));
        let container = without_mounts_at(container, "/dev").add_mount(bind(volume.path(), "/dev", &["dev"]));
        let ran = run_with_terminal(&container);
        assert!(ran.stderr.contains("/dev/pts/ptmx"), "{ran:?}");
        canary.assert_untouched();
    }
}
