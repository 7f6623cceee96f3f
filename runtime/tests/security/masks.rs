//! Masked paths: what they are covered with (CVE-2025-31133), and where they are (CVE-2023-27561, CVE-2023-28642).

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::common::{Container, Ran, can_run};
use crate::harness::{Canary, attempt, bind, device_folder, host_settings, make_device, race};
use crate::harness::{with_capabilities, without_mounts_at};

const LOOK: &str = "for p in keys timer_list kallsyms; do stat -c 'masked %F %t:%T' /proc/$p; done";

/// A container whose /dev is a volume that the attacker shares.
fn with_dev(volume: &Path) -> Container {
    let container = without_mounts_at(Container::new(LOOK), "/dev").add_mount(bind(volume, "/dev", &["dev"]));
    container.set("/linux/maskedPaths", json!(["/proc/keys", "/proc/timer_list", "/proc/kallsyms"]))
}

#[track_caller]
fn check(ran: &Ran) {
    for line in ran.stdout.lines() {
        assert_eq!(line, "masked character special file 1:3", "{}", ran.stdout);
    }
}

#[test]
fn the_null_device_of_a_container_masks_nothing() {
    if !can_run() {
        return;
    }
    let settings = host_settings();
    for target in ["/proc/sys/kernel/core_pattern", "/proc/self/status", "/no/such/file"] {
        let volume = device_folder();
        symlink(target, volume.path().join("null")).expect("link");
        let container = with_dev(volume.path());
        let ran = container.run();
        check(&ran);
        assert!(ran.code == Some(0) || !ran.stderr.is_empty(), "{target}: {ran:?}");
    }
    assert_eq!(host_settings(), settings);
}

#[test]
fn a_null_device_swapped_for_a_link_masks_nothing() {
    if !can_run() {
        return;
    }
    let volume = device_folder();
    make_device(&volume.path().join("null"), 1, 3);
    symlink("/proc/sys/kernel/core_pattern", volume.path().join("evil")).expect("link");
    let container = with_dev(volume.path());
    race(&volume.path().join("null"), &volume.path().join("evil"), || {
        let ran = attempt(&container);
        check(&ran);
        ran.stdout.contains("masked")
    });
}

#[test]
fn a_link_at_proc_or_sys_is_refused() {
    if !can_run() {
        return;
    }
    let canary = Canary::new();
    for folder in ["proc", "sys"] {
        for target in [canary.path().to_str().expect("path"), "tmp", "../../tmp", folder, "/self/../tmp"] {
            let container = with_capabilities(Container::new("echo started"), &["CAP_SYS_ADMIN"]);
            let path = container.rootfs().join(folder);
            std::fs::remove_dir(&path).expect("folder");
            symlink(target, &path).expect("link");
            let ran = container.run();
            assert!(!ran.stdout.contains("started"), "/{folder} -> {target}");
            assert!(ran.error().contains(&format!("/{folder}")), "/{folder} -> {target}");
            canary.assert_untouched();
        }
    }
}
