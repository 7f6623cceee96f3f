//! The systemd driver: run with `ORLOP_TEST_CGROUPS=systemd` on a host that systemd has booted.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Container, Ran, by_systemd, can_run, wait_until};
use serde_json::{Value, json};

fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn can() -> bool {
    if !(has_systemd() && by_systemd()) {
        println!("SKIP: needs a host that systemd has booted, and ORLOP_TEST_CGROUPS=systemd");
        return false;
    }
    can_run()
}

fn unit(container: &Container) -> String {
    format!("orlop-{}.scope", container.id)
}

/// Properties of a unit, in their order.
fn show(unit: &str, properties: &[&str]) -> Vec<String> {
    let mut command = Command::new("systemctl");
    let output = command.args(["show", "--property", &properties.join(","), unit]).output().expect("systemctl");
    let text = String::from_utf8(output.stdout).expect("text");
    let line =
        |name: &&str| text.lines().find(|line| line.split('=').next() == Some(name)).unwrap_or_default().to_owned();
    properties.iter().map(line).collect()
}

#[test]
fn a_host_without_systemd_says_so() {
    if has_systemd() || !can_run() {
        return println!("SKIP: this host has systemd");
    }
    let container = Container::new("true").set("/linux/cgroupsPath", json!("a.slice:b:c"));
    container.write_config();
    let bundle = container.folder.path().to_str().expect("path");
    let error = container.call(&["--systemd-cgroup", "run", "--bundle", bundle, &container.id]).error();
    assert!(error.contains("--systemd-cgroup is not supported") && error.contains("use cgroupfs"), "{error}");
    assert_eq!(container.left_behind(), Vec::<String>::new());
}

fn resources() -> Value {
    json!({
        "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw"}],
        "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
        "pids": {"limit": 50},
        "cpu": {"quota": 20000, "period": 50000, "shares": 1024, "cpus": "0", "mems": "0"},
        "unified": {"memory.high": "50331648"}
    })
}

/// What another runtime makes of the same configuration.
struct Peer<'a> {
    program: &'a str,
    root: PathBuf,
    id: String,
}

impl Peer<'_> {
    fn call(&self, arguments: &[&str]) -> std::process::ExitStatus {
        let mut command = Command::new(self.program);
        command.arg("--systemd-cgroup").arg("--root").arg(&self.root).args(arguments);
        // No pipes: the container would hold them.
        command.stdin(Stdio::null()).stdout(Stdio::null()).status().expect("run the other runtime")
    }
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        self.call(&["delete", "--force", &self.id]);
    }
}

#[test]
fn the_unit_is_as_runc_and_crun_make_it() {
    if !can() {
        return;
    }
    // What crun 1.21 tells systemd of, and then what only runc does.
    let mut properties = vec!["Slice", "Delegate", "DefaultDependencies", "MemoryMax", "TasksMax"];
    let (without_limits, common) = (3, properties.len());
    properties.extend([
        "MemorySwapMax",
        "MemoryLow",
        "MemoryHigh",
        "AllowedCPUs",
        "AllowedMemoryNodes",
        "DevicePolicy",
    ]);
    properties.extend(["CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec", "TimeoutStopUSec"]);
    properties.extend(["MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting"]);
    let container = Container::new("sleep 1000")
        .set("/annotations", json!({"org.systemd.property.TimeoutStopUSec": "uint64 3000000"}))
        .set("/linux/resources", resources());
    container.run_detached().ok();
    let ours = show(&unit(&container), &properties);
    assert_eq!(ours[..2], ["Slice=orlop-test.slice", "Delegate=yes"]);
    for program in ["runc", "crun"] {
        if Command::new(program).arg("--version").output().is_err() {
            println!("SKIP: {program} is not installed");
            continue;
        }
        let mut config = container.spec.clone();
        // Which an older crun knows.
        config["ociVersion"] = json!("1.0.0");
        config["linux"]["cgroupsPath"] = json!(format!("orlop-test.slice:{program}:{}", container.id));
        std::fs::write(container.folder.path().join("config.json"), config.to_string()).expect("config.json");
        let peer =
            Peer { program, root: container.folder.path().join(program), id: format!("{}-{program}", container.id) };
        let bundle = container.folder.path().to_str().expect("path");
        assert!(peer.call(&["run", "--detach", "--bundle", bundle, &peer.id]).success(), "{program}");
        let theirs = show(&format!("{program}-{}.scope", container.id), &properties);
        // An older crun tells it no limits.
        let told = if theirs.contains(&"MemoryMax=infinity".to_owned()) { without_limits } else { common };
        let count = if program == "crun" { told } else { properties.len() };
        assert_eq!(ours[..count], theirs[..count], "{program}");
    }
}

