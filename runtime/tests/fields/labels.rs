//! Profiles of AppArmor, where the host has it. The tests load their own.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::common::{Container, can_run, has_apparmor};

/// A profile that is loaded as long as this value is there. It denies to read one file.
struct Profile {
    name: String,
    rules: String,
}

impl Profile {
    fn load(container: &Container, denied: &str) -> Profile {
        let name = format!("{}-{denied}", container.id);
        let rules = format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{\n\
             file, capability, network, signal, mount, umount, pivot_root, ptrace,\n\
             deny /{denied} r,\n}}\n"
        );
        let profile = Profile { name, rules };
        let (loaded, why) = profile.parser("--replace");
        assert!(loaded, "{why}");
        profile
    }

    /// Gives the rules to apparmor_parser; whether it was content, and what it said.
    fn parser(&self, action: &str) -> (bool, String) {
        let mut parser = Command::new("apparmor_parser");
        parser.args([action, "--skip-cache", "--quiet"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = parser.spawn().expect("apparmor_parser");
        child.stdin.take().expect("input").write_all(self.rules.as_bytes()).expect("rules");
        let ended = child.wait_with_output().expect("apparmor_parser");
        (ended.status.success(), String::from_utf8_lossy(&ended.stderr).into_owned())
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        let (removed, why) = self.parser("--remove");
        assert!(removed || std::thread::panicking(), "{why}");
    }
}

fn can() -> bool {
    if !has_apparmor() {
        println!("SKIP: this host has no AppArmor");
    } else if Command::new("apparmor_parser").arg("--version").output().is_err() {
        println!("SKIP: apparmor_parser is not installed; install apparmor");
    } else {
        return can_run();
    }
    false
}

fn container(script: &str) -> Container {
    let container = Container::new(script);
    for name in ["one", "two"] {
        std::fs::write(container.rootfs().join(name), format!("{name}\n")).expect("file");
    }
    container
}

/// Says what the process is confined by, and which of the two files it may read.
const TELL: &str = "cat /proc/self/attr/apparmor/current; cat /one /two 2>&1";

#[test]
fn a_profile_confines() {
    if !can() {
        return;
    }
    for privileged in [false, true] {
        let container =
            container(&format!("{TELL}; exec sleep 1000")).set("/process/noNewPrivileges", json!(!privileged));
        let (one, two) = (Profile::load(&container, "one"), Profile::load(&container, "two"));
        let container = container.set("/process/apparmorProfile", json!(one.name));
        container.run_detached().ok();
        let told = |denied: &Profile, text: &str| {
            let name = denied.name.rsplit('-').next().expect("name");
            let other = if name == "one" { "two" } else { "one" };
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines[0], format!("{} (enforce)", denied.name));
            assert!(text.contains(&format!("/{name}': Permission denied")) && lines.contains(&other), "{text}");
        };
        crate::common::wait_until("output", || container.output().lines().count() == 3);
        told(&one, &container.output());
        // Another process takes it over from the container's, unless it is given its own.
        told(&one, &container.exec(TELL).stdout);
        let args = ["exec", "--apparmor", &two.name, &container.id, "sh", "-c", TELL];
        told(&two, &container.call(&args).stdout);
        container.call(&["delete", "--force", &container.id]).ok();
    }
}

#[test]
fn one_that_is_not_loaded() {
    if !can() {
        return;
    }
    let container = container("true").set("/process/apparmorProfile", json!("orlop-no-such-profile"));
    let error = container.create().error();
    assert!(error.contains("process.apparmorProfile: is \"orlop-no-such-profile\" loaded?"), "{error}");
    assert_eq!(container.left_behind(), Vec::<String>::new());
}

/// Said where there is no profile, as podman does on a host without AppArmor.
#[test]
fn unconfined() {
    if !can_run() {
        return;
    }
    let container = container("cat /one").set("/process/apparmorProfile", json!("unconfined"));
    assert_eq!(container.run().ok(), "one\n");
}
