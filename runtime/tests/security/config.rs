//! config.json and its like as an attacker would write them: refused with a word about why, and nothing left.

use std::io::Write;

use serde_json::{Value, json};

use crate::common::{Container, Ran, can_run};

/// Runs whatever stands in config.json.
#[track_caller]
pub(crate) fn run_raw(container: &Container, config: &[u8]) -> Ran {
    std::fs::write(container.folder.path().join("config.json"), config).expect("file");
    let bundle = container.folder.path().to_str().expect("path");
    container.call(&["run", "--bundle", bundle, &container.id])
}

/// A refusal: not 0, no crash, one line that says what is wrong, no trace.
#[track_caller]
pub(crate) fn check_refused(container: &Container, ran: &Ran, what: &str, word: &str) {
    assert_eq!(ran.code, Some(1), "{what}: {ran:?}");
    assert_eq!(ran.stderr.trim_end().lines().count(), 1, "{what}: {}", ran.stderr);
    assert!(ran.stderr.contains(word), "{what}: {word:?} is not in {}", ran.stderr);
    assert!(ran.stdout.is_empty(), "{what}: {}", ran.stdout);
    assert_eq!(container.left_behind(), Vec::<String>::new(), "{what}");
    let left = std::fs::read_dir(container.root()).map_or(0, Iterator::count);
    assert_eq!(left, 0, "{what}: something is left in the state folder");
}

#[track_caller]
fn refused(config: &[u8], word: &str) {
    let container = Container::new("echo started");
    let ran = run_raw(&container, config);
    let shown: String = String::from_utf8_lossy(config).chars().take(200).collect();
    check_refused(&container, &ran, &shown, word);
}

/// The usual configuration with one property changed.
#[track_caller]
pub(crate) fn refused_with(pointer: &str, value: Value, word: &str) {
    let container = Container::new("echo started").set(pointer, value.clone());
    check_refused(&container, &container.run(), &format!("{pointer} = {value}"), word);
}

#[test]
fn malformed() {
    if !can_run() {
        return;
    }
    for text in [
        "",
        " ",
        "{",
        "[]",
        "null",
        "true",
        "0",
        "\"\"",
        "{}{",
        "{\"ociVersion\":}",
        "{'a':1}",
        "\u{feff}{}",
        "{\"a\":1,}",
    ] {
        refused(text.as_bytes(), "config");
    }
    refused(b"\x00\x00\x00\x00", "config");
    refused(b"{\"ociVersion\":\"\xff\xfe\"}", "config");
    refused(b"{\"ociVersion\":\"\\ud800\"}", "config");
    let whole = Container::new("echo started").spec.to_string();
    for part in [whole.len() - 1, whole.len() / 2, 10] {
        refused(&whole.as_bytes()[..part], "EOF");
    }
    refused(format!("{whole}x").as_bytes(), "trailing");
    refused(b"{}", "ociVersion");
    for missing in ["ociVersion", "process", "root", "linux"] {
        let mut spec = Container::new("echo started").spec.clone();
        spec.as_object_mut().expect("object").remove(missing);
        refused(spec.to_string().as_bytes(), missing);
    }
}

