//! Fields of config.json that few containers use: mounts with mapped ids, `tmpcopyup` and `remount`, the
//! scheduler, CPU affinity and memory policy, seccomp's listener, and network devices.

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use common::{Container, can_run};
use nix::errno::Errno;
use serde_json::{Value, json};

fn ids(container: u32, host: u32, size: u32) -> Value {
    json!([{"containerID": container, "hostID": host, "size": size}])
}

/// A folder of the bundle with a file of the user and group `id`.
fn volume(container: &Container, id: u32) -> String {
    let folder = container.folder.path().join("volume");
    std::fs::create_dir_all(&folder).expect("volume");
    let file = folder.join("file");
    std::fs::write(&file, "content").expect("file");
    for path in [&file, &folder] {
        chown(path, Some(id), Some(id)).expect("chown");
    }
    folder.to_str().expect("path").to_owned()
}

fn in_user_namespace(script: &str) -> Container {
    let mut container = Container::new(script)
        .set("/linux/uidMappings", ids(0, 100_000, 65536))
        .set("/linux/gidMappings", ids(0, 100_000, 65536));
    for folder in ["mnt", "plain"] {
        std::fs::create_dir(container.rootfs().join(folder)).expect("folder");
    }
    container.spec["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
    // The folders that lead to the bundle are closed to others.
    std::fs::set_permissions(container.folder.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    container
}

#[test]
fn a_mount_with_its_own_mapping() {
    if !can_run() {
        return;
    }
    let container = Container::new("stat -c %u:%g /mnt/file; touch /mnt/new");
    let source = volume(&container, 1000);
    let container = container.add_mount(json!({
        "destination": "/mnt", "source": source, "options": ["bind", "idmap"],
        "uidMappings": [{"containerID": 1000, "hostID": 0, "size": 1}],
        "gidMappings": [{"containerID": 1000, "hostID": 0, "size": 1}]
    }));
    assert_eq!(container.run().ok(), "0:0\n");
    let new = std::fs::metadata(Path::new(&source).join("new")).expect("new file");
    assert_eq!((new.uid(), new.gid()), (1000, 1000));
}

#[test]
fn a_mount_with_the_mapping_of_the_container() {
    if !can_run() {
        return;
    }
    let container = in_user_namespace("stat -c %u:%g /mnt/file; stat -c %u /plain/file; touch /mnt/new");
    let source = volume(&container, 0);
    let container = container
        .add_mount(json!({"destination": "/mnt", "source": source, "options": ["rbind", "ridmap", "nosuid"]}))
        .add_mount(json!({"destination": "/plain", "source": source, "options": ["rbind"]}));
    assert_eq!(container.run().ok(), "0:0\n65534\n");
    assert_eq!(std::fs::metadata(Path::new(&source).join("new")).expect("new file").uid(), 0);
}

#[test]
fn a_user_namespace_and_a_mount_with_another_mapping() {
    if !can_run() {
        return;
    }
    let container = in_user_namespace("stat -c %u:%g /mnt/file");
    let source = volume(&container, 7);
    let container = container.add_mount(json!({
        "destination": "/mnt", "source": source, "options": ["bind", "ro"],
        "uidMappings": ids(7, 100_003, 1), "gidMappings": ids(7, 100_004, 1)
    }));
    assert_eq!(container.run().ok(), "3:4\n");
}

#[test]
fn mappings_that_cannot_be() {
    if !can_run() {
        return;
    }
    let fails = |mount: Value| Container::new("true").add_mount(mount).run().error();
    let own = |kind: &str| json!({"destination": "/mnt", "type": kind, "source": "/tmp", "uidMappings": ids(0, 1, 1), "gidMappings": ids(0, 1, 1)});
    assert!(fails(own("tmpfs")).contains("only bind mounts"), "tmpfs");
    let half = json!({"destination": "/mnt", "source": "/tmp", "options": ["bind"], "uidMappings": ids(0, 1, 1)});
    assert!(fails(half).contains("mounts[/mnt].gidMappings"), "half");
    let none = json!({"destination": "/mnt", "source": "/tmp", "options": ["bind", "idmap"]});
    assert!(fails(none).contains("mounts[/mnt].options"), "none");
}

#[test]
fn a_tmpfs_that_begins_with_what_it_covers() {
    if !can_run() {
        return;
    }
    let script = "cd /data && stat -c '%n %a %u:%g %F' . file sub sub/deep link fifo; cat sub/deep; readlink link
        echo changed > file; (touch /data/x) 2>&1";
    let container = Container::new(script).add_mount(
        json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "nosuid"]}),
    );
    let data = container.rootfs().join("data");
    std::fs::create_dir_all(data.join("sub")).expect("folders");
    std::fs::write(data.join("file"), "first").expect("file");
    std::fs::set_permissions(data.join("file"), std::fs::Permissions::from_mode(0o4751)).expect("chmod");
    chown(data.join("file"), Some(3), Some(4)).expect("chown");
    std::fs::set_permissions(data.join("file"), std::fs::Permissions::from_mode(0o4751)).expect("chmod");
    std::fs::write(data.join("sub/deep"), "deep\n").expect("deep");
    std::fs::set_permissions(data.join("sub"), std::fs::Permissions::from_mode(0o711)).expect("chmod");
    chown(data.join("sub"), Some(5), Some(6)).expect("chown");
    std::os::unix::fs::symlink("/etc/passwd", data.join("link")).expect("link");
    nix::unistd::mkfifo(&data.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("fifo");
    let text = container.run().ok();
    let expected = "\
        . 755 0:0 directory\n\
        file 4751 3:4 regular file\n\
        sub 711 5:6 directory\n\
        sub/deep 644 0:0 regular file\n\
        link 777 0:0 symbolic link\n\
        fifo 600 0:0 fifo\n\
        deep\n/etc/passwd\n";
    assert_eq!(text, expected);
    assert_eq!(std::fs::read_to_string(data.join("file")).expect("file"), "first", "the image was written to");
    assert!(!data.join("x").exists());
}

