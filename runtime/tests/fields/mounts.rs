//! Mounts: `tmpcopyup`, `remount`, options, attributes of all mounts below, and propagation.

use std::os::unix::fs::{PermissionsExt, chown};

use serde_json::json;

use crate::common::{Container, can_run, folder};
use crate::id_maps::volume;

#[test]
fn a_tmpfs_that_begins_with_what_it_covers() {
    if !can_run() {
        return;
    }
    let script = "cd /data && stat -c '%n %a %u:%g %F' . file sub sub/deep link fifo; cat sub/deep; readlink link
        echo changed > file; (touch /data/x) 2>&1";
    let container = Container::new(script).add_mount(
        json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "nosuid"]}),
    );
    let data = container.rootfs().join("data");
    std::fs::create_dir_all(data.join("sub")).expect("folders");
    std::fs::write(data.join("file"), "first").expect("file");
    std::fs::set_permissions(data.join("file"), std::fs::Permissions::from_mode(0o4751)).expect("chmod");
    chown(data.join("file"), Some(3), Some(4)).expect("chown");
    std::fs::set_permissions(data.join("file"), std::fs::Permissions::from_mode(0o4751)).expect("chmod");
    std::fs::write(data.join("sub/deep"), "deep\n").expect("deep");
    std::fs::set_permissions(data.join("sub"), std::fs::Permissions::from_mode(0o711)).expect("chmod");
    chown(data.join("sub"), Some(5), Some(6)).expect("chown");
    std::os::unix::fs::symlink("/etc/passwd", data.join("link")).expect("link");
    nix::unistd::mkfifo(&data.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("fifo");
    let text = container.run().ok();
    let expected = "\
        . 755 0:0 directory\n\
        file 4751 3:4 regular file\n\
        sub 711 5:6 directory\n\
        sub/deep 644 0:0 regular file\n\
        link 777 0:0 symbolic link\n\
        fifo 600 0:0 fifo\n\
        deep\n/etc/passwd\n";
    assert_eq!(text, expected);
    assert_eq!(std::fs::read_to_string(data.join("file")).expect("file"), "first", "the image was written to");
    assert!(!data.join("x").exists());
}

#[test]
fn a_tmpfs_that_is_read_only_and_copied_up() {
    if !can_run() {
        return;
    }
    let container = Container::new("cat /data/file; (touch /data/x) 2>&1; true")
        .add_mount(json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "tmpcopyup"]}));
    std::fs::create_dir_all(container.rootfs().join("data")).expect("folder");
    std::fs::write(container.rootfs().join("data/file"), "content\n").expect("file");
    assert_eq!(container.run().ok(), "content\ntouch: /data/x: Read-only file system\n");
}

#[test]
fn more_is_covered_than_the_tmpfs_holds() {
    if !can_run() {
        return;
    }
    let container = Container::new("true").add_mount(
        json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "tmpcopyup"]}),
    );
    std::fs::create_dir_all(container.rootfs().join("data")).expect("folder");
    std::fs::write(container.rootfs().join("data/big"), vec![1; 1 << 20]).expect("file");
    let error = container.run().error();
    assert!(error.contains("copy up /data") && error.contains("No space left"), "{error}");
}

#[test]
fn options_for_a_mount_that_is_there() {
    if !can_run() {
        return;
    }
    let script = "grep -E ' /(data|vol) ' /proc/mounts | cut -d' ' -f2,4; (touch /vol/x) 2>&1; touch /data/x 2>&1";
    let script = script.replace("cut -d' ' -f2,4", "cat");
    let container = Container::new(&script);
    let source = volume(&container, 0);
    let container = container
        .add_mount(json!({"destination": "/data", "type": "tmpfs", "source": "data", "options": ["size=64k"]}))
        .add_mount(json!({"destination": "/vol", "source": source, "options": ["bind"]}))
        .add_mount(json!({"destination": "/data", "type": "tmpfs", "source": "data", "options": ["remount", "noexec", "size=128k"]}))
        .add_mount(json!({"destination": "/vol", "source": source, "options": ["remount", "bind", "ro", "nodev"]}));
    let text = container.run().ok();
    let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    assert!(line(" /data ").contains("noexec") && line(" /data ").contains("size=128k"), "{text}");
    assert!(line(" /vol ").contains("ro,nodev"), "{text}");
    assert!(text.ends_with("touch: /vol/x: Read-only file system\n"), "{text}");
    let nothing = json!({"destination": "/etc", "type": "tmpfs", "options": ["remount", "ro"]});
    let error = Container::new("true").add_mount(nothing).run().error();
    assert!(error.contains("remount /etc"), "{error}");
}

