//! The command line beside runc's: the same invocations on real containers have the same outcome, verb by verb and
//! flag by flag.

mod common;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use common::{Container, Ran, by_systemd, can_run, is_unified, wait_until};
use serde_json::{Value, json};

/// The two runtimes, each with its own bundle and state folder.
struct Side {
    name: &'static str,
    program: PathBuf,
    container: Container,
}

/// Both runtimes, with a container each of the same program and name.
fn sides(script: &str) -> Option<[Side; 2]> {
    if !can_run() {
        return None;
    }
    let Ok(found) = Command::new("runc").arg("--version").output() else {
        println!("SKIP: runc is not installed");
        return None;
    };
    assert!(found.status.success(), "{found:?}");
    // One name for both: it is in the output.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let id = format!("parity-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let side = |name: &'static str, program: &str| {
        let mut container = Container::new(script);
        container.id.clone_from(&id);
        let path =
            if by_systemd() { format!("orlop-test.slice:{name}:{id}") } else { format!("/orlop-{id}-{name}/{id}") };
        let container = container.set("/linux/cgroupsPath", json!(path));
        container.write_config();
        Side { name, program: program.into(), container }
    };
    Some([side("runc", "runc"), side("ours", env!("CARGO_BIN_EXE_orlop-runtime"))])
}

impl Side {
    /// A line of arguments; ID is the container's name, and HERE its folder.
    fn command(&self, line: &str) -> Command {
        let here = self.container.folder.path();
        let word = |word: &str| match word {
            "ID" => self.container.id.clone(),
            "''" => String::new(),
            word => word.replace("HERE", here.to_str().expect("path")).replace('~', " "),
        };
        let mut command = Command::new(&self.program);
        command
            .args(by_systemd().then_some("--systemd-cgroup"))
            .arg("--root")
            .arg(self.container.root())
            .args(line.split(' ').filter(|word| !word.is_empty()).map(word));
        command.current_dir(here).stdin(Stdio::null());
        command
    }

    /// Runs to the end. Output goes to files, which a container that stays may hold open.
    fn call(&self, line: &str) -> Ran {
        self.finish(&mut self.command(line))
    }

    fn finish(&self, command: &mut Command) -> Ran {
        let (out, err) = (self.container.folder.path().join("out"), self.container.folder.path().join("err"));
        let file = |path: &Path| std::fs::File::create(path).expect("file");
        let status = command.stdout(file(&out)).stderr(file(&err)).status().expect("run");
        let text = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).expect("file")).into_owned();
        Ran { code: status.code(), stdout: text(&out), stderr: text(&err) }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if self.name == "runc" {
            // The container's own drop asks our runtime, which cannot read runc's state.
            self.call("delete -f ID");
        }
        if self.name == "runc" {
            let _ = std::fs::remove_dir_all(self.container.root());
            // What is above the container's groups runc leaves.
            for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
                let parent = format!("orlop-{}-runc", self.container.id);
                let _ = std::fs::remove_dir(hierarchy.path().join(&parent));
                let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(parent));
            }
        }
    }
}

/// What is the same to a caller: the exit code, the output where it is an interface, and what kind of error it is.
fn outcome(ran: &Ran, with_output: bool) -> (Option<i32>, String, Option<&'static str>) {
    const CLASSES: [(&str, &[&str]); 13] = [
        ("signal", &["unknown signal", "invalid argument"]),
        ("format", &["format option", "log-format", "possible values"]),
        ("usage", &["argument(s)", "not provided", "unexpected argument", "not defined"]),
        ("verb", &["help topic", "unrecognized subcommand"]),
        ("value", &["invalid value"]),
        ("no such container", &["does not exist"]),
        ("exists", &["already exists"]),
        ("executable", &["executable file not found in $PATH", "is a directory", "permission denied"]),
        ("missing file", &["no such file", "No such file", "config.json not found"]),
        ("state", &["running", "paused", "created", "stopped"]),
        ("name", &["invalid container ID", "id cannot be empty", "is not valid"]),
        ("cgroup", &["cgroup", "unknown controller"]),
        ("console", &["console", "terminal"]),
    ];
    let failed = ran.code != Some(0);
    let class = CLASSES.iter().find(|(_, texts)| texts.iter().any(|text| ran.stderr.contains(text)));
    let stdout = if with_output && !failed { ran.stdout.trim_end().to_owned() } else { String::new() };
    (ran.code, stdout, class.map(|(name, _)| *name).filter(|_| failed))
}

