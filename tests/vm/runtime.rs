//! orlop-runtime on cgroup v2 alone.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use orlop_tests::wait;
use serde_json::{Value, json};

use crate::bundle::Container;
use crate::{BIN, Case};

pub(crate) const CASES: &[Case] = &[
    ("guest_has_systemd_and_only_cgroup_v2", guest),
    ("limits_are_in_the_cgroup", limits),
    ("limits_are_as_runc_and_crun_set_them", as_peers),
    ("memory_beyond_the_limit_is_killed", out_of_memory),
    ("exec_joins_the_cgroup_and_kill_ends_it", exec_and_kill),
    ("devices_are_denied_by_ebpf", devices),
    ("pause_freezes_the_cgroup", pause),
];

const SLEEP: &str = "exec sleep 1000";

fn guest() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let kinds: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    ensure!(kinds.contains(&"cgroup2") && !kinds.contains(&"cgroup"), "{mounts}");
    ensure!(Path::new("/run/systemd/system").is_dir(), "systemd is not the init");
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?;
    for wanted in ["cpu", "cpuset", "io", "memory", "pids"] {
        ensure!(controllers.split_whitespace().any(|controller| controller == wanted), "no {wanted}: {controllers}");
    }
    Ok(())
}

fn resources() -> Value {
    json!({
        "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
        "pids": {"limit": 50},
        "cpu": {"quota": 20000, "period": 100_000, "shares": 512, "cpus": "0"},
        "unified": {"memory.high": "50331648"}
    })
}

fn equal(container: &Container, file: &str, wanted: &str) -> Result<()> {
    let seen = container.setting(file)?;
    ensure!(seen == wanted, "{file} is {seen:?}, not {wanted:?}");
    Ok(())
}

/// Ends and deletes a container; nothing of its cgroup may stay, its parent included.
fn remove(container: &Container) -> Result<()> {
    container.ok(&["kill", container.id(), "KILL"])?;
    container.until("stopped")?;
    delete(container)
}

fn delete(container: &Container) -> Result<()> {
    container.ok(&["delete", container.id()])?;
    ensure!(!container.cgroup().exists(), "{} is left", container.cgroup().display());
    let parent = container.cgroup().with_file_name("");
    ensure!(!parent.exists(), "{}, which the runtime made, is left", parent.display());
    Ok(())
}

fn limits() -> Result<()> {
    let container = Container::new("limits", SLEEP, &resources())?;
    container.start()?;
    equal(&container, "memory.max", "67108864")?;
    // In the configuration swap is memory and swap together.
    equal(&container, "memory.swap.max", "33554432")?;
    equal(&container, "memory.low", "33554432")?;
    equal(&container, "memory.high", "50331648")?;
    equal(&container, "pids.max", "50")?;
    equal(&container, "cpu.max", "20000 100000")?;
    equal(&container, "cpuset.cpus", "0")?;
    let larger = json!({"memory": {"limit": 128 << 20, "swap": 128 << 20}, "pids": {"limit": 60}});
    let file = Path::new("/var/tmp/update.json");
    fs::write(file, larger.to_string())?;
    container.ok(&["update", "--resources", &file.to_string_lossy(), "limits"])?;
    equal(&container, "memory.max", "134217728")?;
    equal(&container, "memory.swap.max", "0")?;
    equal(&container, "pids.max", "60")?;
    equal(&container, "cpu.max", "20000 100000")?;
    remove(&container)
}

/// The files are read in the same guest, from the same configuration, one runtime after the other.
fn as_peers() -> Result<()> {
    let files = ["memory.max", "memory.swap.max", "memory.low", "memory.high", "pids.max", "cpu.max", "cpuset.cpus"];
    let settings = |runtime: &str| -> Result<(Vec<(&str, String)>, String)> {
        let container = Container::of(Path::new(runtime), "peer", SLEEP, &resources(), &json!([]))?;
        container.start().with_context(|| runtime.to_owned())?;
        let seen = files.iter().map(|file| Ok((*file, container.setting(file)?))).collect::<Result<Vec<_>>>()?;
        let weight = container.setting("cpu.weight")?;
        container.ok(&["delete", "--force", "peer"])?;
        Ok((seen, weight))
    };
    let (ours, weight) = settings(&format!("{BIN}/orlop-runtime"))?;
    for peer in ["/usr/sbin/runc", "/usr/bin/crun"] {
        let (theirs, peers_weight) = settings(peer)?;
        ensure!(ours == theirs, "ours {ours:?}\n{peer}: {theirs:?}");
        // runc and crun moved to another curve from shares to weight in the same year; either is a weight.
        println!("cpu.weight of 512 shares: ours {weight}, {peer} {peers_weight}");
    }
    Ok(())
}