#[test]
fn an_update_is_told_to_systemd_and_outlives_its_reload() {
    if !can() {
        return;
    }
    let container = Container::new("sleep 1000").set("/linux/resources", resources());
    container.run_detached().ok();
    container.call(&["update", "--pids-limit", "77", "--cpu-quota", "10250", &container.id]).ok();
    let properties = ["TasksMax", "CPUQuotaPerSecUSec", "MemoryMax"];
    let told = ["TasksMax=77", "CPUQuotaPerSecUSec=210ms", "MemoryMax=67108864"];
    assert_eq!(show(&unit(&container), &properties), told);
    let are = || {
        container.cgroup("pids").expect("group").is(("pids.max", "77"), ("pids.max", "77"));
        // Half a percent is rounded up to what systemd keeps.
        container.cgroup("cpu").expect("group").is(("cpu.cfs_quota_us", "10500"), ("cpu.max", "10500 50000"));
    };
    are();
    assert!(Command::new("systemctl").arg("daemon-reload").status().expect("systemctl").success());
    assert_eq!(show(&unit(&container), &properties), told);
    are();
    container.exec("echo x >/dev/null").ok();
    container.call(&["pause", &container.id]).ok();
    container.call(&["delete", "--force", &container.id]).ok();
    assert_eq!(container.left_behind(), Vec::<String>::new());
}

#[test]
fn a_limit_of_one_process() {
    if !can() {
        return;
    }
    let container = Container::new("exec sleep 1000").set("/linux/resources", json!({"pids": {"limit": 1}}));
    container.run_detached().ok();
    assert_eq!(container.cgroup("pids").expect("group").read("pids.max"), "1");
}

#[test]
fn what_is_asked_of_systemd_is_checked() {
    if !can() {
        return;
    }
    let refused = |container: Container, part: &str| {
        let error = container.create().error();
        assert!(error.contains(part), "{error}");
        assert_eq!(container.left_behind(), Vec::<String>::new());
    };
    for (name, value) in [
        ("SuccessAction", "'poweroff-force'"),
        ("ExecStop", "'x'"),
        ("Wants", "['a.service']"),
        ("CollectMode", "'x"),
        ("x.y", "1"),
    ] {
        let key = format!("org.systemd.property.{name}");
        refused(Container::new("true").set("/annotations", json!({&key: value})), &format!("annotations[\"{key}\"]"));
    }
    // What only systemd can tell.
    let unknown = json!({"org.systemd.property.NoSuchProperty": "1"});
    refused(Container::new("true").set("/annotations", unknown), "NoSuchProperty");
    for path in ["/a/b", "a:b:c", "a.slice:b:c/d", ":b:c.slice"] {
        refused(Container::new("true").set("/linux/cgroupsPath", json!(path)), "linux.cgroupsPath");
    }
}

/// What is made by then is removed, and nothing stays that nobody knows of.
#[test]
fn a_create_that_is_killed_leaves_no_unit() {
    if !can() {
        return;
    }
    let group = |container: &Container| Path::new("/sys/fs/cgroup/orlop.slice/orlop-test.slice").join(unit(container));
    let moments: [&dyn Fn(&Container) -> bool; 4] = [
        &|container| container.root().join(&container.id).join("state.json").exists(),
        &|container| Path::new("/run/systemd/transient").join(unit(container)).exists(),
        &|container| group(container).join("cgroup.procs").exists(),
        &|container| container.root().join(&container.id).join("config.json").exists(),
    ];
    for come in moments {
        let container = Container::new("sleep 1000");
        container.write_config();
        let bundle = container.folder.path().to_str().expect("path");
        let mut create = container.command(&["create", "--bundle", bundle, &container.id]).spawn().expect("create");
        wait_until("the moment", || come(&container));
        create.kill().expect("kill");
        create.wait().expect("wait");
        container.call(&["delete", "--force", &container.id]).ok();
        assert_eq!(container.left_behind(), Vec::<String>::new());
    }
}

/// There a number is that of another process to systemd, which would put it into the container's group.
#[test]
fn from_a_pid_namespace_that_is_not_systemds() {
    if !can() {
        return;
    }
    let container = Container::new("sleep 1000");
    container.write_config();
    let bundle = container.folder.path().to_str().expect("path");
    let create = container.command(&["create", "--bundle", bundle, &container.id]);
    let mut nested = Command::new("unshare");
    nested.args(["--pid", "--fork", "--mount-proc"]).arg(create.get_program()).args(create.get_args());
    let error = Ran::from(nested.output().expect("unshare")).error();
    assert!(error.contains("another PID namespace") && error.contains("use cgroupfs"), "{error}");
    assert_eq!(container.left_behind(), Vec::<String>::new());
}
