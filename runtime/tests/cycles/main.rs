//! Containers made and removed while the runtime and its children are killed at random instants, on all
//! processors at once: afterwards each of them can be deleted, and nothing of them is left.
//!
//! `ORLOP_CYCLES` is how many, `ORLOP_SEED` a seed that a run printed, `ORLOP_RUNTIME` another program.

mod bundle;
#[path = "../common/chance.rs"]
mod chance;
mod children;
#[path = "../common/mod.rs"]
mod common;
mod cycle;
mod inventory;

use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bundle::Bundle;
use chance::Chance;
use cycle::{Cycles, Runtime, Tally};

const DEFAULT_CYCLES: usize = 500;

/// After so many all workers pause, and what is there is compared with what was.
const BETWEEN_INVENTORIES: usize = 100;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[test]
fn whatever_is_killed_all_can_be_removed() {
    if !common::can_run() {
        return;
    }
    let cycles = number("ORLOP_CYCLES").map_or(DEFAULT_CYCLES, |count| count as usize);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_nanos() as u64;
    let seed = number("ORLOP_SEED").unwrap_or(now);
    println!("{cycles} cycles, ORLOP_SEED={seed}");
    nix::sys::prctl::set_child_subreaper(true).expect("become the one that orphans go to");

    let name = format!("orlop-cycles-{}", std::process::id());
    let folder = tempfile::Builder::new().prefix("orlop-cycles-").tempdir().expect("temporary folder");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let program = std::env::var_os("ORLOP_RUNTIME").map_or(env!("CARGO_BIN_EXE_orlop-runtime").into(), PathBuf::from);
    let runtime = Runtime { program, root: folder.path().join("state") };
    std::fs::create_dir(&runtime.root).expect("state");
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let bundles: Vec<Bundle> = (0..workers).map(|at| Bundle::new(folder.path().join(format!("bundle{at}")))).collect();
    let user = user_namespace();
    let user_path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), user.as_raw_fd()));
    let mut all: Vec<Cycles> = bundles
        .iter()
        .enumerate()
        .map(|(at, bundle)| Cycles {
            runtime: &runtime,
            bundle,
            user_namespace: user_path.clone(),
            chance: Chance::new(seed.wrapping_add(at as u64)),
            tally: Tally::default(),
            usual: std::collections::HashMap::default(),
        })
        .collect();

    let next = AtomicUsize::new(0);
    // The first make what stays: mount points in the bundle, files of the workers.
    run(&mut all, &next, workers, &name);
    assert_eq!(children::left(), Vec::<String>::new());
    let before = inventory::take(folder.path(), &name);
    let begin = Instant::now();
    while next.load(Ordering::Relaxed) < cycles {
        let end = (next.load(Ordering::Relaxed) + BETWEEN_INVENTORIES).min(cycles.max(workers));
        run(&mut all, &next, end, &name);
        assert_eq!(children::left(), Vec::<String>::new(), "left after {end} cycles");
        let after = inventory::take(folder.path(), &name);
        let left: Vec<&String> = after.difference(&before).collect();
        assert!(left.is_empty(), "left after {end} cycles: {left:#?}");
    }
    for worker in &all {
        println!("{:?}", worker.tally);
    }
    println!("{:?} each", begin.elapsed() / cycles.max(1) as u32);
}

/// A user namespace without processes, for containers that join one.
fn user_namespace() -> std::fs::File {
    let mut holder = Command::new("unshare")
        .args(["--user", "sh", "-c", "echo ready; read end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare of util-linux");
    let mut ready = [0; 6];
    holder.stdout.take().expect("output").read_exact(&mut ready).expect("a user namespace");
    let folder = Path::new("/proc").join(holder.id().to_string());
    for file in ["uid_map", "gid_map"] {
        std::fs::write(folder.join(file), "0 100000 65536\n").expect("mapping");
    }
    let namespace = std::fs::File::open(folder.join("ns/user")).expect("namespace");
    drop(holder.stdin.take());
    holder.wait().expect("wait");
    namespace
}

/// Lets all workers make containers until there were so many.
fn run(all: &mut [Cycles<'_>], next: &AtomicUsize, end: usize, name: &str) {
    let stop = AtomicBool::new(false);
    let mut panics = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| children::reap(&stop));
        let threads: Vec<_> = all.iter_mut().map(|worker| scope.spawn(|| work(worker, next, end, name))).collect();
        panics.extend(threads.into_iter().filter_map(|thread| thread.join().err()));
        stop.store(true, Ordering::Relaxed);
    });
    if let Some(panic) = panics.pop() {
        std::panic::resume_unwind(panic);
    }
}

fn work(worker: &mut Cycles<'_>, next: &AtomicUsize, end: usize, name: &str) {
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        if at >= end {
            next.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let id = format!("{name}-{at}");
        let groups = match (worker.chance.below(3), common::by_systemd()) {
            (0, false) => format!("orlop/{id}"),
            (1, false) => format!("/{id}"),
            (_, false) => format!("/{id}/pod/container"),
            (0, true) => format!(":orlop:{id}"),
            (_, true) => format!("orlop-test.slice:orlop:{id}"),
        };
        if let Err(why) = worker.one(id, groups) {
            panic!("cycle {at}: {why}");
        }
    }
}
