//! Groups of a container that begins at its caller's own.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::common::{Container, can_run, is_unified};

/// Removed with what the caller leaves in it, which has ended by then.
struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.0)
            && !std::thread::panicking()
        {
            panic!("remove {}: {error}", self.0.display());
        }
    }
}

/// The caller may be elsewhere in each hierarchy of version 1, and an update joins one where the caller of create was.
#[test]
fn an_update_joins_where_the_caller_of_create_was() {
    if !can_run() {
        return;
    }
    let cpuset = Path::new("/sys/fs/cgroup/cpuset");
    if is_unified() || !cpuset.join("cpuset.cpus").exists() {
        return println!("SKIP: no cpuset controller of version 1");
    }
    let own = Folder(cpuset.join(format!("orlop-test-places-{}", std::process::id())));
    std::fs::create_dir(&own.0).expect("group");
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let all = std::fs::read_to_string(cpuset.join(file)).expect("read");
        std::fs::write(own.0.join(file), all).expect("write");
    }
    let container = Container::new("exec sleep 1000 >/dev/null 2>&1");
    let container = {
        let id = container.id.clone();
        container.set("/linux/cgroupsPath", json!(format!("places/{id}")))
    };
    container.write_config();
    let bundle = container.folder.path().to_str().expect("path");
    let run = container.command(&["run", "--detach", "--bundle", bundle, &container.id]);
    let mut shell = Command::new("/bin/busybox");
    let script = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;
    shell.args(["sh", "-c", script]).arg(&own.0).arg(run.get_program()).args(run.get_args());
    assert!(shell.stdin(Stdio::null()).stdout(Stdio::null()).status().expect("run").success());
    container.call(&["update", "--cpuset-cpus", "0", "--cpuset-mems", "0", &container.id]).ok();
    let group = container.cgroup("cpuset").expect("a group of its own");
    assert_eq!(group.path(), own.0.join("places").join(&container.id));
    container.call(&["delete", "--force", &container.id]).ok();
    assert!(!own.0.join("places").exists(), "it goes with the container");
}
