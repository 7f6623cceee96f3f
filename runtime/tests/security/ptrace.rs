//! Processes of the runtime inside of a container, looked into before they are the program (CVE-2016-9962).

use serde_json::json;

use crate::attacks::{armed, can_attack, line, said};
use crate::common::{Container, can_run, wait_until};
use crate::harness::races;

/// Two containers of a pod share a process namespace. What waits for its start in one has what the runtime has:
/// the other must not reach it.
#[test]
fn a_container_that_waits_is_closed_to_its_neighbour() {
    if !can_run() {
        return;
    }
    let first = Container::new("exec sleep 1000");
    first.run_detached().ok();
    let namespaces = json!([
        {"type": "mount"}, {"type": "cgroup"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"},
        {"type": "pid", "path": format!("/proc/{}/ns/pid", first.state()["pid"])}
    ]);
    let second = Container::new("exec sleep 1000").set("/linux/namespaces", namespaces);
    second.create().ok();
    let status = std::fs::read_to_string(format!("/proc/{}/status", second.state()["pid"])).expect("status");
    let numbers = status.lines().find(|line| line.starts_with("NSpid:")).expect("NSpid");
    let pid = numbers.split_whitespace().last().expect("pid");
    let script = format!(
        "cd /proc/{pid}; grep -c . stat; for link in exe cwd root fd/*; do readlink $link && echo open $link; done; \
         ls fd/* > /dev/null && echo open folder; cat environ && echo open environ; true"
    );
    let ran = first.exec(&script);
    assert_eq!(ran.stdout, "1\n", "{}", ran.stderr);
    // The program itself is no secret of the runtime's.
    second.start().ok();
    assert!(first.exec(&script).stdout.contains("open exe"));
}

/// Attaches to whatever `exec` brings, from its clone to its end.
#[track_caller]
fn trace_execs(container: &Container) {
    container.create().ok();
    let pid = container.state()["pid"].to_string();
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("comm");
    std::fs::write(container.rootfs().join("name"), name).expect("name");
    container.start().ok();
    wait_until("the attacker", || said(&container.output()).iter().any(|line| line == "ready"));
    for _ in 0..races() {
        // It may be stopped half-way or killed; that is the attacker's own loss.
        container.exec("true");
    }
    std::fs::write(container.rootfs().join("stop"), "").expect("stop");
    wait_until("the end of the attack", || container.status() == "stopped");
    let report = said(&container.output()).pop().expect("a report");
    assert!(report.starts_with("caught 0 ") && report.ends_with("denied true"), "{report}");
}

fn attacker() -> Container {
    armed(Container::new(&format!("export RUNTIME_NAME=$(cat /name); {}", line("trace"))))
}

#[test]
fn root_of_a_container_does_not_trace_an_exec_before_its_program() {
    if can_run() && can_attack() {
        trace_execs(&attacker());
    }
}

/// Every capability, but over the container's own user namespace only.
#[test]
fn a_tracer_in_a_user_namespace_does_not_trace_an_exec_before_its_program() {
    if !can_run() || !can_attack() {
        return;
    }
    let namespaces = json!([
        {"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}, {"type": "user"}
    ]);
    let mapping = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    let capabilities = json!(["CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID"]);
    let sets = json!({"bounding": capabilities, "effective": capabilities, "permitted": capabilities});
    let container = attacker()
        .set("/linux/namespaces", namespaces)
        .set("/linux/uidMappings", mapping.clone())
        .set("/linux/gidMappings", mapping)
        .set("/process/capabilities", sets);
    trace_execs(&container);
}
