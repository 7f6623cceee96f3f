//! Network devices of the host.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Container, can_run};

/// Runs `ip` of the host.
#[track_caller]
fn ip(args: &str) -> String {
    let output = std::process::Command::new("ip").args(args.split(' ')).output().expect("ip");
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// One end of a pair of devices that a test removes, whichever namespace the other end is in.
struct Device(String);

impl Drop for Device {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["link", "del", &self.0]).output();
    }
}

fn can_make_devices() -> bool {
    let made = std::process::Command::new("ip").arg("-V").output().is_ok_and(|output| output.status.success());
    if !made {
        println!("SKIP: ip of iproute2 is missing");
    }
    can_run() && made
}

#[test]
fn network_devices_of_the_host() {
    if !can_make_devices() {
        return;
    }
    let number = std::process::id();
    let (stays, goes) = (format!("oa{number}"), format!("ob{number}"));
    ip(&format!("link add {stays} type veth peer name {goes}"));
    let stays = Device(stays);
    ip(&format!("link set {} up", stays.0));
    ip(&format!("link set {goes} address 02:00:00:00:12:34 mtu 1400 up"));
    ip(&format!("address add 192.0.2.5/24 dev {goes}"));
    ip(&format!("address add 2001:db8::5/64 dev {goes} nodad"));
    let container = Container::new("sleep 1000")
        .set("/linux/netDevices", json!({&goes: {"name": "web0"}}))
        .set("/linux/sysctl", json!({"net.ipv4.conf.web0.forwarding": "1"}));
    container.run_detached().ok();
    let pid = container.state()["pid"].to_string();
    let text = {
        let args = ["-t", &pid, "-n", "ip", "address", "show", "dev", "web0"];
        let output = std::process::Command::new("nsenter").args(args).output().expect("nsenter");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for part in ["02:00:00:00:12:34", "mtu 1400", ",UP", "192.0.2.5/24", "2001:db8::5/64"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!Path::new("/sys/class/net").join(&goes).exists());
    assert_eq!(container.exec("cat /proc/sys/net/ipv4/conf/web0/forwarding").ok(), "1\n");
}

#[test]
fn network_devices_that_cannot_be_moved() {
    if !can_make_devices() {
        return;
    }
    let fails = |devices: Value| Container::new("true").set("/linux/netDevices", devices).run().error();
    let missing = fails(json!({"no-such-device": {}}));
    assert!(missing.contains("linux.netDevices[\"no-such-device\"]: No such device"), "{missing}");
    assert!(fails(json!({"lo": {"name": "a/b"}})).contains("a/b"));
    let number = std::process::id();
    let (stays, goes) = (format!("oc{number}"), format!("od{number}"));
    ip(&format!("link add {stays} type veth peer name {goes}"));
    let stays = Device(stays);
    let taken = fails(json!({&goes: {"name": "lo"}}));
    assert!(taken.contains("has a device \"lo\" already"), "{taken}");
    assert!(Path::new("/sys/class/net").join(&goes).exists(), "{} lost its peer", stays.0);
    let mut container = Container::new("true").set("/linux/netDevices", json!({&goes: {}}));
    let namespaces = container.spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.retain(|namespace| namespace["type"] != "network");
    assert!(container.run().error().contains("linux.netDevices"));
}
