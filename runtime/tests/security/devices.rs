//! An image whose /dev leads out of it (CVE-2026-41579, CVE-2026-47766).

use std::os::unix::fs::symlink;

use crate::common::{Container, can_run};
use crate::harness::{Canary, Swapper, attempt, races, without_mounts_at};
use serde_json::json;

/// With nothing mounted at /dev the nodes are made in the image's.
fn with_dev_of_image() -> Container {
    without_mounts_at(Container::new("ls /dev"), "/dev")
}

#[test]
fn nodes_are_not_made_through_a_link_at_dev() {
    if !can_run() {
        return;
    }
    let canary = Canary::new();
    let absolute = canary.path().join("folder");
    let up = format!("../../../../../../../..{}", absolute.display());
    for with_tmpfs in [false, true] {
        for target in [absolute.to_str().expect("path"), &up, "dev", "/dev/../dev"] {
            let container = if with_tmpfs { Container::new("ls /dev") } else { with_dev_of_image() };
            // The path exists in the image too: what is followed inside of it must not count as safe.
            std::fs::create_dir_all(container.rootfs().join(absolute.strip_prefix("/").expect("absolute")))
                .expect("folder");
            let dev = container.rootfs().join("dev");
            std::fs::remove_dir(&dev).expect("folder");
            symlink(target, &dev).expect("link");
            let ran = container.run();
            canary.assert_untouched();
            assert_ne!(ran.code, Some(0), "/dev -> {target} was accepted: {}", ran.stdout);
            assert!(ran.stderr.contains("/dev"), "{}", ran.stderr);
        }
    }
}

#[test]
fn nodes_below_a_link_stay_inside() {
    if !can_run() {
        return;
    }
    let canary = Canary::new();
    let device = json!([{"path": "/links/node", "type": "c", "major": 1, "minor": 3}]);
    let container = Container::new("ls /links/").set("/linux/devices", device);
    symlink(canary.path().join("folder"), container.rootfs().join("links")).expect("link");
    container.run();
    canary.assert_untouched();
}

#[test]
fn a_dev_swapped_for_a_link_gets_no_nodes_outside() {
    if !can_run() {
        return;
    }
    let canary = Canary::new();
    let container = with_dev_of_image();
    let (dev, evil) = (container.rootfs().join("dev"), container.rootfs().join("evil"));
    symlink(canary.path().join("folder"), &evil).expect("link");
    let swapper = Swapper::start(&dev, &evil);
    for _ in 0..races() {
        attempt(&container);
        canary.assert_untouched();
    }
    assert!(swapper.swaps() > races() as u64);
}
