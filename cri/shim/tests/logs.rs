//! The CRI log: every line once, in order, whatever happens to the file.

mod common;

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::bundle::{Bundle, pipe, read_log, read_until};
use common::{OWN, Pod};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use orlop_shim::protocol::{Answer, Request};

with_each_runtime!(
    a_million_lines_through_rotations,
    long_lines_are_partial,
    without_a_path_output_is_discarded,
    a_full_disk_stops_neither_the_container_nor_the_log,
    a_log_is_no_link,
);

const LINES: usize = 1_000_000;

fn a_million_lines_through_rotations(runtime: Option<&Path>) {
    let pod = Pod::new(OWN);
    let bundle = Bundle::new(&pod, "a", &format!("seq 1 {LINES}"), runtime);
    let id = bundle.id();
    let path = bundle.create.log_path.clone().unwrap();
    pod.create(&bundle.create);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
    let events = pod.events();
    pod.start(id);
    let mut parts: Vec<PathBuf> = Vec::new();
    while pod.container(id).unwrap().exit.is_none() {
        let rotated = path.with_extension(format!("log.{}", parts.len()));
        fs::rename(&path, &rotated).unwrap();
        parts.push(rotated);
        pod.done(&Request::ReopenLog { id: id.into() });
    }
    parts.push(path);
    assert_eq!(events.exit(id, None).code, 0);
    assert!(parts.len() > 2, "the log was never rotated under load");
    let mut expected = 1;
    for part in parts {
        for line in read_log(&part) {
            assert_eq!((line.tag.as_str(), line.text), ("F", expected.to_string()), "in {}", part.display());
            expected += 1;
        }
    }
    assert_eq!(expected, LINES + 1);
}

fn long_lines_are_partial(runtime: Option<&Path>) {
    let pod = Pod::new(OWN);
    let script =
        "head -c 40000 /dev/zero | tr '\\0' x; echo y; head -c 16384 /dev/zero | tr '\\0' z; echo; printf end >&2";
    let bundle = Bundle::new(&pod, "a", script, runtime);
    assert_eq!(pod.run(&bundle.create).code, 0);
    let of = |source: &str| -> Vec<(String, String)> {
        let lines = bundle.log().into_iter().filter(|line| line.source == source);
        lines.map(|line| (line.tag, line.text)).collect()
    };
    let line = |tag: &str, text: String| (tag.to_owned(), text);
    let rest = format!("{}y", "x".repeat(40_000 - 2 * 16_384));
    assert_eq!(
        of("stdout"),
        [line("P", "x".repeat(16_384)), line("P", "x".repeat(16_384)), line("F", rest), line("F", "z".repeat(16_384))]
    );
    assert_eq!(of("stderr"), [line("F", "end".into())]);
}

fn without_a_path_output_is_discarded(runtime: Option<&Path>) {
    let pod = Pod::new(OWN);
    let mut bundle = Bundle::new(&pod, "a", "seq 1 200000; exit 2", runtime);
    bundle.create.log_path = None;
    assert_eq!(pod.run(&bundle.create).code, 2);
}

/// A tiny filesystem, unmounted at the end.
struct TinyDisk(PathBuf);

impl TinyDisk {
    fn new(path: PathBuf) -> TinyDisk {
        fs::create_dir(&path).unwrap();
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=64k,mode=0700")).unwrap();
        TinyDisk(path)
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

fn a_full_disk_stops_neither_the_container_nor_the_log(runtime: Option<&Path>) {
    let pod = Pod::new(OWN);
    let disk = TinyDisk::new(pod.path("disk"));
    let ballast = disk.0.join("ballast");
    fs::File::create(&ballast).unwrap().write_all(&vec![0; 32 * 1024]).unwrap();
    let mut bundle = Bundle::new(&pod, "a", "read go; seq 1 100000; read go; echo after", runtime).with_stdin(false);
    bundle.create.log_path = Some(disk.0.join("log"));
    pod.create_and_start(&bundle.create);
    let (output, write_end) = pipe();
    let attach = Request::Attach { id: bundle.id().into(), stdin: true };
    let stdin = pod.exchange(&attach, &[write_end.as_fd()]).1.pop().unwrap();
    drop(write_end);
    nix::unistd::write(&stdin, b"\n").unwrap();
    // What is attached gets all, so all has been read once this is here; and logged once the shim answers.
    read_until(&output, "\n100000\n");
    pod.list();
    assert!(pod.complaints().contains("dropping output"), "the disk was large enough");
    fs::remove_file(ballast).unwrap();
    nix::unistd::write(&stdin, b"\n").unwrap();
    assert_eq!(pod.wait(bundle.id()).code, 0);
    let text = bundle.text();
    let (last, first) = text.split_last().unwrap();
    assert_eq!(last, "after");
    assert!(first.len() > 100 && first.len() < 100_000, "{} lines", first.len());
    // What is there is whole, and a beginning without a gap but for what the full disk has cost.
    let numbers: Vec<usize> = first.iter().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers[0], 1);
    assert!(numbers.is_sorted_by(|a, b| a < b));
    assert!(pod.complaints().contains("bytes that were dropped"), "{}", pod.complaints());
    drop(disk);
}

fn a_log_is_no_link(runtime: Option<&Path>) {
    let pod = Pod::new(OWN);
    let bundle = Bundle::new(&pod, "a", "echo x", runtime);
    let victim = pod.path("victim");
    fs::write(&victim, "mine").unwrap();
    std::os::unix::fs::symlink(&victim, bundle.create.log_path.as_ref().unwrap()).unwrap();
    let answer = pod.ask(&Request::Create(bundle.create.clone()));
    assert!(matches!(answer, Answer::Error(failure) if failure.errno == Some(libc::ELOOP)));
    assert_eq!(fs::read_to_string(victim).unwrap(), "mine");
    assert_eq!(pod.list().containers, []);
}
