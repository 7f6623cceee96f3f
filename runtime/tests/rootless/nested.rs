//! A container of an ordinary user in a container of an ordinary user.

use serde_json::json;

use super::common::spec;
use super::user::{ID, User, can_run, give};

#[test]
fn a_container_in_a_container() {
    if !can_run() {
        return;
    }
    let script = "orlop-runtime --root /tmp/state run --bundle /inner inner";
    let mut user = User::new(script).by_cgroupfs();
    let all: Vec<String> = [
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "SYS_ADMIN",
        "SYS_CHROOT",
        "MKNOD",
        "NET_ADMIN",
        "SETFCAP",
    ]
    .iter()
    .map(|name| format!("CAP_{name}"))
    .collect();
    for set in ["bounding", "effective", "permitted"] {
        user.container.spec["process"]["capabilities"][set] = json!(all);
    }
    user.container.spec["linux"]["maskedPaths"] = json!([]);
    user.container.spec["linux"]["readonlyPaths"] = json!([]);
    let rootfs = user.container.rootfs();
    super::common::make_rootfs(&rootfs.join("inner/rootfs"));
    let mut inner = spec("id -u; cat /proc/self/uid_map; echo $$");
    inner["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
    for ids in ["uidMappings", "gidMappings"] {
        inner["linux"][ids] = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    }
    std::fs::write(rootfs.join("inner/config.json"), inner.to_string()).expect("config");
    std::fs::copy(env!("CARGO_BIN_EXE_orlop-runtime"), rootfs.join("bin/orlop-runtime")).expect("copy");
    give(&rootfs, ID);
    let output = user.run().ok();
    assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["0", "0", "0", "1", "1"]);
}
