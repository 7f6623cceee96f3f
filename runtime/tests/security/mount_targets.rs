//! Mount targets that are links, or become links while containers start (CVE-2021-30465, CVE-2024-45310).

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::common::{Container, can_run};
use crate::harness::{Canary, Swapper, attempt, bind, races};

/// Counts the mounts that were to be made.
const LOOK: &str = "grep -c -E ' - tmpfs (orlop-one|orlop-two) ' /proc/self/mountinfo";

/// A container that shares a volume with the attacker and has mounts, folders and files to be made in it.
fn container(volume: &Path, folder: &str) -> Container {
    let tmpfs = |name: &str, source: &str| json!({"destination": format!("/vol/{folder}{name}"), "type": "tmpfs", "source": source, "options": []});
    let container = Container::new(LOOK);
    let file = container.folder.path().join("file");
    std::fs::write(&file, "").expect("file");
    container
        .add_mount(bind(volume, "/vol", &["rw"]))
        .add_mount(tmpfs("", "orlop-one"))
        .add_mount(tmpfs("/made", "orlop-two"))
        .add_mount(bind(&file, &format!("/vol/{folder}/new/file"), &["ro"]))
}

#[test]
fn a_link_in_a_volume_makes_nothing_on_the_host() {
    if !can_run() {
        return;
    }
    let canary = Canary::new();
    let target = canary.path().join("folder");
    for target in [target.to_str().expect("path"), &format!("../../../../../../..{}", target.display()), "/"] {
        let volume = tempfile::tempdir().expect("folder");
        symlink(target, volume.path().join("target")).expect("link");
        let container = container(volume.path(), "target");
        // Without what covers the link: everything is to be made behind it.
        let mut container = container;
        container.spec["mounts"].as_array_mut().expect("mounts").retain(|mount| mount["source"] != "orlop-one");
        let ran = container.run();
        canary.assert_untouched();
        if ran.code == Some(0) {
            assert_eq!(ran.stdout, "1\n", "target -> {target}: a mount went elsewhere");
        }
    }
}

#[track_caller]
fn race(canary: &Canary, volume: &Path, one: &Path, other: &Path) {
    let container = container(volume, "target");
    let swapper = Swapper::start(one, other);
    let mut started = 0;
    for _ in 0..races() {
        let ran = attempt(&container);
        canary.assert_untouched();
        if ran.code == Some(0) {
            started += 1;
            assert_eq!(ran.stdout, "2\n", "a mount went elsewhere");
        } else {
            // No mount at all, or no program that looks: then it says why.
            assert!(ran.stdout.is_empty() && !ran.stderr.is_empty(), "{ran:?}");
        }
    }
    assert!(swapper.swaps() > races() as u64 && started > 0, "{started} of {} started", races());
}

#[test]
fn a_target_swapped_for_an_absolute_link_is_not_followed() {
    if !can_run() {
        return;
    }
    let (canary, volume) = (Canary::new(), tempfile::tempdir().expect("folder"));
    let (target, evil) = (volume.path().join("target"), volume.path().join("evil"));
    std::fs::create_dir(&target).expect("folder");
    symlink(canary.path().join("folder"), &evil).expect("link");
    race(&canary, volume.path(), &target, &evil);
}

#[test]
fn a_target_swapped_for_a_climbing_link_is_not_followed() {
    if !can_run() {
        return;
    }
    let (canary, volume) = (Canary::new(), tempfile::tempdir().expect("folder"));
    let (target, evil) = (volume.path().join("target"), volume.path().join("evil"));
    std::fs::create_dir(&target).expect("folder");
    let up = format!("../../../../../../../..{}", canary.path().join("folder").display());
    symlink(up, &evil).expect("link");
    race(&canary, volume.path(), &target, &evil);
}
