//! The cgroups of pods: `kubepods`, its two tiers, and one folder a pod, on cgroup v1, v2 and mixtures.
//!
//! The agent makes the pod's folder where a limit lives and gives the path to the runtime as
//! `cgroup_parent`. The runtime may make the same path in further hierarchies, so removal visits them all.

mod hierarchy;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodSpec;

use crate::resources::{Qos, Resources, pod_limits, pod_requests};
use crate::sync::lock;
use hierarchy::Hierarchies;

/// The CFS period the kubelet uses, microseconds.
pub(crate) const CPU_PERIOD: i64 = 100_000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// The least quota the kernel takes, microseconds.
const MIN_QUOTA: i64 = 1000;

/// A cgroup that could not be made, set or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct CgroupError {
    /// What was tried.
    pub action: &'static str,
    /// On which folder or file.
    pub path: PathBuf,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

/// CPU shares for a request in thousandths of a core.
pub(crate) fn shares(milli_cpu: i64) -> i64 {
    (milli_cpu.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// CFS quota for a limit in thousandths of a core, microseconds in each [`CPU_PERIOD`].
pub(crate) fn quota(milli_cpu: i64) -> i64 {
    (milli_cpu.saturating_mul(CPU_PERIOD) / 1000).max(MIN_QUOTA)
}

/// cgroup v2's weight for v1 shares, by the kubelet's linear rule.
fn weight(shares: i64) -> i64 {
    1 + (shares - MIN_SHARES) * 9999 / 262_142
}

/// What a pod's cgroup is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PodLimits {
    shares: i64,
    quota: Option<i64>,
    memory: Option<i64>,
}

impl PodLimits {
    fn of(spec: &PodSpec) -> Self {
        if Qos::of(spec) == Qos::BestEffort {
            return Self { shares: MIN_SHARES, quota: None, memory: None };
        }
        let Resources { cpu, memory } = pod_limits(spec);
        Self { shares: shares(pod_requests(spec).cpu.unwrap_or(0)), quota: cpu.map(quota), memory }
    }
}

/// The pods' part of the cgroup tree.
#[derive(Debug)]
pub(crate) struct Cgroups {
    hierarchies: Hierarchies,
    /// The path of `kubepods` in every hierarchy, with a leading slash.
    root: String,
    /// CPU requests (thousandths of a core) of the Burstable pods, whose sum is their tier's share.
    burstable: Mutex<HashMap<String, i64>>,
}

impl Cgroups {
    /// Finds the hierarchies and makes `kubepods` and its tiers below `parent`.
    pub(crate) fn new(parent: &str) -> Result<Self, CgroupError> {
        let this = Self {
            hierarchies: Hierarchies::detect()?,
            root: format!("{}/kubepods", parent.trim_end_matches('/')),
            burstable: Mutex::default(),
        };
        for tier in ["/besteffort", "/burstable"] {
            let path = format!("{}{tier}", this.root);
            // An earlier agent's pods run with the share it worked out; each adds its own again when it is adopted.
            let fresh = !this.hierarchies.exists("cpu", &path);
            this.hierarchies.make(&path, &["cpu", "memory"])?;
            if fresh {
                this.set_shares(&path, MIN_SHARES)?;
            }
        }
        Ok(this)
    }

    /// The path for the runtime's `cgroup_parent`.
    pub(crate) fn pod_path(&self, uid: &str, qos: Qos) -> String {
        let tier = match qos {
            Qos::Guaranteed => "",
            Qos::Burstable => "/burstable",
            Qos::BestEffort => "/besteffort",
        };
        format!("{}{tier}/pod{uid}", self.root)
    }

    /// Makes the pod's cgroup and sets its limits; again is harmless.
    pub(crate) fn ensure_pod(&self, uid: &str, spec: &PodSpec) -> Result<(), CgroupError> {
        let qos = Qos::of(spec);
        let path = self.pod_path(uid, qos);
        let limits = PodLimits::of(spec);
        self.hierarchies.make(&path, &["cpu"])?;
        self.set_shares(&path, limits.shares)?;
        if let Some(quota) = limits.quota {
            self.set_quota(&path, quota)?;
        }
        if let Some(bytes) = limits.memory {
            self.hierarchies.make(&path, &["memory"])?;
            let file = ("memory.limit_in_bytes", "memory.max");
            self.hierarchies.write("memory", &path, file, &bytes.to_string())?;
        }
        if qos == Qos::Burstable {
            let request = pod_requests(spec).cpu.unwrap_or(0);
            self.weigh_burstable(|pods| pods.insert(uid.to_owned(), request))?;
        }
        Ok(())
    }

    /// Removes the pod's cgroup everywhere, whatever its class was, killing what is still in it. Blocking.
    pub(crate) fn remove_pod(&self, uid: &str) -> Result<(), CgroupError> {
        let mut removed = Ok(());
        for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            removed = removed.and(self.hierarchies.remove(&self.pod_path(uid, qos)));
        }
        if lock(&self.burstable).contains_key(uid) {
            self.weigh_burstable(|pods| pods.remove(uid))?;
        }
        removed
    }

    /// The uids that have a cgroup: what an earlier agent may have left.
    pub(crate) fn pods(&self) -> BTreeSet<String> {
        let tiers = ["", "/burstable", "/besteffort"];
        let names = tiers.iter().flat_map(|tier| self.hierarchies.children(&format!("{}{tier}", self.root)));
        names.filter_map(|name| name.strip_prefix("pod").map(str::to_owned)).collect()
    }

    /// Removes `kubepods` and the configured parent if nothing is in them any more.
    pub(crate) fn remove_if_empty(&self) {
        for tier in ["/burstable", "/besteffort", ""] {
            self.hierarchies.rmdir_if_empty(&format!("{}{tier}", self.root));
        }
        let mut path = Path::new(&self.root).parent();
        while let Some(parent) = path.filter(|p| *p != Path::new("/")) {
            self.hierarchies.rmdir_if_empty(&parent.to_string_lossy());
            path = parent.parent();
        }
    }

    /// Whether memory is limited by cgroup v2.
    pub(crate) fn memory_is_v2(&self) -> bool {
        self.hierarchies.is_v2("memory")
    }

    /// CPU time (nanoseconds) and working set (bytes) of everything below `kubepods`.
    pub(crate) fn usage(&self) -> (Option<u64>, Option<u64>) {
        self.hierarchies.usage(&self.root)
    }

    fn weigh_burstable<T>(&self, change: impl FnOnce(&mut HashMap<String, i64>) -> T) -> Result<(), CgroupError> {
        let sum = {
            let mut pods = lock(&self.burstable);
            change(&mut pods);
            pods.values().sum()
        };
        self.set_shares(&format!("{}/burstable", self.root), shares(sum))
    }

    fn set_shares(&self, path: &str, shares: i64) -> Result<(), CgroupError> {
        let value = |v2| if v2 { weight(shares) } else { shares };
        let v2 = self.hierarchies.is_v2("cpu");
        let file = ("cpu.shares", "cpu.weight");
        self.hierarchies.write("cpu", path, file, &value(v2).to_string())
    }

    fn set_quota(&self, path: &str, quota: i64) -> Result<(), CgroupError> {
        if self.hierarchies.is_v2("cpu") {
            let value = format!("{quota} {CPU_PERIOD}");
            return self.hierarchies.write("cpu", path, ("", "cpu.max"), &value);
        }
        let period = ("cpu.cfs_period_us", "");
        self.hierarchies.write("cpu", path, period, &CPU_PERIOD.to_string())?;
        let file = ("cpu.cfs_quota_us", "");
        self.hierarchies.write("cpu", path, file, &quota.to_string())
    }
}