#[test]
fn wrong_types_and_numbers() {
    if !can_run() {
        return;
    }
    for pointer in
        ["/ociVersion", "/process", "/root", "/mounts", "/linux", "/process/args", "/process/env", "/process/user"]
            .into_iter()
            .chain([
                "/linux/namespaces",
                "/linux/resources",
                "/linux/maskedPaths",
                "/process/capabilities",
                "/root/path",
            ])
    {
        for value in [json!(7), json!(true), json!([{"a": [1]}])] {
            refused_with(pointer, value, "config");
        }
    }
    for (pointer, value, word) in [
        ("/linux/resources/memory", json!({"limit": 9_223_372_036_854_775_808_u64}), "config.json"),
        ("/linux/resources/memory", json!({"limit": 1e300}), "config.json"),
        ("/linux/resources/memory", json!({"limit": "1G"}), "config.json"),
        ("/linux/resources/cpu", json!({"shares": -1}), "config.json"),
        ("/linux/resources/cpu", json!({"period": -1}), "config.json"),
        ("/linux/resources/pids", json!({"limit": 1e19}), "config.json"),
        ("/linux/resources/blockIO", json!({"weight": 65536}), "config.json"),
        ("/linux/resources/devices", json!([{"allow": true, "type": "c", "major": -2, "access": "r"}]), "devices"),
        ("/linux/resources/devices", json!([{"allow": true, "major": 4_294_967_296_i64, "access": "r"}]), "devices"),
        ("/process/oomScoreAdj", json!(2_147_483_648_i64), "config.json"),
        ("/process/oomScoreAdj", json!(1001), "oom_score_adj"),
        ("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": -1, "hard": 1}]), "config.json"),
        ("/process/rlimits", json!([{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}]), "RLIMIT_NONE"),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 18_446_744_073_709_551_615_u64, "hard": 1}]),
            "rlimit",
        ),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": -1}), "ioPriority"),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 8192}), "ioPriority"),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "c", "major": 4_294_967_297_i64, "minor": 3}]), "/dev/x"),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": -3}]), "/dev/x"),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "q", "major": 1, "minor": 3}]), "config.json"),
        ("/hooks", json!({"poststop": [{"path": "/bin/true", "timeout": -1}]}), "timeout"),
        ("/hooks", json!({"poststop": [{"path": "/bin/true", "timeout": 0}]}), "timeout"),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096}]}),
            "errnoRet",
        ),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_MAYBE"}), "SCMP_ACT_MAYBE"),
    ] {
        refused_with(pointer, value, word);
    }
}

#[test]
fn keys_that_are_there_twice() {
    if !can_run() {
        return;
    }
    let whole = Container::new("echo started").spec.to_string();
    for (key, first) in [
        ("\"root\":{", "\"root\":{\"path\":\"/\"},"),
        ("\"user\":{", "\"user\":{\"uid\":1,\"gid\":1},"),
        ("\"hostname\":", "\"hostname\":\"other\","),
    ] {
        let twice = whole.replacen(key, &format!("{first}{key}"), 1);
        assert_ne!(twice, whole);
        refused(twice.as_bytes(), "duplicate field");
    }
}

/// What a later version of the specification may bring is passed over, as the specification says.
#[test]
fn unknown_fields_are_accepted() {
    if !can_run() {
        return;
    }
    let container = Container::new("echo started")
        .set("/fromTheFuture", json!({"a": [1, {"b": null}]}))
        .set("/process/fromTheFuture", json!(-1))
        .set("/linux/fromTheFuture", json!("x"));
    assert_eq!(container.run().ok(), "started\n");
}

/// The most memory that one of this process's children had, in KiB.
fn peak() -> i64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN);
    usage.expect("getrusage").max_rss()
}

