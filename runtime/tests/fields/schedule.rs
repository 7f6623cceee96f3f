//! The scheduler, CPU affinity and memory policy.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Container, can_run, is_linux_before};

#[test]
fn the_scheduler() {
    if !can_run() {
        return;
    }
    // Fields 19 and 41 of stat(5) are nice and the policy.
    let script = "set -- $(cat /proc/self/stat); echo ${19} ${41}";
    let run = |scheduler: Value| Container::new(script).set("/process/scheduler", scheduler).run();
    assert_eq!(run(json!({"policy": "SCHED_BATCH", "nice": 7})).ok(), "7 3\n");
    assert!(run(json!({"policy": "SCHED_IDLE"})).ok().ends_with(" 5\n"));
    assert_eq!(run(json!({"policy": "SCHED_BATCH", "nice": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]})).code, Some(0));
    let error = run(json!({"policy": "SCHED_OTHER", "nice": 30})).error();
    assert!(error.contains("process.scheduler.nice"), "{error}");
    let error = run(json!({"policy": "SCHED_BATCH", "priority": 3})).error();
    assert!(error.contains("process.scheduler.priority"), "{error}");
}

#[test]
fn cpus_of_exec() {
    if !can_run() {
        return;
    }
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("SKIP: needs two CPUs");
        return;
    }
    let container = Container::new("sleep 1000");
    container.run_detached().ok();
    let exec = |affinity: Value| {
        let process = container.folder.path().join("process.json");
        let mut spec = container.spec["process"].clone();
        spec["args"] = json!(["grep", "Cpus_allowed_list", "/proc/self/status"]);
        spec["execCPUAffinity"] = affinity;
        std::fs::write(&process, spec.to_string()).expect("process.json");
        container.call(&["exec", "--process", process.to_str().expect("path"), &container.id])
    };
    assert_eq!(exec(json!({"final": "1"})).ok(), "Cpus_allowed_list:\t1\n");
    // Linux before 6.2 forgets what a process asked for when it comes into another cpuset.
    let forgets = is_linux_before(6, 2);
    let kept = exec(json!({"initial": "0"})).ok();
    assert!(kept == "Cpus_allowed_list:\t0\n" || (forgets && kept == "Cpus_allowed_list:\t0-1\n"), "{kept}");
    assert_eq!(exec(json!({"initial": "0", "final": "0-1"})).ok(), "Cpus_allowed_list:\t0-1\n");
    let error = exec(json!({"final": "8000-8001"})).error();
    assert!(error.contains("execCPUAffinity"), "{error}");
    assert!(exec(json!({"initial": "9-8"})).error().contains("process.execCPUAffinity.initial"));
}

#[test]
fn the_memory_policy() {
    if !can_run() {
        return;
    }
    let script = "head -n 1 /proc/self/numa_maps";
    let run = |policy: Value| Container::new(script).set("/linux/memoryPolicy", policy).run();
    if !Path::new("/proc/self/numa_maps").exists() {
        println!("SKIP: the kernel has no memory policies");
        return;
    }
    let bind = run(json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]})).ok();
    assert!(bind.contains(" bind=static:0 "), "{bind}");
    let error = run(json!({"mode": "MPOL_BIND", "nodes": "0-x"})).error();
    assert!(error.contains("linux.memoryPolicy.nodes"), "{error}");
    let error = run(json!({"mode": "MPOL_BIND"})).error();
    assert!(error.contains("linux.memoryPolicy"), "{error}");
}
