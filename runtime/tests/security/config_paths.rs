//! Names and paths that lead somewhere else: `..`, links, NUL, and container ids.

use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::common::{Container, can_run};
use crate::config::{check_refused, refused_with};
use crate::harness::{Canary, SECRET};

#[test]
fn nul_bytes() {
    if !can_run() {
        return;
    }
    let mount = |field: &str| {
        let mut mount = json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]});
        mount[field] = if field == "options" { json!(["ro\0rw"]) } else { json!("/mnt\0/x") };
        json!([mount])
    };
    for (pointer, value) in [
        ("/process/args", json!(["echo", "a\0b"])),
        ("/process/env", json!(["PATH=/bin\0", "A=\0"])),
        ("/process/cwd", json!("/\0tmp")),
        ("/root/path", json!("rootfs\0x")),
        ("/hostname", json!("a\0b")),
        ("/domainname", json!("a\0b")),
        ("/mounts", mount("destination")),
        ("/mounts", mount("type")),
        ("/mounts", mount("source")),
        ("/mounts", mount("options")),
        ("/linux/cgroupsPath", json!("/orlop/a\0b")),
        ("/linux/maskedPaths", json!(["/proc/keys\0"])),
        ("/linux/readonlyPaths", json!(["/proc/sys\0"])),
        ("/linux/sysctl", json!({"kernel.shmmni": "1\0"})),
        ("/linux/devices", json!([{"path": "/dev/x\0y", "type": "c", "major": 1, "minor": 3}])),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "pid"}, {"type": "network", "path": "/proc/1/ns/net\0"}]),
        ),
    ] {
        refused_with(pointer, value, "NUL");
    }
}

#[test]
fn paths_that_climb() {
    if !can_run() {
        return;
    }
    refused_with("/linux/cgroupsPath", json!("/orlop/../../x"), "cgroupsPath");
    refused_with("/linux/cgroupsPath", json!("../x"), "cgroupsPath");
    refused_with("/linux/cgroupsPath", json!("/"), "cgroupsPath");
    refused_with("/process/cwd", json!("../../tmp"), "cwd");
    refused_with("/linux/devices", json!([{"path": "../dev/x", "type": "c", "major": 1, "minor": 3}]), "devices");
    refused_with("/linux/devices", json!([{"path": "/dev/..", "type": "c", "major": 1, "minor": 3}]), "/dev/..");
    refused_with("/linux/sysctl", json!({"kernel/../kernel/core_pattern": "x"}), "sysctl");
    refused_with("/hooks", json!({"createRuntime": [{"path": "../../bin/true"}]}), "absolute");
    // What is clamped at the root stays inside of it.
    let canary = Canary::new();
    let up = |path: &str| format!("/../../../../../..{}/{path}", canary.path().display());
    let changes = [
        ("/process/cwd", json!(up("cwd"))),
        ("/linux/maskedPaths", json!([up("secret"), up("folder")])),
        ("/linux/readonlyPaths", json!([up("secret"), up("folder")])),
        ("/linux/devices", json!([{"path": up("node"), "type": "c", "major": 1, "minor": 3}])),
        ("/mounts/0", json!({"destination": up("mount"), "type": "tmpfs", "source": "tmpfs", "options": []})),
        ("/mounts/0", json!({"destination": up("folder"), "type": "tmpfs", "source": "tmpfs", "options": []})),
    ];
    for (pointer, value) in changes {
        let mut container = Container::new("cat /../../../../..$CANARY/secret");
        container.spec["process"]["env"] = json!(["PATH=/bin", format!("CANARY={}", canary.path().display())]);
        *container.spec.pointer_mut("/linux/maskedPaths").expect("pointer") = json!([]);
        *container.spec.pointer_mut("/linux/readonlyPaths").expect("pointer") = json!([]);
        if let Some(place) = container.spec.pointer_mut(pointer) {
            *place = value.clone();
        } else {
            container = container.set(pointer, value.clone());
        }
        let ran = container.run();
        canary.assert_untouched();
        assert!(!ran.stdout.contains(SECRET), "{pointer} = {value}: {ran:?}");
    }
}

#[test]
fn the_root_is_a_folder_and_no_link() {
    if !can_run() {
        return;
    }
    for path in ["no-such-folder", "config.json", "link", "link/below", "loop"] {
        let container = Container::new("echo started");
        symlink("rootfs", container.folder.path().join("link")).expect("link");
        symlink("loop", container.folder.path().join("loop")).expect("link");
        std::fs::create_dir(container.rootfs().join("below")).expect("folder");
        let container = container.set("/root/path", json!(path));
        check_refused(&container, &container.run(), path, "rootfs");
    }
    // The specification lets it be anywhere, but it is one folder.
    let container = Container::new("echo started");
    let name = container.folder.path().file_name().expect("name").to_str().expect("name");
    let outside = format!("../{name}/rootfs");
    assert_eq!(container.set("/root/path", json!(outside)).run().ok(), "started\n");
}

#[test]
fn ids_are_plain_names() {
    if !can_run() {
        return;
    }
    let canary = Canary::new();
    let container = Container::new("echo started");
    container.write_config();
    let bundle = container.folder.path().to_str().expect("path");
    let long = "x".repeat(256);
    let up = format!("..{}", canary.path().display());
    let absolute = canary.path().join("folder").display().to_string();
    for id in ["", ".", "..", "../x", "a/b", "a b", "a\nb", "é", "a*", "$(x)", "%00", &long, &up, &absolute] {
        // The same check as for `create`, which would leave a process with our pipes.
        for verb in [
            &["run", "--bundle", bundle][..],
            &["start"],
            &["state"],
            &["kill"],
            &["delete"],
            &["ps"],
            &["pause"],
            &["resume"],
            &["update", "--pids-limit", "5"],
            &["events", "--stats"],
        ] {
            let mut call = verb.to_vec();
            call.push(id);
            let ran = container.call(&call);
            assert_ne!(ran.code, Some(0), "{call:?}");
            assert!(ran.stderr.contains("id") && ran.stdout.is_empty(), "{call:?}: {ran:?}");
        }
        let ran = container.call(&["exec", id, "true"]);
        assert!(ran.code != Some(0) && ran.stdout.is_empty(), "exec {id:?}");
        let forced = container.call(&["delete", "--force", id]);
        assert!(forced.code != Some(0), "delete --force {id:?}: it is no name, so nothing of that name is gone");
        canary.assert_untouched();
        let left = std::fs::read_dir(container.root()).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{id:?}");
    }
}

/// A value that is right in itself and hostile as text for the kernel's parsers.
#[test]
fn settings_do_not_smuggle_others() {
    if !can_run() {
        return;
    }
    let settings = crate::harness::host_settings();
    let smuggled: [Value; 3] = [
        json!({"kernel.shmmni": "1+kernel.core_pattern=|/x"}),
        json!({"kernel.shmmni=1\nkernel.core_pattern": "|/x"}),
        // What it is already: should it be written, nothing has changed.
        json!({"kernel.core_pattern": settings[0].trim()}),
    ];
    for sysctl in smuggled {
        let container = Container::new("echo started").set("/linux/sysctl", sysctl.clone());
        let ran = container.run();
        assert!(ran.stdout.is_empty(), "{sysctl}");
        assert!(ran.error().contains("kernel"), "{sysctl}");
    }
    assert_eq!(crate::harness::host_settings(), settings);
}