/// Calls both with each line, and compares. A line that begins with `!` is compared with its output.
#[track_caller]
fn compare(sides: &[Side; 2], lines: &[&str]) {
    let mut different = Vec::new();
    for line in lines {
        let (line, with_output) = line.strip_prefix('!').map_or((*line, false), |line| (line, true));
        let [theirs, ours] = sides.each_ref().map(|side| side.call(line));
        if outcome(&theirs, with_output) != outcome(&ours, with_output) {
            different.push(format!("{line}\n  runc: {theirs:?}\n  ours: {ours:?}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn a_container_that_is_not_there_and_names_that_cannot_be() {
    let Some(sides) = sides("true") else { return };
    let verbs = ["state", "start", "kill", "kill -a", "delete", "ps", "pause", "resume", "events", "events --stats"];
    let lines = verbs.map(|verb| format!("{verb} ID"));
    compare(&sides, &lines.each_ref().map(String::as_str));
    compare(&sides, &["exec ID true", "update --pids-limit 5 ID", "delete -f ID", "delete --force ID", "kill ID KILL"]);
    for name in ["''", "a/b", "..", ".", "a~b", "ä", "a:b", "a@b", "a=b"] {
        for verb in ["create", "run", "state", "delete -f"] {
            compare(&sides, &[&format!("{verb} {name}")]);
        }
    }
}

#[test]
fn arguments_that_cannot_be() {
    let Some(sides) = sides("true") else { return };
    for verb in "create run state start kill delete exec ps pause resume update events".split(' ') {
        compare(&sides, &[verb, &format!("{verb} --nosuch ID")]);
    }
    compare(&sides, &["state a b", "start a b", "delete a b", "kill a TERM c", "list x", "spec x", "create a b"]);
    compare(&sides, &["nosuch", "--nosuch", "list -f yaml", "--log-format foo list", "--log /no/such/file list"]);
    for side in &sides {
        // Also what is wrong with the arguments is in the log, where containerd looks.
        assert_eq!(side.call("--log HERE/log --log-format json create").code, Some(1), "{}", side.name);
        let log = std::fs::read_to_string(side.container.folder.path().join("log")).expect("log");
        let record: Value = serde_json::from_str(log.lines().last().expect("line")).expect("JSON");
        assert_eq!(record["level"], "error", "{log}");
        assert!(side.call("").stdout.contains("create"), "help without a verb");
        for version in ["-v", "--version"] {
            let text = side.call(version).ok();
            assert!(text.lines().next().is_some_and(|line| line.contains(" version ")), "{text}");
            assert!(text.lines().any(|line| line.starts_with("spec: 1.")), "{text}");
        }
    }
}

/// What is paused or goes on already is not an error here, as it is to runc: whoever was cut off can do it again.
#[test]
fn from_create_to_delete() {
    let Some(sides) = sides("trap : USR1; while :; do sleep 1; done") else { return };
    compare(&sides, &["create --pid-file HERE/pid ID", "create ID", "run ID", "delete --nosuch ID"]);
    for side in &sides {
        let pid: i32 = std::fs::read_to_string(side.container.folder.path().join("pid")).unwrap().parse().unwrap();
        let state: Value = serde_json::from_str(&side.call("state ID").ok()).unwrap();
        assert_eq!((state["pid"].as_i64(), &state["status"]), (Some(pid.into()), &json!("created")));
        let listed: Value = serde_json::from_str(&side.call("list -f json").ok()).unwrap();
        assert_eq!((&listed[0]["pid"], listed[0].as_object().unwrap().len()), (&state["pid"], 8), "{listed}");
        assert_eq!(side.call("ps -f json ID").ok().trim(), format!("[{pid}]"));
        assert_eq!(side.call("list -q").ok(), format!("{}\n", side.container.id));
    }
    compare(&sides, &["pause ID", "start ID", "exec ID true", "resume ID", "start ID", "start ID"]);
    compare(&sides, &["delete ID", "create ID", "!list -q", "list -f table", "list -f=json -q"]);
    compare(
        &sides,
        &["ps ID", "ps ID -e -o pid,cmd", "ps ID aux", "ps ID -e -o cmd", "ps ID --nosuch", "ps -f xml ID"],
    );
    for signal in ["0", "SIGNOPE", "-1", "65", "0x9", "USR1", "sigusr1", "10", "+10", "WINCH", "SIGCONT", "''"] {
        compare(&sides, &[&format!("kill ID {signal}")]);
    }
    compare(&sides, &["pause ID", "kill ID 0", "delete ID", "start ID", "ps -f table ID", "resume ID"]);
    compare(&sides, &["kill -a ID 0", "kill --all=true ID CONT", "kill ID KILL"]);
    for side in &sides {
        wait_until("end", || side.call("state ID").ok().contains("stopped"));
    }
    compare(&sides, &["start ID", "kill ID", "kill ID KILL", "kill -a ID", "kill -a ID KILL", "exec ID true"]);
    compare(&sides, &["ps ID", "pause ID", "update --pids-limit 5 ID", "events ID", "events --stats ID"]);
    compare(&sides, &["delete ID", "delete ID", "delete -force ID", "!list -q"]);
}

/// Real-time signals by name are more than runc has: a program that waits for one gets that one.
#[test]
fn real_time_signals_by_name() {
    if !can_run() {
        return;
    }
    for (name, number) in [("SIGRTMIN+3", 37), ("RTMAX-1", 63)] {
        let container = Container::new(&format!("trap 'exit 7' {number}; echo ready; while :; do sleep 0.05; done"));
        container.run_detached().ok();
        wait_until("trap", || container.output().contains("ready"));
        container.call(&["kill", &container.id, name]).ok();
        wait_until("end", || container.status() == "stopped");
    }
}

#[test]
fn run_and_its_flags() {
    let Some(sides) = sides("exit 3") else { return };
    compare(
        &sides,
        &[
            "run ID",
            "run --no-pivot ID",
            "run --no-subreaper ID",
            "run --no-new-keyring ID",
            "run --pid-file HERE/p ID",
        ],
    );
    compare(
        &sides,
        &["run --keep ID", "delete ID", "run --keep=false ID", "run --bundle HERE ID", "run -bundle=HERE ID"],
    );
    compare(&sides, &["run -b /no/such ID", "run --pid-file /no/such/p ID", "!list -q", "run --preserve-fds x ID"]);
    compare(
        &sides,
        &["create --pid-file /no/such/p ID", "!list -q", "create --console-socket /no/such ID", "!list -q"],
    );
    compare(&sides, &["run --console-socket HERE/s ID", "run --pid-file= --console-socket '' ID", "run -d ID"]);
}

#[test]
fn a_terminal_without_anybody_to_hold_it() {
    let Some([mut theirs, mut ours]) = sides("true") else { return };
    for side in [&mut theirs, &mut ours] {
        side.container.spec["process"]["terminal"] = json!(true);
        side.container.write_config();
    }
    let sides = [theirs, ours];
    compare(
        &sides,
        &["create ID", "!list -q", "run -d ID", "!list -q", "create --console-socket /no/such ID", "!list -q"],
    );
}

#[test]
fn exec_and_its_flags() {
    let Some(sides) = sides("sleep 1000") else { return };
    compare(
        &sides,
        &["run -d ID", "exec ID true", "exec ID false", "exec ID sh -c exit~7", "exec ID sh -c kill~-9~$$"],
    );
    compare(
        &sides,
        &["!exec --cwd /bin ID pwd", "exec --cwd bin ID pwd", "!exec --cwd '' ID pwd", "exec --cwd /no ID pwd"],
    );
    compare(&sides, &["!exec -e A=1 -e B=x~y ID env", "exec -e A ID env", "exec -e =x ID env", "exec -e '' ID env"]);
    compare(&sides, &["!exec -u 5 ID id -u", "!exec -u 5:6 ID id -g", "exec -u root ID id", "!exec -u '' ID id -u"]);
    compare(&sides, &["exec -u 5: ID id", "!exec -g 7 -g 8 ID id -G", "exec -g x ID id", "!exec --user=5 ID id"]);
    compare(&sides, &["exec -c CAP_NET_RAW ID true", "!exec --no-new-privs ID grep NoNewPrivs /proc/self/status"]);
    compare(&sides, &["exec ID", "exec ID nosuch", "exec ID /etc", "exec -p /no/such ID", "exec ID sh -c exit~3 -t"]);
    compare(&sides, &["exec -d ID true", "exec --pid-file /no/such/p ID true", "exec -d --pid-file HERE/e ID true"]);
    compare(&sides, &["exec -d -t ID true", "exec --console-socket /no/such -t ID true"]);
    compare(&sides, &["exec --console-socket /no/such -d -t ID true", "exec --console-socket /no/such -d ID true"]);
    compare(&sides, &["exec --cgroup / ID true", "exec --cgroup ../.. ID true", "exec --cgroup nosuch ID true"]);
    compare(
        &sides,
        &["exec --cgroup '' ID true", "exec --cgroup a --cgroup b ID true", "exec --cgroup memory:a:b ID true"],
    );
    compare(&sides, &["exec --cgroup nope:/ ID true", "exec --ignore-paused ID true", "exec --preserve-fds=0 ID true"]);
    let process =
        json!({"cwd": "/", "args": ["sh", "-c", "exit 5"], "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
    for side in &sides {
        std::fs::write(side.container.folder.path().join("process.json"), process.to_string()).unwrap();
    }
    compare(
        &sides,
        &["exec -p HERE/process.json ID", "exec --process=HERE/process.json ID false", "exec -p HERE/pid ID"],
    );
    compare(&sides, &["kill ID KILL"]);
}

/// A group below the container's, of all hierarchies and of one.
#[test]
fn exec_goes_into_the_cgroup_that_is_given() {
    let Some(sides) = sides("sleep 1000") else { return };
    if is_unified() {
        return exec_goes_into_the_cgroup_of_version_2(&sides);
    }
    if !Path::new("/sys/fs/cgroup/memory").is_dir() {
        return println!("SKIP: the memory controller is on version 2, and others are not");
    }
    compare(&sides, &["run -d ID"]);
    for side in &sides {
        let pid = side.call("ps -f json ID").ok();
        let pid = pid.trim().trim_matches(['[', ']']);
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        for line in groups.lines().filter(|line| line.contains(&side.container.id)) {
            let [_, controller, path] = line.split(':').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let controller = controller.split(',').next().unwrap();
            let hierarchy = if controller.is_empty() { "unified" } else { controller.trim_start_matches("name=") };
            let own = PathBuf::from(format!("/sys/fs/cgroup/{hierarchy}{path}"));
            std::fs::create_dir(own.join("sub")).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|_| hierarchy == "cpuset") {
                std::fs::write(own.join("sub").join(file), std::fs::read(own.join(file)).unwrap()).unwrap();
            }
        }
        let in_sub = |flags: &str| {
            let text = side.call(&format!("exec {flags} ID cat /proc/self/cgroup")).ok();
            let of =
                |name: &str| text.lines().any(|line| line.split(':').nth(1) == Some(name) && line.ends_with("/sub"));
            (of("memory"), of("pids"), of("freezer"))
        };
        assert_eq!(in_sub("--cgroup sub"), (true, true, true), "{}", side.name);
        assert_eq!(in_sub("--cgroup /sub/../sub"), (true, true, true), "{}", side.name);
        assert_eq!(in_sub("--cgroup memory,pids:sub"), (true, true, false), "{}", side.name);
        assert_eq!(in_sub("--cgroup memory:/sub --cgroup pids:/"), (true, false, false), "{}", side.name);
        assert_eq!(in_sub("--cgroup /"), (false, false, false), "{}", side.name);
    }
    compare(&sides, &["kill ID KILL"]);
}

fn exec_goes_into_the_cgroup_of_version_2(sides: &[Side; 2]) {
    compare(sides, &["run -d ID"]);
    for side in sides {
        let pid = side.call("ps -f json ID").ok();
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.trim().trim_matches(['[', ']']))).unwrap();
        let own = Path::new("/sys/fs/cgroup").join(groups.trim().trim_start_matches("0::/"));
        std::fs::create_dir_all(own.join("sub/deep")).unwrap();
    }
    compare(
        sides,
        &[
            "!exec --cgroup sub ID cat /proc/self/cgroup",
            "!exec --cgroup /sub/../sub ID cat /proc/self/cgroup",
            "!exec --cgroup sub/deep ID cat /proc/self/cgroup",
            "!exec --cgroup / ID cat /proc/self/cgroup",
            "!exec ID cat /proc/self/cgroup",
            "exec --cgroup nosuch ID true",
            "exec --cgroup memory:sub ID true",
            "exec --cgroup sub --cgroup sub ID true",
        ],
    );
    compare(sides, &["kill ID KILL"]);
}

#[test]
fn exec_into_a_paused_container_runs_when_that_is_resumed() {
    let Some(sides) = sides("sleep 1000") else { return };
    compare(&sides, &["run -d ID", "pause ID", "exec ID true"]);
    for side in &sides {
        let before = side.call("ps -f json ID").ok();
        let mut waits = side.command("exec --ignore-paused ID sh -c exit~9").spawn().unwrap();
        wait_until("a second process", || side.call("ps -f json ID").ok() != before);
        assert!(waits.try_wait().unwrap().is_none(), "{}: it is frozen", side.name);
        side.call("resume ID").ok();
        assert_eq!(waits.wait().unwrap().code(), Some(9), "{}", side.name);
    }
    compare(&sides, &["kill ID KILL"]);
}

#[test]
fn socket_activation_and_preserved_descriptors() {
    let script = "for i in 3 4 5; do test -e /proc/self/fd/$i && echo $i; done; echo $LISTEN_FDS $LISTEN_PID";
    let Some(sides) = sides(script) else { return };
    let run = |side: &Side, fds: &str, environment: &str, flags: &str| {
        let given = side.command(&format!("run {flags} ID"));
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec {fds}; {environment} exec \"$0\" \"$@\"")]).arg(given.get_program());
        shell.args(given.get_args()).current_dir(side.container.folder.path()).stdin(Stdio::null());
        side.finish(&mut shell).ok()
    };
    let (both, one) = ("3</dev/null 4</dev/null", "3</dev/null");
    for (fds, environment, flags) in [
        (both, "", "--preserve-fds 2"),
        (both, "", "--preserve-fds 1"),
        (both, "LISTEN_FDS=2 LISTEN_PID=$$", "--preserve-fds 0"),
        (both, "LISTEN_FDS=1 LISTEN_PID=$$", "--preserve-fds 1"),
        (one, "LISTEN_FDS=1 LISTEN_PID=1", "--keep=false"),
        (one, "LISTEN_FDS=junk LISTEN_PID=$$", "--keep=false"),
    ] {
        let [theirs, ours] = sides.each_ref().map(|side| run(side, fds, environment, flags));
        assert_eq!(theirs, ours, "{fds} {environment} {flags}");
    }
}