#[test]
fn a_tmpfs_that_is_read_only_and_copied_up() {
    if !can_run() {
        return;
    }
    let container = Container::new("cat /data/file; (touch /data/x) 2>&1; true")
        .add_mount(json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "tmpcopyup"]}));
    std::fs::create_dir_all(container.rootfs().join("data")).expect("folder");
    std::fs::write(container.rootfs().join("data/file"), "content\n").expect("file");
    assert_eq!(container.run().ok(), "content\ntouch: /data/x: Read-only file system\n");
}

#[test]
fn more_is_covered_than_the_tmpfs_holds() {
    if !can_run() {
        return;
    }
    let container = Container::new("true").add_mount(
        json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "tmpcopyup"]}),
    );
    std::fs::create_dir_all(container.rootfs().join("data")).expect("folder");
    std::fs::write(container.rootfs().join("data/big"), vec![1; 1 << 20]).expect("file");
    let error = container.run().error();
    assert!(error.contains("copy up /data") && error.contains("No space left"), "{error}");
}

#[test]
fn options_for_a_mount_that_is_there() {
    if !can_run() {
        return;
    }
    let script = "grep -E ' /(data|vol) ' /proc/mounts | cut -d' ' -f2,4; (touch /vol/x) 2>&1; touch /data/x 2>&1";
    let script = script.replace("cut -d' ' -f2,4", "cat");
    let container = Container::new(&script);
    let source = volume(&container, 0);
    let container = container
        .add_mount(json!({"destination": "/data", "type": "tmpfs", "source": "data", "options": ["size=64k"]}))
        .add_mount(json!({"destination": "/vol", "source": source, "options": ["bind"]}))
        .add_mount(json!({"destination": "/data", "type": "tmpfs", "source": "data", "options": ["remount", "noexec", "size=128k"]}))
        .add_mount(json!({"destination": "/vol", "source": source, "options": ["remount", "bind", "ro", "nodev"]}));
    let text = container.run().ok();
    let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    assert!(line(" /data ").contains("noexec") && line(" /data ").contains("size=128k"), "{text}");
    assert!(line(" /vol ").contains("ro,nodev"), "{text}");
    assert!(text.ends_with("touch: /vol/x: Read-only file system\n"), "{text}");
    let nothing = json!({"destination": "/etc", "type": "tmpfs", "options": ["remount", "ro"]});
    let error = Container::new("true").add_mount(nothing).run().error();
    assert!(error.contains("remount /etc"), "{error}");
}

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
    assert_eq!(exec(json!({"initial": "0"})).ok(), "Cpus_allowed_list:\t0\n");
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

/// What a listener of seccomp got: the message, and the filter's descriptor.
fn accept_filter(listener: &std::os::unix::net::UnixListener) -> (Value, std::os::fd::OwnedFd) {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    use std::os::fd::AsRawFd;
    let (connection, _) = listener.accept().expect("accept");
    let mut bytes = vec![0; 65536];
    let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(connection.as_raw_fd(), &mut parts, Some(&mut space), flags).expect("message");
    let mut fds = Vec::new();
    for control in message.cmsgs().expect("control messages") {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            fds.extend(numbers);
        }
    }
    let length = message.bytes;
    assert_eq!(fds.len(), 1);
    let filter = own(fds[0]);
    // One message for each connection, which ends with it.
    assert_eq!(std::io::Read::read(&mut &connection, &mut [0]).expect("end"), 0);
    (serde_json::from_slice(&bytes[..length]).expect("json"), filter)
}

