//! One container from create to delete, with a SIGKILL somewhere on the way.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bundle::{Bundle, Plan};
use crate::chance::Chance;
use crate::common::by_systemd;
use crate::{children, inventory};

/// Longer than the runtime waits for anything.
const DONE_WITHIN: Duration = Duration::from_secs(90);

/// The program under test and where it keeps its state.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    pub(crate) program: PathBuf,
    pub(crate) root: PathBuf,
}

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Runtime,
    /// A process that the runtime made: the container's first, one that goes ahead of it, a hook.
    Descendant,
}

/// How often what was killed, and how many cycles ended without.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) runtime: usize,
    pub(crate) descendant: usize,
    pub(crate) container: usize,
    pub(crate) too_late: usize,
}

/// One worker's cycles.
#[derive(Debug)]
pub(crate) struct Cycles<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) bundle: &'a Bundle,
    pub(crate) user_namespace: PathBuf,
    pub(crate) chance: Chance,
    pub(crate) tally: Tally,
    /// How long each verb took lately: instants are drawn from that.
    pub(crate) usual: HashMap<&'static str, Duration>,
}

impl Cycles<'_> {
    /// Makes one container and gets rid of it. The error says what went wrong and what had been done.
    pub(crate) fn one(&mut self, id: String, groups: String) -> Result<(), String> {
        let mut plan = Plan::new(id, groups);
        self.bundle.write(&mut self.chance, &mut plan, &self.user_namespace);
        let mut story = vec![format!("cgroup {}", plan.groups)];
        let verbs = self.verbs();
        // Create does the most: it is hit as often as all others.
        let victim = if self.chance.comes(45) { 0 } else { self.chance.below(verbs.len() + 1) };
        let mut create_killed = false;
        for (at, verb) in verbs.iter().enumerate() {
            let target = (at == victim).then(|| self.target());
            let killed = self.call(&plan, verb, target, &mut story)?;
            create_killed |= killed == Some(Target::Runtime) && matches!(*verb, "create" | "run");
            if at == victim && self.chance.comes(5) {
                self.kill_container(&plan, &mut story);
            }
        }
        let hooks_killed = self.get_rid(&plan, &mut story)?;
        let mut left = inventory::of_container(&self.runtime.root, &plan.id, &plan.groups);
        // The hook of a killed create may run on, and make what the other hook just removed.
        if self.bundle.mark().exists() && !create_killed && !hooks_killed {
            left.push("what the createRuntime hook made: the poststop hook did not run".to_owned());
        }
        let _ = std::fs::remove_file(self.bundle.mark());
        left.extend(self.bundle.strays());
        self.bundle.end(&plan);
        if left.is_empty() {
            return Ok(());
        }
        let config = std::fs::read_to_string(self.bundle.folder.join("config.json")).unwrap_or_default();
        Err(format!("left: {left:#?}\nafter: {story:#?}\nof: {config}"))
    }

    fn verbs(&mut self) -> Vec<&'static str> {
        let mut verbs = if self.chance.comes(20) { vec!["run"] } else { vec!["create", "start"] };
        for (some, percent) in
            [(vec!["exec"], 30), (vec!["update"], 15), (vec!["pause"], 10), (vec!["pause", "resume"], 10)]
        {
            if self.chance.comes(percent) {
                verbs.extend(some);
            }
        }
        if self.chance.comes(70) {
            verbs.push("kill");
        }
        verbs
    }

    fn target(&mut self) -> Target {
        if self.chance.comes(45) { Target::Runtime } else { Target::Descendant }
    }

    /// Deletes the container, often with deletes before that are killed. Returns whether a child of theirs was:
    /// that is a poststop hook, and one that fails is no failure of delete.
    fn get_rid(&mut self, plan: &Plan, story: &mut Vec<String>) -> Result<bool, String> {
        let mut hooks_killed = false;
        while self.chance.comes(40) {
            let target = self.target();
            hooks_killed |= self.call(plan, "delete", Some(target), story)? == Some(Target::Descendant);
        }
        self.call(plan, "delete", None, story)?;
        let failed = story.last().is_none_or(|last| !last.starts_with("delete: exit status: 0"));
        if failed { Err(format!("delete --force failed: {story:#?}")) } else { Ok(hooks_killed) }
    }

    fn kill_container(&mut self, plan: &Plan, story: &mut Vec<String>) {
        let state = std::fs::read(self.runtime.root.join(&plan.id).join("state.json")).unwrap_or_default();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap_or_default();
        if let Some(pid) = state["pid"].as_i64().filter(|pid| *pid > 0) {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
            self.tally.container += 1;
            story.push(format!("killed the container's process {pid}"));
        }
    }

    fn command(&self, plan: &Plan, verb: &str) -> Command {
        let mut command = Command::new(&self.runtime.program);
        if by_systemd() {
            command.arg("--systemd-cgroup");
        }
        command.arg("--root").arg(&self.runtime.root).arg(verb);
        let bundle = &self.bundle.folder;
        match verb {
            "create" | "run" => {
                command.arg("--bundle").arg(bundle);
                if verb == "run" {
                    command.arg("--detach");
                }
                if plan.terminal {
                    command.arg("--console-socket").arg(bundle.join("console.sock"));
                }
                if plan.pid_file {
                    command.arg("--pid-file").arg(bundle.join("pid"));
                }
            }
            "delete" => {
                command.arg("--force");
            }
            "update" => {
                command.args(["--memory", "33554432", "--pids-limit", "50"]);
            }
            _ => (),
        }
        command.arg(&plan.id);
        match verb {
            "exec" => command.args(["/bin/true"]),
            "kill" => command.args(["KILL"]),
            _ => &mut command,
        };
        let errors = std::fs::File::create(bundle.join("errors")).expect("errors");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        command
    }

    /// Runs a verb, and kills the target at some instant of it. Until something was killed verbs must succeed.
    fn call(
        &mut self,
        plan: &Plan,
        verb: &'static str,
        target: Option<Target>,
        story: &mut Vec<String>,
    ) -> Result<Option<Target>, String> {
        let usual = self.usual.get(verb).copied().unwrap_or(Duration::from_millis(40));
        let begin = Instant::now();
        let mut child = children::spawn(&mut self.command(plan, verb));
        let (mut killed, mut ended) = (None, None);
        if let Some(target) = target {
            self.await_instant(&child, target, usual);
            ended = children::ended(&mut child);
            match ended {
                Some(_) => self.tally.too_late += 1,
                None => killed = Some(self.strike(&child, target)),
            }
        }
        let what = match killed {
            Some(target) => format!(" ({target:?} killed after {:?})", begin.elapsed()),
            None => String::new(),
        };
        let status = loop {
            if let Some(status) = ended.or_else(|| children::ended(&mut child)) {
                break status;
            }
            if begin.elapsed() > DONE_WITHIN {
                return Err(format!("{verb}{what} does not end: {story:#?}"));
            }
            std::thread::sleep(Duration::from_micros(200));
        };
        if killed.is_none() {
            let took = begin.elapsed();
            self.usual.entry(verb).and_modify(|usual| *usual = (*usual * 7 + took) / 8).or_insert(took);
        }
        let errors = std::fs::read_to_string(self.bundle.folder.join("errors")).unwrap_or_default();
        story.push(format!("{verb}: {status}{what}: {}", errors.trim()));
        if !status.success() && !story.iter().any(|line| line.contains("killed")) {
            return Err(format!("{verb} failed: {story:#?}"));
        }
        Ok(killed)
    }

    /// Waits for an instant of the verb. Some descendants are there for a moment only, so half of their instants
    /// are those when a new one is seen.
    fn await_instant(&mut self, child: &Child, target: Target, usual: Duration) {
        let instant = Instant::now() + self.chance.until(usual);
        if target == Target::Runtime || self.chance.comes(50) {
            std::thread::sleep(instant.saturating_duration_since(Instant::now()));
            return;
        }
        let (mut wanted, mut seen) = (1 + self.chance.below(4), HashSet::new());
        while wanted > 0 && Instant::now() < instant {
            let new = inventory::descendants(child.id() as i32).into_iter().filter(|pid| seen.insert(*pid)).count();
            wanted = wanted.saturating_sub(new);
        }
    }

    /// Kills a process of a runtime that was not waited for yet; returns which.
    fn strike(&mut self, child: &Child, target: Target) -> Target {
        let pid = Pid::from_raw(child.id() as i32);
        let below = inventory::descendants(pid.as_raw());
        if target == Target::Descendant && !below.is_empty() {
            // The last is the newest, as a rule.
            let at = if self.chance.comes(50) { below.len() - 1 } else { self.chance.below(below.len()) };
            let _ = kill(below[at], Signal::SIGKILL);
            self.tally.descendant += 1;
            return Target::Descendant;
        }
        let _ = kill(pid, Signal::SIGKILL);
        self.tally.runtime += 1;
        Target::Runtime
    }
}
