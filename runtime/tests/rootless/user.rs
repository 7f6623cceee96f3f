//! An ordinary user of a test: a number that nobody else has, with a line in an /etc/passwd that only the runtime
//! of the test sees, and a folder of its own.

use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::common::{self, Container, Ran, by_systemd};

pub(crate) const ID: u32 = 61_234;
pub(crate) const NAME: &str = "orlop-test";
/// The first of the 65536 ids that the user has beside its own.
pub(crate) const RANGE: u32 = 3_000_000;

/// Runs its arguments as the user, in a mount namespace where the user is known and the program is at hand.
const AS_USER: &str = r#"
set -e
for file in passwd group subuid subgid; do mount --bind "$FOLDER/etc/$file" /etc/$file; done
mount --bind "$PROGRAM" "$FOLDER/orlop-runtime"
if [ -n "$UNIFIED" ]; then umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; fi
if [ -n "$CGROUP" ]; then echo $$ > "$CGROUP/cgroup.procs"; fi
exec setpriv --reuid="$ID" --regid="$ID" --clear-groups --inh-caps=-all \
    /usr/bin/env -i PATH="$TOOLS" HOME="$FOLDER" USER="$NAME" XDG_RUNTIME_DIR="$FOLDER/run" "$@"
"#;

pub(crate) struct User {
    pub(crate) container: Container,
    program: PathBuf,
    /// Where newuidmap is looked for.
    pub(crate) tools: String,
    /// The version 2 group that the runtime is called from.
    pub(crate) cgroup: Option<PathBuf>,
    /// Whether the user finds version 2 only at /sys/fs/cgroup, whatever the host has there.
    pub(crate) unified: bool,
    /// Whether the user's systemd is asked for cgroups.
    pub(crate) systemd: bool,
}

/// Whether cgroups come from the user's own systemd: in tests of that driver, where the host knows the user. It is then
/// started as a login would do it.
pub(crate) fn has_manager() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    by_systemd()
        && *FOUND.get_or_init(|| {
            let known = std::fs::read_to_string("/etc/passwd").is_ok_and(|text| text.contains(&format!(":{ID}:{ID}:")));
            if !known {
                println!(
                    "SKIP: the user {ID} has no systemd, since /etc/passwd does not know it; without systemd then"
                );
                return false;
            }
            let unit = format!("user@{ID}.service");
            let started = Command::new("systemctl").args(["start", &unit]).output().expect("systemctl");
            assert!(started.status.success(), "{unit}: {}", String::from_utf8_lossy(&started.stderr));
            // As a shell of the user would be: below the group that is delegated.
            let callers = manager_group().join(CALLERS);
            std::fs::create_dir_all(&callers).expect("make cgroup");
            give(&callers.join("cgroup.procs"), ID);
            true
        })
}

const CALLERS: &str = "orlop-callers";

/// The group that the user's systemd has.
pub(crate) fn manager_group() -> PathBuf {
    let mount = common::unified().expect("cgroup v2");
    mount.join(format!("user.slice/user-{ID}.slice/user@{ID}.service"))
}

/// Whether these tests can be run here; says why not.
pub(crate) fn can_run() -> bool {
    if !common::can_run() {
        return false;
    }
    let probe = ["--mount", "--user", "--map-root-user", "true"];
    let allowed = Command::new("setpriv")
        .args(["--reuid=61234", "--regid=61234", "--clear-groups", "unshare"])
        .args(probe)
        .output()
        .is_ok_and(|output| output.status.success());
    if !allowed {
        println!("SKIP: an ordinary user may make no user namespace here, or setpriv and unshare are missing");
    }
    allowed
}

