//! Users that are not who they seem (CVE-2026-30892, CVE-2024-40635), and groups (CVE-2023-25173).

use serde_json::{Value, json};

use crate::common::{Container, can_run};

const WHO: &str = "id -u; id -g";

#[track_caller]
fn refused(user: &Value) {
    let container = Container::new(WHO).set("/process/user", user.clone());
    let ran = container.run();
    assert!(ran.stdout.is_empty(), "{user} ran as {}", ran.stdout);
    assert!(ran.code != Some(0) && !ran.stderr.trim().is_empty(), "{user}");
    assert_eq!(container.left_behind(), Vec::<String>::new(), "{user}");
}

#[test]
fn ids_of_a_configuration_are_exact_or_refused() {
    if !can_run() {
        return;
    }
    for odd in [
        json!(4_294_967_295_u32),
        json!(4_294_967_296_u64),
        json!(-1),
        json!(1.5),
        json!(1e20),
        json!("1000"),
        json!("0x0"),
        json!("1000x"),
        json!(" 0"),
        json!(""),
        json!([0]),
        json!(true),
    ] {
        refused(&json!({"uid": odd, "gid": 1000}));
        refused(&json!({"uid": 1000, "gid": odd}));
        refused(&json!({"uid": 1000, "gid": 1000, "additionalGids": [odd]}));
    }
    for id in [1, 65_534, 65_536, 2_147_483_647, 2_147_483_648_u32, 4_294_967_294] {
        let container = Container::new(WHO).set("/process/user", json!({"uid": id, "gid": id}));
        assert_eq!(container.run().ok(), format!("{id}\n{id}\n"));
    }
}

#[test]
fn ids_of_exec_are_exact_or_refused() {
    if !can_run() {
        return;
    }
    let container = Container::new("exec sleep 1000");
    container.run_detached().ok();
    for odd in [
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "-1",
        "+1",
        "0x0",
        "1000x",
        " 0",
        "0 ",
        "00x",
        "1e3",
        "1.0",
        "root",
        ":",
        "1000:",
        ":1000",
        "1000:4294967296",
        "1000:4294967295",
        "1000:-1",
        "1000:1000:1000",
        "٣",
    ] {
        let user = format!("--user={odd}");
        let ran = container.call(&["exec", &user, &container.id, "sh", "-c", WHO]);
        assert!(ran.stdout.is_empty(), "{odd:?} ran as {}", ran.stdout);
        assert!(ran.error().contains("user"), "{odd:?}");
    }
    for group in ["4294967295", "4294967296", "-1", "x"] {
        let group = format!("--additional-gids={group}");
        let ran = container.call(&["exec", &group, &container.id, "sh", "-c", WHO]);
        assert!(ran.stdout.is_empty() && !ran.error().is_empty(), "{group}");
    }
    for (text, uid, gid) in [("2147483648", "2147483648", "0"), ("1000:7", "1000", "7"), ("007", "7", "0")] {
        let ran = container.call(&["exec", "--user", text, &container.id, "sh", "-c", WHO]);
        assert_eq!(ran.ok(), format!("{uid}\n{gid}\n"), "{text}");
    }
    let process = container.folder.path().join("process.json");
    let mut wanted = container.spec["process"].clone();
    wanted["args"] = json!(["sh", "-c", WHO]);
    for odd in [json!(4_294_967_295_u32), json!(-1), json!("0")] {
        wanted["user"] = json!({"uid": odd, "gid": 0});
        std::fs::write(&process, wanted.to_string()).expect("file");
        let ran = container.call(&["exec", "-p", process.to_str().expect("path"), &container.id]);
        assert!(ran.stdout.is_empty() && !ran.error().is_empty(), "{odd}");
    }
}

#[test]
fn supplementary_groups_are_those_that_were_given() {
    if !can_run() {
        return;
    }
    // The caller's own, as a daemon's or a login's.
    let groups: Vec<nix::unistd::Gid> = [4, 24, 27].map(nix::unistd::Gid::from_raw).to_vec();
    nix::unistd::setgroups(&groups).expect("setgroups");
    let look = "grep ^Groups: /proc/self/status";
    let line = |groups: &str| format!("Groups:\t{groups}{}\n", if groups.is_empty() { "" } else { " " });
    let trimmed = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for user in [json!({"uid": 0, "gid": 0}), json!({"uid": 1000, "gid": 1000})] {
        let container = Container::new(look).set("/process/user", user.clone());
        assert_eq!(trimmed(container.run().ok()), trimmed(line("")), "{user}");
    }
    let user = json!({"uid": 1000, "gid": 50, "additionalGids": [60, 70, 2_147_483_648_u32]});
    assert_eq!(trimmed(Container::new(look).set("/process/user", user.clone()).run().ok()), "Groups: 60 70 2147483648");
    let container = Container::new("exec sleep 1000").set("/process/user", user);
    container.run_detached().ok();
    let exec =
        |flags: &[&str]| trimmed(container.call(&[&["exec"], flags, &[&container.id, "sh", "-c", look]].concat()).ok());
    assert_eq!(exec(&[]), "Groups: 60 70 2147483648");
    assert_eq!(exec(&["--additional-gids", "80", "-g", "90"]), "Groups: 60 70 80 90 2147483648");
    let process = container.folder.path().join("process.json");
    let mut wanted = container.spec["process"].clone();
    wanted["args"] = json!(["sh", "-c", look]);
    wanted["user"] = json!({"uid": 0, "gid": 0});
    std::fs::write(&process, wanted.to_string()).expect("file");
    assert_eq!(exec(&["-p", process.to_str().expect("path")]), "Groups:");
}