fn out_of_memory() -> Result<()> {
    let limit = json!({"memory": {"limit": 32 << 20, "swap": 32 << 20}});
    // `tail` keeps a line until it ends, and /dev/zero has no end of line.
    let ran = Container::new("oom", "exec tail /dev/zero", &limit)?.run()?;
    ensure!(ran.code == 137, "run ended with {}: {}{}", ran.code, ran.stdout, ran.stderr);
    let container = Container::new("oom-child", "tail /dev/zero; echo ended with $?; exec sleep 1000", &limit)?;
    container.start()?;
    wait::until_equal("the child's end", &"ended with 137\n".to_owned(), || container.output())?;
    let events = container.setting("memory.events")?;
    ensure!(events.lines().any(|line| line == "oom_kill 1"), "{events}");
    ensure!(container.status()? == "running", "the container outlives its child");
    remove(&container)
}

fn exec_and_kill() -> Result<()> {
    let container = Container::new("exec", "trap 'exit 7' TERM; while :; do sleep 1; done", &json!({}))?;
    container.start()?;
    // The cgroup namespace begins at the container's group.
    let seen = container.ok(&["exec", "exec", "cat", "/proc/self/cgroup"])?;
    ensure!(seen == "0::/\n", "{seen:?}");
    ensure!(container.call(&["exec", "exec", "sh", "-c", "exit 5"])?.code == 5, "exec's exit code");
    container.ok(&["exec", "--detach", "exec", "sh", "-c", "exec sleep 1000 >/dev/null 2>&1"])?;
    wait::until("the detached process in the cgroup", || {
        let processes = container.setting("cgroup.procs")?;
        let names = processes.lines().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).ok());
        Ok(names.into_iter().any(|name| name == "sleep\u{0}1000\u{0}").then_some(()))
    })?;
    container.ok(&["kill", "exec", "TERM"])?;
    container.until("stopped")?;
    delete(&container)
}

fn devices() -> Result<()> {
    let disk = fs::metadata("/dev/vda")?.rdev();
    let (major, minor) = (nix::sys::stat::major(disk), nix::sys::stat::minor(disk));
    let device = json!([{"path": "/dev/disk", "type": "b", "major": major, "minor": minor, "fileMode": 0o600}]);
    let read = |path: &str| format!("dd if={path} of=/dev/null bs=512 count=1; echo read $?");
    let script = format!(
        "exec 2>&1; {}; mknod /tmp/disk b {major} {minor}; echo mknod $?; {}; echo x >/dev/null; echo null $?",
        read("/dev/disk"),
        read("/tmp/disk"),
    );
    let run = |runtime: &str, rules: Value| {
        Container::of(Path::new(runtime), "devices", &script, &json!({"devices": rules}), &device)?.run()
    };
    let ours = format!("{BIN}/orlop-runtime");
    // As with runc, a node can be made of any device; to open it is what the rules decide.
    let denied = run(&ours, json!([{"allow": false, "access": "rwm"}]))?;
    let told: Vec<&str> = denied.stdout.lines().collect();
    let refusal = |path| format!("dd: can't open '{path}': Operation not permitted");
    let (given, made) = (refusal("/dev/disk"), refusal("/tmp/disk"));
    ensure!(told == [&given, "read 1", "mknod 0", &made, "read 1", "null 0"], "{denied:?}");
    let rule = |access: &str| json!({"allow": true, "type": "b", "major": major, "minor": minor, "access": access});
    let readable = run(&ours, json!([{"allow": false, "access": "rwm"}, rule("r")]))?;
    ensure!(readable.stdout.matches("read 0\n").count() == 2, "{readable:?}");
    for rules in [
        json!([]),
        json!([{"allow": false, "access": "rwm"}, rule("w")]),
        json!([{"allow": false, "access": "rwm"}, rule("r"), {"allow": false, "type": "b", "access": "m"}]),
        json!([{"allow": true, "access": "rwm"}, {"allow": false, "type": "b", "access": "r"}]),
    ] {
        let (seen, peer) = (run(&ours, rules.clone())?, run("/usr/sbin/runc", rules.clone())?);
        ensure!(seen.stdout == peer.stdout, "{rules}: ours {seen:?}\nrunc {peer:?}");
    }
    Ok(())
}

fn pause() -> Result<()> {
    let container = Container::new("pause", "while :; do echo tick; sleep 0.1; done", &json!({}))?;
    container.start()?;
    container.ok(&["pause", "pause"])?;
    equal(&container, "cgroup.freeze", "1")?;
    let events = container.setting("cgroup.events")?;
    ensure!(events.lines().any(|line| line == "frozen 1"), "pause came back before all were frozen: {events}");
    ensure!(container.status()? == "paused", "{}", container.status()?);
    let refused = container.call(&["exec", "pause", "true"])?;
    ensure!(refused.code != 0 && refused.stderr.contains("paused"), "{refused:?}");
    let ticks = container.output()?.len();
    container.ok(&["resume", "pause"])?;
    equal(&container, "cgroup.freeze", "0")?;
    container.until("running")?;
    wait::until("another tick", || Ok((container.output()?.len() > ticks).then_some(())))?;
    // A frozen container can be deleted by force.
    container.ok(&["pause", "pause"])?;
    container.ok(&["delete", "--force", "pause"])?;
    ensure!(!container.cgroup().exists(), "{} is left", container.cgroup().display());
    Ok(())
}