#[allow(unsafe_code)]
fn own(number: i32) -> std::os::fd::OwnedFd {
    // SAFETY: recvmsg just made the descriptor, and nothing else knows its number.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(number) }
}

/// `struct seccomp_notif` and `struct seccomp_notif_resp` of linux/seccomp.h.
#[repr(C)]
#[derive(Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    architecture: u32,
    instruction: u64,
    args: [u64; 6],
}

#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[allow(unsafe_code)]
mod ioctl {
    nix::ioctl_readwrite!(receive, b'!', 0, super::Notification);
    nix::ioctl_readwrite!(send, b'!', 1, super::Answer);
}

/// Answers one system call with an error; returns whose it was.
#[allow(unsafe_code)]
fn answer(filter: &std::os::fd::OwnedFd, errno: Errno) -> u32 {
    use std::os::fd::AsRawFd;
    let mut notification = Notification::default();
    // SAFETY: the structure is the kernel's, zeroed, and lives through the call.
    unsafe { ioctl::receive(filter.as_raw_fd(), &raw mut notification) }.expect("receive");
    let mut answer = Answer { id: notification.id, value: 0, error: -(errno as i32), flags: 0 };
    // SAFETY: the structure is the kernel's and lives through the call.
    unsafe { ioctl::send(filter.as_raw_fd(), &raw mut answer) }.expect("send");
    notification.pid
}

#[test]
fn a_seccomp_listener_is_asked() {
    if !can_run() {
        return;
    }
    for no_new_privs in [true, false] {
        let container = Container::new("(mkdir /x) 2>&1; sleep 1000");
        let path = container.folder.path().join("seccomp.sock");
        let socket = std::os::unix::net::UnixListener::bind(&path).expect("listener");
        let container = container
            .set("/process/noNewPrivileges", json!(no_new_privs))
            .set("/annotations", json!({"org.example": "yes"}))
            .set(
                "/linux/seccomp",
                json!({
                    "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "for the listener",
                    "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
                    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]
                }),
            );
        let (message, filter) = std::thread::scope(|scope| {
            let got = scope.spawn(|| accept_filter(&socket));
            container.create().ok();
            got.join().expect("listener")
        });
        let pid = container.state()["pid"].clone();
        let bundle = container.folder.path().to_str().expect("path");
        let expected = json!({
            "ociVersion": "1.3.0", "fds": ["seccompFd"], "pid": pid, "metadata": "for the listener",
            "state": {
                "ociVersion": "1.3.0", "id": container.id, "status": "creating", "pid": pid, "bundle": bundle,
                "annotations": {"org.example": "yes"}
            }
        });
        assert_eq!(message, expected);
        container.start().ok();
        assert_ne!(answer(&filter, Errno::ENOTBLK), 0);
        common::wait_until("the answer", || container.output().contains("Block device required"));

        // Another process of the container has a filter of its own.
        let (message, filter) = std::thread::scope(|scope| {
            let exec = scope.spawn(|| container.exec("mkdir /y"));
            let got = accept_filter(&socket);
            answer(&got.1, Errno::EXFULL);
            assert!(exec.join().expect("exec").error().contains("Exchange full"));
            got
        });
        assert_eq!(message["state"]["status"], json!("running"));
        assert_eq!(message["state"]["pid"], pid);
        assert_ne!(message["pid"], pid);
        drop(filter);
    }
}

#[test]
fn a_seccomp_listener_that_cannot_be() {
    if !can_run() {
        return;
    }
    let fails = |more: Value, name: &str, action: &str| {
        let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [name], "action": action}]});
        profile.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        Container::new("true").set("/linux/seccomp", profile).run().error()
    };
    let notify = "SCMP_ACT_NOTIFY";
    assert!(fails(json!({}), "mkdir", notify).contains("linux.seccomp.listenerPath"));
    let nobody = fails(json!({"listenerPath": "/nobody.sock"}), "mkdir", notify);
    assert!(nobody.contains("seccomp listener /nobody.sock: No such file"), "{nobody}");
    assert!(fails(json!({"listenerPath": "/nobody.sock"}), "sendmsg", notify).contains("sendmsg"));
    let default = fails(json!({"defaultAction": notify, "listenerPath": "/nobody.sock"}), "mkdir", "SCMP_ACT_ALLOW");
    assert!(default.contains("linux.seccomp.defaultAction"), "{default}");
    assert!(fails(json!({"listenerMetadata": "x"}), "mkdir", "SCMP_ACT_ERRNO").contains("listenerMetadata"));
    // Who is not asked need not be there.
    let unused = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/nobody.sock",
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    });
    Container::new("true").set("/linux/seccomp", unused).run().ok();
}

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
    if Path::new("/sys/module/apparmor/parameters/enabled").exists() {
        println!("SKIP: this host has AppArmor");
    } else {
        let error = Container::new("true").set("/process/apparmorProfile", json!("web")).run().error();
        assert!(error.contains("process.apparmorProfile"), "{error}");
    }
}