/// A document without end, into the standard input of a command.
fn feed_for_ever(container: &Container, args: &[&str]) -> Ran {
    use std::process::Stdio;
    let mut command = container.command(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("run the runtime");
    let mut input = child.stdin.take().expect("stdin");
    let part = [b'a'; 1 << 14];
    let mut written = input.write_all(b"{\"a\":\"");
    while written.is_ok() {
        written = input.write_all(&part);
    }
    Ran::from(child.wait_with_output().expect("wait"))
}

/// What is this big is not even read whole.
#[test]
fn huge_documents_are_refused_in_little_memory() {
    if !can_run() {
        return;
    }
    const MOST: i64 = 48 << 10;
    let container = Container::new("exec sleep 1000");
    container.run_detached().ok();
    let path = container.folder.path().join("huge.json");
    let mut file = std::fs::File::create(&path).expect("file");
    file.write_all(b"{\"ociVersion\":\"1.3.0\",\"annotations\":{\"a\":\"").expect("write");
    // A hole: hundreds of MiB that take no room.
    file.set_len(400 << 20).expect("length");

    let other = Container::new("echo started");
    std::fs::hard_link(&path, other.folder.path().join("config.json")).expect("link");
    let bundle = other.folder.path().to_str().expect("path");
    check_refused(&other, &other.call(&["run", "--bundle", bundle, &other.id]), "400 MiB", "MiB");
    for endless in [path.to_str().expect("path"), "/dev/zero", "/dev/urandom"] {
        let ran = container.call(&["exec", "-p", endless, &container.id]);
        assert!(ran.error().contains("MiB"), "{endless}");
    }
    for args in [["update", "-r", "-", &container.id], ["exec", "-p", "/dev/stdin", &container.id]] {
        assert!(feed_for_ever(&container, &args).error().contains("MiB"), "{args:?}");
    }
    assert!(peak() < MOST, "{} KiB", peak());
}

#[test]
fn what_is_no_file_is_no_configuration() {
    if !can_run() {
        return;
    }
    for kind in ["fifo", "zero", "folder"] {
        let container = Container::new("echo started");
        let path = container.folder.path().join("config.json");
        match kind {
            "fifo" => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("fifo"),
            "zero" => std::os::unix::fs::symlink("/dev/zero", &path).expect("link"),
            _ => std::fs::create_dir(&path).expect("folder"),
        }
        let bundle = container.folder.path().to_str().expect("path");
        check_refused(
            &container,
            &container.call(&["run", "--bundle", bundle, &container.id]),
            kind,
            "not a regular file",
        );
    }
}

#[test]
fn deep_nesting() {
    if !can_run() {
        return;
    }
    let whole = Container::new("echo started").spec.to_string();
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let inner = if open == "[" { "" } else { "1" };
        let deep = format!("{}{inner}{}", open.repeat(1_000_000), close.repeat(1_000_000));
        refused(deep.as_bytes(), "config");
        // An unknown field is passed over without going down.
        let container = Container::new("echo started");
        let ran = run_raw(&container, whole.replacen('{', &format!("{{\"unknown\":{deep},"), 1).as_bytes());
        assert_eq!(ran.ok(), "started\n");
        refused(whole.replacen("\"uid\":0", &format!("\"uid\":{deep}"), 1).as_bytes(), "config");
        refused(whole.replacen('{', &format!("{{\"annotations\":{{\"a\":{deep}}},"), 1).as_bytes(), "config");
        let container = Container::new("exec sleep 1000");
        container.run_detached().ok();
        let path = container.folder.path().join("deep.json");
        std::fs::write(&path, &deep).expect("file");
        let path = path.to_str().expect("path");
        assert!(container.call(&["update", "-r", path, &container.id]).error().contains("recursion"));
        assert!(!container.call(&["exec", "-p", path, &container.id]).error().is_empty());
    }
}

#[test]
fn hostile_updates_and_processes() {
    if !can_run() {
        return;
    }
    let container = Container::new("exec sleep 1000");
    container.run_detached().ok();
    let path = container.folder.path().join("input.json");
    let file = path.to_str().expect("path").to_owned();
    for text in [
        "",
        "{",
        "[]",
        "7",
        "{\"pids\":{\"limit\":\"x\"}}",
        "{\"pids\":{\"limit\":1e30}}",
        "{\"cpu\":{\"shares\":-1}}",
        "{\"memory\":{\"limit\":99999999999999999999}}",
        "{\"cpu\":{\"cpus\":\"0-99999999\"}}",
        "{\"cpu\":{\"cpus\":\"\\u0000\"}}",
    ] {
        std::fs::write(&path, text).expect("file");
        let ran = container.call(&["update", "-r", &file, &container.id]);
        assert_eq!((ran.code, ran.stderr.trim_end().lines().count()), (Some(1), 1), "{text}: {ran:?}");
        let ran = container.call(&["exec", "-p", &file, &container.id]);
        assert_eq!((ran.code, ran.stderr.trim_end().lines().count()), (Some(255), 1), "{text}: {ran:?}");
    }
    assert_eq!(container.exec("echo alive").ok(), "alive\n");
}