/// As runc 1.2 has it, which is not that of every host: its text is what runc's own test program expects.
#[test]
fn a_pidfd_goes_to_the_socket_that_is_given() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000");
    container.write_config();
    let path = container.folder.path().join("pidfd.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let socket = path.to_str().unwrap();
    let bundle = container.folder.path().to_str().unwrap();
    let pid_of = |text: &str| {
        use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
        let (stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 64];
        let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
        let mut space = nix::cmsg_space!([i32; 1]);
        let flags = nix::sys::socket::MsgFlags::MSG_CMSG_CLOEXEC;
        let message = nix::sys::socket::recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags).unwrap();
        let fds = message.cmsgs().unwrap().find_map(|control| match control {
            nix::sys::socket::ControlMessageOwned::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let length = message.bytes;
        #[allow(unsafe_code)]
        // SAFETY: the kernel just made this descriptor for us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fds.unwrap()[0]) };
        assert_eq!(&bytes[..length], text.as_bytes());
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
        info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim().parse::<i64>().unwrap()
    };
    let errors = std::fs::File::create(container.folder.path().join("errors")).unwrap();
    let mut create = container.command(&["create", "-b", bundle, "--pidfd-socket", socket, &container.id]);
    let made = create.stdout(Stdio::null()).stderr(errors).status().unwrap();
    assert!(made.success(), "{}", std::fs::read_to_string(container.folder.path().join("errors")).unwrap());
    assert_eq!(Some(pid_of("standard")), container.state()["pid"].as_i64());
    container.start().ok();
    let pid_file = container.folder.path().join("pid");
    let all = ["exec", "-d", "--pidfd-socket", socket, "--pid-file", pid_file.to_str().unwrap(), &container.id];
    let mut exec = container.command(&all);
    exec.args(["sleep", "1000"]).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(exec.status().unwrap().success());
    assert_eq!(pid_of("setns").to_string(), std::fs::read_to_string(pid_file).unwrap());
    // One that is not there is an error, and no container is left.
    let other = Container::new("true");
    other.write_config();
    let bundle = other.folder.path().to_str().unwrap();
    let error = other.call(&["run", "-b", bundle, "--pidfd-socket", "/no/such", &other.id]).error();
    assert!(error.contains("connect to pidfd socket /no/such"), "{error}");
    assert_eq!(other.left_behind(), Vec::<String>::new());
}

/// A process whose parent ended, in a container in the host's process namespace.
#[test]
fn the_parent_of_orphans() {
    let script =
        "(sleep 1000 & echo $! >orphan); echo $$ >me; cat /proc/$(cat orphan)/status >status; kill $(cat orphan)";
    let Some(mut sides) = sides(script) else { return };
    for side in &mut sides {
        let namespaces = side.container.spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
        let proc = json!({"destination": "/proc", "type": "none", "source": "/proc", "options": ["rbind"]});
        side.container.spec["mounts"][0] = proc;
        side.container.write_config();
    }
    let parent = |side: &Side, flag: &str| {
        let mut run = side.command(&format!("run {flag} ID"));
        let mut child = run.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().unwrap();
        assert!(child.wait().unwrap().success(), "{}", side.name);
        let status = std::fs::read_to_string(side.container.rootfs().join("status")).unwrap();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap();
        parent == child.id().to_string()
    };
    for side in &sides {
        assert!(parent(side, "--keep=false"), "{}", side.name);
        assert!(!parent(side, "--no-subreaper"), "{}", side.name);
    }
}

#[test]
fn a_chroot_in_place_of_pivot_root() {
    let Some(sides) =
        sides("ls / >list; ls /proc/1/root/ | wc -l; test -e /etc/debian_version; echo $?; mount -t proc p /tmp")
    else {
        return;
    };
    compare(&sides, &["!run --no-pivot ID"]);
    let mut shared = Container::new("true").set("/linux/rootfsPropagation", json!("shared"));
    shared.write_config();
    let bundle = shared.folder.path().to_str().unwrap().to_owned();
    let error = shared.call(&["run", "-b", &bundle, "--no-pivot", &shared.id]).error();
    assert!(error.contains("--no-pivot with shared propagation"), "{error}");
    shared.spec["linux"]["rootfsPropagation"] = json!("private");
    shared.write_config();
    shared.call(&["run", "-b", &bundle, "--no-pivot", &shared.id]).ok();
}