/// A folder with another filesystem mounted below it, on the host.
struct Nested(tempfile::TempDir);

impl Nested {
    fn new() -> Nested {
        let folder = tempfile::tempdir().expect("folder");
        let below = folder.path().join("below");
        std::fs::create_dir(&below).expect("below");
        let none = None::<&str>;
        nix::mount::mount(Some("tmpfs"), &below, Some("tmpfs"), nix::mount::MsFlags::empty(), none).expect("mount");
        Nested(folder)
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0.path().join("below"), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn attributes_of_all_mounts_below() {
    if !can_run() {
        return;
    }
    let nested = Nested::new();
    let with = |options: &[&str]| {
        let options: Vec<&str> = ["rbind"].iter().chain(options).copied().collect();
        let mount = json!({"destination": "/vol", "source": nested.0.path(), "options": options});
        Container::new("grep ' /vol' /proc/mounts").add_mount(mount).run().ok()
    };
    let has = |text: &str, flag: &str| {
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        lines.iter().filter(|line| line.split([' ', ',']).any(|part| part == flag)).count()
    };
    for (option, flag) in [
        ("rro", "ro"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnoatime", "noatime"),
        ("rnodiratime", "nodiratime"),
        ("rnosymfollow", "nosymfollow"),
    ] {
        assert_eq!(has(&with(&[option]), flag), 2, "{option}");
        assert_eq!(has(&with(&[&option[1..]]), flag), 1, "{}", &option[1..]);
    }
    assert_eq!(has(&with(&["rro", "rrw"]), "rw"), 2);
    assert_eq!(has(&with(&["rnoatime", "ratime"]), "relatime"), 2);
    assert_eq!(has(&with(&["rstrictatime"]), "relatime"), 0);
    for option in ["rnorelatime", "rnostrictatime", "norelatime"] {
        assert_eq!(has(&with(&[option]), "relatime"), 2, "{option}");
    }
}

#[test]
fn options_that_a_filesystem_need_not_know() {
    if !can_run() {
        return;
    }
    let options = ["silent", "acl", "iversion", "norelatime", "lazytime"];
    let script = "grep ' /made ' /proc/mounts; stat -c %a /made";
    let text = Container::new(script)
        .add_mount(json!({"destination": "/made", "type": "tmpfs", "source": "made", "options": options}))
        .run()
        .ok();
    assert!(text.contains("rw,lazytime,relatime"), "{text}");
    // A folder that was not there has no permissions to keep.
    assert!(text.ends_with("\n1777\n"), "{text}");
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

#[test]
fn the_propagation_of_the_root() {
    if !can_run() {
        return;
    }
    // Fields before the dash that tell of peers: `shared:N`, `master:N`, `unbindable`.
    let run = |propagation: &str| {
        let container = Container::new("grep ' / / \\| /rootfs / \\|/rootfs / ' /proc/self/mountinfo")
            .set("/linux/rootfsPropagation", json!(propagation));
        container.run()
    };
    assert!(run("rshared").ok().contains(" shared:"));
    assert!(run("unbindable").ok().contains(" unbindable "));
    let private = run("rprivate").ok();
    assert!(!private.contains("shared:") && !private.contains("master:"), "{private}");
    assert!(run("sideways").error().contains("linux.rootfsPropagation"));
}

#[test]
fn a_user_namespace_by_path() {
    if !can_run() {
        return;
    }
    let owner = in_user_namespace("sleep 1000");
    owner.run_detached().ok();
    let path = format!("/proc/{}/ns/user", owner.state()["pid"]);
    let script = "readlink /proc/self/ns/user; stat -c %u /mnt/file; id -u; cat /proc/self/oom_score_adj; hostname";
    let container = in_user_namespace(script).set("/process/oomScoreAdj", json!(77));
    let source = volume(&container, 0);
    let mut container =
        container.add_mount(json!({"destination": "/mnt", "source": source, "options": ["bind", "idmap"]}));
    let namespaces = container.spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.last_mut().expect("user namespace")["path"] = json!(path);
    for field in ["uidMappings", "gidMappings"] {
        container.spec["linux"].as_object_mut().expect("linux").remove(field);
    }
    let namespace = std::fs::read_link(&path).expect("namespace");
    assert_eq!(container.run().ok(), format!("{}\n0\n0\n77\nbox\n", namespace.display()));
}
