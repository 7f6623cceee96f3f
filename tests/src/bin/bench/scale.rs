//! From `kubectl scale --replicas=30` to thirty ready pods. They stay, for the memory that follows.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use orlop_tests::node::Node;

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
    against(&format!("{REPLICAS} replicas ready, median of {ROUNDS}"), times.median() / 1e3, "s", 2.0);
    Ok(())
}
