//! From `kubectl scale --replicas=30` to thirty ready pods. They stay, for the memory that follows.

use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Result, ensure};
use orlop_tests::node::Node;
use orlop_tests::wait;

use crate::figures::{Times, against};

pub(crate) const REPLICAS: u64 = 30;
const ROUNDS: usize = 3;

pub(crate) fn measure(node: &Node, image: &str) -> Result<()> {
    println!("\n# Node: kubectl scale --replicas={REPLICAS}, to all ready");
    let kubectl = node.kubectl();
    kubectl.apply(&format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: bench}}, spec: {{replicas: 0, \
          selector: {{matchLabels: {{app: bench}}}}, template: {{metadata: {{labels: {{app: bench}}}}, \
          spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: main, image: '{image}', command: [sleep, '100000'], \
            readinessProbe: {{exec: {{command: ['true']}}}}}}]}}}}}}}}"
    ))?;
    let mut times = Times::default();
    for round in 0..ROUNDS {
        if round > 0 {
            kubectl.run(&["scale", "deployment/bench", "--replicas=0"])?;
            kubectl.run(&["wait", "--for=delete", "pod", "-l", "app=bench", "--timeout=120s"])?;
            // With a grace of zero the API forgets pods before they have ended; what ends is not part of the round.
            wait_for_sandboxes(node, 0)?;
        }
        times.take(|| {
            kubectl.run(&["scale", "deployment/bench", &format!("--replicas={REPLICAS}")])?;
            let start = Instant::now();
            // kubectl itself costs 50 ms of one core a look: asking more often would be measuring kubectl.
            while kubectl.field("deployment", "bench", "/status/readyReplicas")? != REPLICAS {
                ensure!(start.elapsed() < Duration::from_mins(2), "{}", kubectl.run(&["get", "pods", "-o", "wide"])?);
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        })?;
    }
    wait_for_sandboxes(node, REPLICAS as usize)?;
    against(&format!("{REPLICAS} replicas ready, median of {ROUNDS}"), times.median() / 1e3, "s", 2.0);
    Ok(())
}

/// Waits until the node has so many sandboxes, and nothing of others.
fn wait_for_sandboxes(node: &Node, wanted: usize) -> Result<()> {
    wait::until_equal("sandboxes", &wanted, || Ok(fs::read_dir(node.run().join("pods"))?.count()))
}
