//! The runtime's own program, overwritten through /proc/PID/exe (CVE-2019-5736).

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

use nix::sys::statvfs::{FsFlags, statvfs};
use orlop_runtime::{LinuxSeccomp, SeccompFilter};
use serde_json::json;

use crate::attacks::{armed, can_attack, line, said};
use crate::common::{Container, can_run, program, wait_until};
use crate::harness::{races, with_capabilities};

/// A container with every right over files and processes takes hold of the program of each `exec`, and writes to
/// it when nobody executes it. The program is a copy: if this fails, only that is lost.
#[test]
fn the_program_is_not_written_during_execs() {
    if !can_run() || !can_attack() {
        return;
    }
    let copy = tempfile::tempdir().expect("folder");
    let runtime = copy.path().join("runtime");
    std::fs::copy(program(), &runtime).expect("copy");
    let before = std::fs::read(&runtime).expect("program");

    let all = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN", "CAP_FOWNER", "CAP_CHOWN"];
    let container =
        with_capabilities(armed(Container::new(&line("write-exe"))), &all).set("/linux/maskedPaths", json!([]));
    container.run_detached().ok();
    let held = || said(&container.output()).iter().any(|line| line.starts_with("holds"));
    let exec = || {
        let mut command = std::process::Command::new(&runtime);
        command.arg("--root").arg(container.root()).args(["exec", &container.id, "true"]);
        // "Text file busy" is the attacker's: it has the program open for writing.
        let status = command.status().unwrap_or_else(|error| panic!("execute the runtime: {error}"));
        assert!(status.success());
    };
    let mut execs = 0;
    while execs < races() || (!held() && execs < 2000) {
        exec();
        execs += 1;
    }
    std::fs::write(container.rootfs().join("stop"), "").expect("stop");
    wait_until("the end of the attack", || container.status() == "stopped");
    let report = said(&container.output()).pop().expect("a report");
    assert_eq!(std::fs::read(&runtime).expect("program"), before, "after {execs} execs: {report}");
    assert!(report.ends_with("written 0 read-only true"), "{execs} execs: {report}");
}

/// The name that a process was executed by, as the kernel told it (`AT_EXECFN` of getauxval(3)).
fn executed_as(pid: u32) -> String {
    const AT_EXECFN: u64 = 31;
    let numbers = std::fs::read(format!("/proc/{pid}/auxv")).expect("auxv");
    let mut numbers = numbers.chunks_exact(8).map(|bytes| u64::from_ne_bytes(bytes.try_into().expect("8 bytes")));
    let address = std::iter::from_fn(|| numbers.next().zip(numbers.next())).find(|(key, _)| *key == AT_EXECFN);
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("memory");
    let mut name = vec![0; 4096];
    let read = memory.read_at(&mut name, address.expect("AT_EXECFN").1).expect("its name");
    let end = name[..read].iter().position(|byte| *byte == 0).expect("an end");
    String::from_utf8(name[..end].to_vec()).expect("a name")
}

/// Runs a container in the foreground and looks at the runtime meanwhile.
fn look_at_runtime(container: &Container, prepare: impl FnOnce(&mut std::process::Command), look: impl FnOnce(&Child)) {
    container.write_config();
    let bundle = container.folder.path().to_str().expect("path");
    let mut command = container.command(&["run", "--bundle", bundle, &container.id]);
    prepare(command.env("ORLOP_TEST_MARK", "here"));
    let mut runtime = command.stdout(Stdio::piped()).spawn().expect("run");
    let mut output = BufReader::new(runtime.stdout.take().expect("output"));
    output.read_line(&mut String::new()).expect("a word of the program");
    let exe = format!("/proc/{}/exe", runtime.id());
    assert!(statvfs(exe.as_str()).expect("statvfs").flags().contains(FsFlags::ST_RDONLY), "it can be written to");
    let line = std::fs::read(format!("/proc/{}/cmdline", runtime.id())).expect("cmdline");
    assert!(line.ends_with(format!("run\0--bundle\0{bundle}\0{}\0", container.id).as_bytes()));
    let variables = std::fs::read(format!("/proc/{}/environ", runtime.id())).expect("environ");
    assert!(variables.split(|byte| *byte == 0).any(|variable| variable == b"ORLOP_TEST_MARK=here"));
    look(&runtime);
    container.call(&["kill", &container.id, "KILL"]).ok();
    assert_eq!(runtime.wait().expect("end").code(), Some(128 + 9));
}

/// The runtime's file is exchanged for its read-only mount while it runs, and to whoever looks it is the same process.
#[test]
fn the_program_is_exchanged_without_executing_it_again() {
    if !can_run() || program().as_os_str() != env!("CARGO_BIN_EXE_orlop-runtime") {
        return;
    }
    let container = Container::new("echo up; exec sleep 1000");
    let name = program();
    look_at_runtime(
        &container,
        |_| (),
        |runtime| {
            assert_eq!(executed_as(runtime.id()), name.to_string_lossy());
        },
    );
}

/// On a kernel that does not exchange it (without CONFIG_CHECKPOINT_RESTORE) it is executed again.
#[test]
fn the_program_is_executed_again_where_it_cannot_be_exchanged() {
    const PR_SET_MM: u64 = 35;
    if !can_run() || program().as_os_str() != env!("CARGO_BIN_EXE_orlop-runtime") {
        return;
    }
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{
            "names": ["prctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22,
            "args": [{"index": 0, "value": PR_SET_MM, "op": "SCMP_CMP_EQ"}],
        }],
    });
    let profile: LinuxSeccomp = serde_json::from_value(profile).expect("profile");
    let filter = SeccompFilter::compile(&profile).expect("compile");
    let container = Container::new("echo up; exec sleep 1000");
    let refuse = |command: &mut std::process::Command| {
        // SAFETY: between fork and exec it makes one system call, with memory that is there.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || {
                filter.install().map(drop).map_err(|failure| std::io::Error::from_raw_os_error(failure.errno))
            });
        }
    };
    look_at_runtime(&container, refuse, |runtime| {
        let name = executed_as(runtime.id());
        assert!(name.starts_with("/dev/fd/"), "{name}");
    });
}
