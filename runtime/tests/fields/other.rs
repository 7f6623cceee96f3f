//! What the host lacks, what a process is told it is, and what of the image is hidden.

use std::path::Path;

use serde_json::json;

use crate::common::{Container, can_run, has_apparmor};

#[test]
fn what_the_host_lacks_is_named() {
    if !can_run() {
        return;
    }
    if !Path::new("/sys/fs/resctrl/schemata").exists() {
        let error = Container::new("true").set("/linux/intelRdt", json!({"closID": "a"})).run().error();
        assert!(error.contains("linux.intelRdt") && error.contains("/sys/fs/resctrl"), "{error}");
    }
    let label = json!("system_u:object_r:container_file_t:s0");
    if Path::new("/sys/fs/selinux/enforce").exists() {
        println!("SKIP: this host has SELinux");
    } else {
        for field in ["/linux/mountLabel", "/process/selinuxLabel"] {
            let error = Container::new("true").set(field, label.clone()).run().error();
            assert!(error.contains(&field[1..].replace('/', ".")) && error.contains("SELinux"), "{error}");
        }
    }
    if has_apparmor() {
        println!("SKIP: this host has AppArmor");
    } else {
        let error = Container::new("true").set("/process/apparmorProfile", json!("web")).run().error();
        assert!(error.contains("process.apparmorProfile"), "{error}");
    }
}

#[test]
fn what_a_process_is_told_it_is() {
    if !can_run() {
        return;
    }
    let script = "cat /proc/sys/kernel/domainname; uname -m; cat /proc/self/personality";
    let container = Container::new(script)
        .set("/domainname", json!("example"))
        .set("/linux/personality", json!({"domain": "LINUX32"}));
    let text = container.run().ok();
    assert!(text.starts_with("example\n") && text.ends_with("\n00000008\n"), "{text}");
    let flags = Container::new("true").set("/linux/personality", json!({"domain": "LINUX", "flags": ["x"]}));
    assert!(flags.run().error().contains("linux.personality.flags"));
}

#[test]
fn paths_of_every_kind_are_hidden_and_protected() {
    if !can_run() {
        return;
    }
    let script = "stat -c %t:%T /dev/zero /etc/secret; ls /sys/kernel; (echo x > /etc/passwd) 2>&1; (touch /tmp/x) 2>&1
        grep ' /dev/full ' /proc/mounts";
    let container = Container::new(script)
        .set("/linux/maskedPaths", json!(["/dev/zero", "/sys/kernel", "/etc/secret", "/not/there"]))
        .set("/linux/readonlyPaths", json!(["/dev/full", "/etc/passwd", "/tmp", "/not/there"]));
    std::fs::write(container.rootfs().join("etc/secret"), "x").expect("secret");
    let text = container.run().ok();
    assert!(text.starts_with("1:3\n1:3\nsh: "), "{text}");
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
    let full = text.lines().last().unwrap_or_default();
    assert!(full.contains(" /dev/full ") && full.contains(" ro,"), "{text}");
}
