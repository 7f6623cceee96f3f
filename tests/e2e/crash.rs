//! `kill -9` of the whole node's process while pods run and write.

use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use orlop_tests::wait;

use crate::Case;
use crate::stack::{Namespace, Stack, without_residue};

pub(crate) const CASES: &[Case] =
    &[("kill_9_loses_nothing", kill_9), ("kill_9_amid_changes_leaves_nothing", kill_9_amid_changes)];

fn kill_9(stack: &Stack, namespace: &Namespace) -> Result<()> {
    // `count` writes numbered lines all the time; `ends` ends while nobody looks; `stays` is a bystander.
    namespace.apply(&format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: count}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  containers:
  - name: main
    image: {image}
    command: [sh, -c, 'i=0; while [ ! -e /work/stop ]; do echo $i; i=$((i+1)); usleep 500; done']
    volumeMounts: [{{name: work, mountPath: /work}}]
  volumes: [{{name: work, emptyDir: {{}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: ends}}
spec:
  restartPolicy: Never
  containers: [{{name: main, image: {image}, command: [sh, -c, 'sleep 3; echo last words; exit 9']}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: stays}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: main, image: {image}, command: [sleep, '100000'], readinessProbe: {{exec: {{command: ['true']}}}}}}]
",
        image = stack.busybox
    ))?;
    for pod in ["count", "ends", "stays"] {
        namespace.wait_for("Ready", pod)?;
    }
    let container = |pod: &str| namespace.field("pod", pod, "/status/containerStatuses/0/containerID");
    let (before, stays) = (container("count")?, container("stays")?);

    let mut node = stack.node();
    node.kill()?;
    // `ends` ends with no daemon there to see it; its shim does.
    wait::until("the exit to be on record", || Ok(exited(&node.run())?.then_some(())))?;
    node.up()?;
    drop(node);

    namespace.wait_for_phase("ends", "Failed")?;
    ensure!(namespace.field("pod", "ends", "/status/containerStatuses/0/state/terminated/exitCode")? == 9);
    ensure!(namespace.run(&["logs", "ends"])? == "last words\n");
    namespace.wait_for("Ready", "stays")?;
    for (pod, was) in [("count", &before), ("stays", &stays)] {
        ensure!(container(pod)? == *was, "{pod} was replaced");
        ensure!(namespace.field("pod", pod, "/status/containerStatuses/0/restartCount")? == 0, "{pod} was restarted");
    }
    ensure!(namespace.run(&["exec", "stays", "--", "echo", "still here"])? == "still here\n");
    // The container ends on the file, and may take the command that made it along (137): its phase tells.
    namespace.outcome(&["exec", "count", "--", "touch", "/work/stop"])?;
    namespace.wait_for_phase("count", "Succeeded")?;
    let log = namespace.run(&["logs", "count"])?;
    let lost = log.lines().enumerate().find(|(wanted, line)| line.parse() != Ok(*wanted));
    ensure!(lost.is_none() && log.lines().count() > 1000, "{} lines, first wrong: {lost:?}", log.lines().count());
    namespace.run(&["delete", "pod", "stays", "count", "ends"])?;
    Ok(())
}

/// The node is killed while pods start and end, each time at another moment: it comes to what was asked for, and
/// when that is nothing, nothing is left.
fn kill_9_amid_changes(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        r"
apiVersion: v1
kind: ConfigMap
metadata: {{name: words}}
data: {{a: b}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: churn}}
spec:
  replicas: 0
  selector: {{matchLabels: {{app: churn}}}}
  template:
    metadata: {{labels: {{app: churn}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: {image}
        command: [sh, -c, 'trap exit TERM; cat /words/a; while :; do sleep 1; done']
        volumeMounts: [{{name: words, mountPath: /words}}, {{name: work, mountPath: /work}}]
      volumes: [{{name: words, configMap: {{name: words}}}}, {{name: work, emptyDir: {{medium: Memory}}}}]
",
        image = stack.busybox
    ))?;
    for (round, replicas) in [6, 1, 8, 2, 7, 0, 8, 3].into_iter().enumerate() {
        namespace.run(&["scale", "deployment/churn", &format!("--replicas={replicas}")])?;
        // Anywhere in the second in which these pods start and end.
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.subsec_nanos();
        let moment = Duration::from_nanos(u64::from(nanos));
        thread::sleep(moment);
        let mut node = stack.node();
        node.kill()?;
        node.up().map_err(|error| error.context(format!("round {round}, killed after {moment:?}")))?;
    }
    namespace.run(&["rollout", "status", "deployment/churn", "--timeout=120s"])?;
    wait::until("three pods, all ready", || {
        let pods = namespace.run(&["get", "pods", "--no-headers"])?;
        ensure!(pods.lines().count() == 3 && pods.lines().all(|pod| pod.contains("1/1")), "{pods}");
        Ok(Some(()))
    })?;
    namespace.run(&["delete", "deployment", "churn"])?;
    namespace.run(&["wait", "--for=delete", "pod", "--all", "--timeout=120s"])?;
    without_residue(&stack.node())
}

/// Whether some container's end was recorded below the run folder.
fn exited(run: &std::path::Path) -> Result<bool> {
    for pod in std::fs::read_dir(run.join("pods"))? {
        let Ok(bundles) = std::fs::read_dir(pod?.path().join("c")) else { continue };
        for bundle in bundles {
            if bundle?.path().join("exit.json").exists() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