/// A folder with another filesystem mounted below it, on the host.
struct Nested(tempfile::TempDir);

impl Nested {
    fn new() -> Nested {
        let folder = folder();
        let below = folder.path().join("below");
        std::fs::create_dir(&below).expect("below");
        let none = None::<&str>;
        nix::mount::mount(Some("tmpfs"), &below, Some("tmpfs"), nix::mount::MsFlags::empty(), none).expect("mount");
        Nested(folder)
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0.path().join("below"), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn attributes_of_all_mounts_below() {
    if !can_run() {
        return;
    }
    let nested = Nested::new();
    let with = |options: &[&str]| {
        let options: Vec<&str> = ["rbind"].iter().chain(options).copied().collect();
        let mount = json!({"destination": "/vol", "source": nested.0.path(), "options": options});
        Container::new("grep ' /vol' /proc/mounts").add_mount(mount).run().ok()
    };
    let has = |text: &str, flag: &str| {
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        lines.iter().filter(|line| line.split([' ', ',']).any(|part| part == flag)).count()
    };
    for (option, flag) in [
        ("rro", "ro"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnoatime", "noatime"),
        ("rnodiratime", "nodiratime"),
        ("rnosymfollow", "nosymfollow"),
    ] {
        assert_eq!(has(&with(&[option]), flag), 2, "{option}");
        assert_eq!(has(&with(&[&option[1..]]), flag), 1, "{}", &option[1..]);
    }
    assert_eq!(has(&with(&["rro", "rrw"]), "rw"), 2);
    assert_eq!(has(&with(&["rnoatime", "ratime"]), "relatime"), 2);
    assert_eq!(has(&with(&["rstrictatime"]), "relatime"), 0);
    for option in ["rnorelatime", "rnostrictatime", "norelatime"] {
        assert_eq!(has(&with(&[option]), "relatime"), 2, "{option}");
    }
}

#[test]
fn options_that_a_filesystem_need_not_know() {
    if !can_run() {
        return;
    }
    let options = ["silent", "acl", "iversion", "norelatime", "lazytime"];
    let script = "grep ' /made ' /proc/mounts; stat -c %a /made";
    let text = Container::new(script)
        .add_mount(json!({"destination": "/made", "type": "tmpfs", "source": "made", "options": options}))
        .run()
        .ok();
    assert!(text.contains("rw,lazytime,relatime"), "{text}");
    // A folder that was not there has no permissions to keep.
    assert!(text.ends_with("\n1777\n"), "{text}");
}

#[test]
fn the_propagation_of_the_root() {
    if !can_run() {
        return;
    }
    // Fields before the dash that tell of peers: `shared:N`, `master:N`, `unbindable`.
    let run = |propagation: &str| {
        let container = Container::new("grep ' / / \\| /rootfs / \\|/rootfs / ' /proc/self/mountinfo")
            .set("/linux/rootfsPropagation", json!(propagation));
        container.run()
    };
    assert!(run("rshared").ok().contains(" shared:"));
    assert!(run("unbindable").ok().contains(" unbindable "));
    let private = run("rprivate").ok();
    assert!(!private.contains("shared:") && !private.contains("master:"), "{private}");
    assert!(run("sideways").error().contains("linux.rootfsPropagation"));
}

/// Longer than what fsconfig(2) takes, as the overlays of engines are.
#[test]
fn an_overlay_with_long_options() {
    if !can_run() {
        return;
    }
    let container = Container::new("cat /mnt/file:1 /mnt/file2; echo new >/mnt/new; touch /ro/new 2>&1");
    let folder = |name: &str| {
        let path = container.folder.path().join(name).join("x".repeat(200));
        std::fs::create_dir_all(&path).expect("folder");
        path
    };
    let [one, two, upper, work] = ["one:1", "two", "upper", "work"].map(folder);
    std::fs::write(one.join("file:1"), "one\n").expect("file");
    std::fs::write(two.join("file2"), "two\n").expect("file");
    let lower = format!("lowerdir={}:{}", one.display().to_string().replace(':', "\\:"), two.display());
    let options = [lower.clone(), format!("upperdir={}", upper.display()), format!("workdir={}", work.display())];
    let container = container
        .add_mount(json!({"destination": "/mnt", "type": "overlay", "source": "overlay", "options": options}))
        .add_mount(json!({"destination": "/ro", "type": "overlay", "source": "overlay", "options": [lower, "ro"]}));
    let ran = container.run();
    assert_eq!(ran.stdout, "one\ntwo\ntouch: /ro/new: Read-only file system\n", "{ran:?}");
    assert_eq!(std::fs::read_to_string(upper.join("new")).expect("file"), "new\n");
}
