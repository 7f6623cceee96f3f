//! `kill -9` of the whole node's process while pods run and write.

use anyhow::{Result, ensure};
use orlop_tests::wait;

use crate::Case;
use crate::stack::{Namespace, Stack};

pub(crate) const CASES: &[Case] = &[("kill_9_loses_nothing", kill_9)];

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
