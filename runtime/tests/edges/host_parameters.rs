//! Kernel parameters are for namespaces of the container's own, under whatever path.

use serde_json::json;

use crate::common::{Container, can_run};

#[test]
fn those_of_the_callers_own_namespaces_stay_as_they_are() {
    if !can_run() {
        return;
    }
    for (kind, file, name) in [
        ("network", "net", "net.ipv4.ip_forward"),
        ("ipc", "ipc", "kernel.msgmax"),
        ("ipc", "ipc", "fs.mqueue.msg_max"),
        ("uts", "uts", "kernel.domainname"),
    ] {
        let parameter = format!("/proc/sys/{}", name.replace('.', "/"));
        let before = std::fs::read_to_string(&parameter).expect("parameter");
        for path in [format!("/proc/self/ns/{file}"), format!("/proc/{}/ns/{file}", std::process::id())] {
            let mut container = Container::new("true").set("/linux/sysctl", json!({name: before.trim()}));
            let namespaces = container.spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
            namespaces.retain(|namespace| namespace["type"] != kind);
            namespaces.push(json!({"type": kind, "path": path}));
            container.spec.as_object_mut().expect("object").remove("hostname");
            let error = container.create().error();
            assert!(error.contains("namespace of the container's own"), "{name}: {error}");
        }
        assert_eq!(std::fs::read_to_string(&parameter).expect("parameter"), before, "{name}");
    }
}