/// How long removal waits for killed processes to leave.
const REMOVE_PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions() {
        assert_eq!(shares(0), 2);
        assert_eq!(shares(250), 256);
        assert_eq!(shares(10_000_000), MAX_SHARES);
        assert_eq!(quota(1), 1000);
        assert_eq!(quota(1500), 150_000);
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 39);
        assert_eq!(weight(MAX_SHARES), 10_000);
    }

    #[test]
    fn burstable_pod_is_limited_only_when_all_containers_are() {
        let spec: PodSpec = serde_json::from_value(serde_json::json!({"containers": [
            {"name": "a", "resources": {"limits": {"cpu": "1", "memory": "64Mi"}}},
            {"name": "b", "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "32Mi"}}},
        ]}))
        .expect("a spec");
        let limits = PodLimits::of(&spec);
        assert_eq!(limits.quota, None);
        assert_eq!(limits.memory, Some(96 << 20));
        assert_eq!(limits.shares, 1536);
    }

    #[test]
    fn another_agent_finds_the_tier_as_the_last_one_left_it() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: not root");
            return;
        }
        let parent = format!("/orlop-agent-cgroups-{}", std::process::id());
        let first = Cgroups::new(&parent).expect("the cgroups");
        let tier = format!("{}/burstable", first.root);
        let share = |of: &Cgroups| of.hierarchies.read("cpu", &tier, ("cpu.shares", "cpu.weight"));
        let fresh = share(&first);
        let spec: PodSpec = serde_json::from_value(serde_json::json!({"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "4"}}}]}))
        .expect("a spec");
        first.ensure_pod("x", &spec).expect("the pod's cgroup");
        let with_pod = share(&first);
        let second = Cgroups::new(&parent).expect("the cgroups");
        let found = share(&second);
        second.ensure_pod("x", &spec).expect("the pod's cgroup");
        let adopted = share(&second);
        second.remove_pod("x").expect("no pod's cgroup");
        let after = share(&second);
        second.remove_if_empty();
        assert!(second.pods().is_empty() && share(&second).is_none());
        assert_eq!((&found, &adopted, &after), (&with_pod, &with_pod, &fresh));
        // A host without the controller has no share at all.
        assert!(with_pod.is_none() || with_pod != fresh);
    }
}