impl User {
    /// A container of a user with a mapping of the own id only, with all namespaces of its own.
    pub(crate) fn new(script: &str) -> User {
        let mut container = Container::new(script);
        own(&mut container.spec);
        let folder = container.folder.path();
        std::fs::create_dir(folder.join("etc")).expect("etc");
        let line = |name: &str, ids: &str| format!("root:x:0:0::/root:/bin/sh\n{name}:x:{ids}::/:/bin/sh\n");
        write(&folder.join("etc/passwd"), &line(NAME, &format!("{ID}:{ID}")));
        write(&folder.join("etc/group"), &format!("root:x:0:\n{NAME}:x:{ID}:\n"));
        for file in ["etc/subuid", "etc/subgid"] {
            write(&folder.join(file), "");
        }
        write(&folder.join("orlop-runtime"), "");
        let run = folder.join("run");
        std::fs::create_dir(&run).expect("run");
        std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o700)).expect("chmod");
        let systemd = has_manager();
        if systemd {
            std::os::unix::fs::symlink(format!("/run/user/{ID}/systemd"), run.join("systemd")).expect("link");
        }
        give(folder, ID);
        give(&folder.join("etc"), 0);
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let tools = std::env::var("PATH").expect("PATH");
        let cgroup = systemd.then(|| manager_group().join(CALLERS));
        let program = env!("CARGO_BIN_EXE_orlop-runtime").into();
        User { container, program, tools, cgroup, unified: false, systemd }
    }

    /// The same with the user's range mapped too, by newuidmap and newgidmap.
    pub(crate) fn with_range(script: &str) -> User {
        let mut user = User::new(script);
        let ids = json!([
            {"containerID": 0, "hostID": ID, "size": 1}, {"containerID": 1, "hostID": RANGE, "size": 65536}
        ]);
        user.container.spec["linux"]["uidMappings"] = ids.clone();
        user.container.spec["linux"]["gidMappings"] = ids;
        user.grant("subuid", &format!("{NAME}:{RANGE}:65536\n"));
        user.grant("subgid", &format!("{NAME}:{RANGE}:65536\n"));
        user
    }

    pub(crate) fn grant(&self, file: &str, text: &str) {
        write(&self.folder().join("etc").join(file), text);
    }

    pub(crate) fn folder(&self) -> &Path {
        self.container.folder.path()
    }

    pub(crate) fn set(mut self, pointer: &str, value: Value) -> User {
        let (parent, name) = pointer.rsplit_once('/').expect("pointer");
        self.container.spec.pointer_mut(parent).expect("pointer")[name] = value;
        self
    }

    pub(crate) fn add_mount(mut self, mount: Value) -> User {
        self.container.spec["mounts"].as_array_mut().expect("mounts").push(mount);
        self
    }

    /// Without the user's systemd, in whichever group this test is in.
    pub(crate) fn by_cgroupfs(mut self) -> User {
        (self.systemd, self.cgroup) = (false, None);
        self
    }

    /// Takes a copy of the program that the user owns.
    pub(crate) fn own_program(mut self) -> User {
        let copy = self.folder().join("own-program");
        std::fs::copy(&self.program, &copy).expect("copy");
        give(&copy, ID);
        self.program = copy;
        self
    }

    /// The runtime's command, as the user.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let driver = self.systemd.then_some("--systemd-cgroup");
        let all: Vec<&str> = driver.into_iter().chain(args.iter().copied()).collect();
        self.command_of(self.folder().join("orlop-runtime").to_str().expect("path"), &all)
    }

    /// The command of any program, as the user.
    pub(crate) fn command_of(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", AS_USER, "sh"]);
        command.arg(program).args(args);
        let cgroup = self.cgroup.as_deref().unwrap_or(Path::new(""));
        command.env("UNIFIED", if self.unified { "1" } else { "" });
        command.env("FOLDER", self.folder()).env("PROGRAM", &self.program).env("CGROUP", cgroup);
        command.env("ID", ID.to_string()).env("NAME", NAME).env("TOOLS", &self.tools);
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    pub(crate) fn call(&self, args: &[&str]) -> Ran {
        Ran::from(self.command(args).output().expect("run orlop-runtime"))
    }

    fn bundle(&self) -> &str {
        self.folder().to_str().expect("path")
    }

    pub(crate) fn id(&self) -> &str {
        &self.container.id
    }

    /// Runs the container in the foreground.
    pub(crate) fn run(&self) -> Ran {
        self.container.write_config();
        self.call(&["run", "--bundle", self.bundle(), self.id()])
    }

    /// The command to create the container, for more than [`User::create`] gives it.
    pub(crate) fn create_command(&self, more: &[&str]) -> Command {
        self.container.write_config();
        let args = [&["create", "--bundle", self.bundle()], more, &[self.id()]].concat();
        self.command(&args)
    }

    /// Creates the container; its output goes to the file `output` of the folder.
    pub(crate) fn create(&self) -> Ran {
        let file = |name: &str| std::fs::File::create(self.folder().join(name)).expect(name);
        let status = self.create_command(&[]).stdout(file("output")).stderr(file("errors")).status();
        let stderr = std::fs::read_to_string(self.folder().join("errors")).expect("errors");
        Ran { code: status.expect("run orlop-runtime").code(), stdout: String::new(), stderr }
    }

    pub(crate) fn run_detached(&self) {
        self.create().ok();
        self.call(&["start", self.id()]).ok();
    }

    pub(crate) fn exec(&self, script: &str) -> Ran {
        self.call(&["exec", self.id(), "sh", "-c", script])
    }

    pub(crate) fn output(&self) -> String {
        self.container.output()
    }

    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.call(&["state", self.id()]).ok()).expect("state")
    }

    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().expect("status").to_owned()
    }

    /// Where the runtime records the container.
    pub(crate) fn record(&self) -> PathBuf {
        self.folder().join("run/orlop/runtime").join(self.id())
    }

    /// What of the container is still there.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let mut left = self.container.left_behind();
        if self.record().exists() {
            left.push(self.record().display().to_string());
        }
        if self.systemd {
            let scope = manager_group().join(format!("user.slice/orlop-{}.scope", self.id()));
            let _ = common::eventually(|| !scope.exists());
            left.extend(scope.exists().then(|| format!("cgroup {}", scope.display())));
        }
        left
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let deleted = self.call(&["delete", "--force", self.id()]);
        if !std::thread::panicking() {
            assert_eq!(deleted.code, Some(0), "{}", deleted.stderr);
            assert_eq!(self.left_behind(), Vec::<String>::new());
        }
    }
}

/// Gives a configuration a user namespace with the own id only.
pub(crate) fn own(spec: &mut Value) {
    spec["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
    let ids = json!([{"containerID": 0, "hostID": ID, "size": 1}]);
    spec["linux"]["uidMappings"] = ids.clone();
    spec["linux"]["gidMappings"] = ids;
    if let Some(linux) = spec["linux"].as_object_mut() {
        linux.remove("cgroupsPath");
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("write");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// Gives a file or folder, and all in it, to a user.
pub(crate) fn give(path: &Path, id: u32) {
    lchown(path, Some(id), Some(id)).expect("chown");
    if path.symlink_metadata().expect("metadata").is_dir() {
        for entry in std::fs::read_dir(path).expect("folder").flatten() {
            give(&entry.path(), id);
        }
    }
}
