//! Probes, deletion, memory limits, images that cannot be had.

use anyhow::{Result, ensure};
use orlop_tests::wait;

use crate::Case;
use crate::stack::{Namespace, Stack};

pub(crate) const CASES: &[Case] = &[
    ("a_failing_liveness_probe_restarts_the_container", liveness),
    ("a_readiness_probe_decides_ready", readiness),
    ("deletion_runs_pre_stop_then_the_signal_within_the_grace", deletion),
    ("a_container_over_its_memory_limit_is_oom_killed", oom),
    ("an_image_that_does_not_exist_is_backed_off", missing_image),
    ("a_static_pod_runs_and_shows_its_mirror", static_pod),
];

fn liveness(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: sick}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: main, image: '{}', \
          command: [sh, -c, 'touch /tmp/well; sleep 3; rm /tmp/well; exec sleep 100000'], \
          livenessProbe: {{exec: {{command: [cat, /tmp/well]}}, periodSeconds: 1, failureThreshold: 1, initialDelaySeconds: 1}}}}]}}}}",
        stack.busybox
    ))?;
    wait::until("a restart by the probe", || {
        let restarts = namespace.field("pod", "sick", "/status/containerStatuses/0/restartCount")?;
        Ok((restarts.as_u64() >= Some(1)).then_some(()))
    })?;
    let events = namespace.run(&["get", "events"])?;
    ensure!(events.contains("Liveness probe failed:"), "{events}");
    ensure!(events.contains("Container main failed liveness probe, will be restarted"), "{events}");
    Ok(())
}

fn readiness(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: slow}}, spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: main, image: '{}', \
          command: [sleep, '100000'], readinessProbe: {{exec: {{command: [test, -e, /tmp/ready]}}, periodSeconds: 1}}}}]}}}}",
        stack.busybox
    ))?;
    namespace.wait_for_phase("slow", "Running")?;
    ensure!(namespace.run(&["get", "pod", "slow", "--no-headers"])?.contains("0/1"));
    namespace.run(&["exec", "slow", "--", "touch", "/tmp/ready"])?;
    namespace.wait_for("Ready", "slow")?;
    namespace.run(&["exec", "slow", "--", "rm", "/tmp/ready"])?;
    namespace.run(&["wait", "--for=condition=Ready=false", "pod/slow", "--timeout=60s"])?;
    Ok(())
}

fn deletion(stack: &Stack, namespace: &Namespace) -> Result<()> {
    let folder = tempfile::tempdir_in("/var/tmp")?;
    namespace.apply(&format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: polite}}
spec:
  terminationGracePeriodSeconds: 20
  containers:
  - name: main
    image: {image}
    command: [sh, -c, 'trap ''echo term >> /host/order; exit 0'' TERM; touch /host/up; while true; do sleep 0.1; done']
    lifecycle: {{preStop: {{exec: {{command: [sh, -c, 'echo prestop >> /host/order']}}}}}}
    volumeMounts: [{{name: host, mountPath: /host}}]
  volumes:
  - {{name: host, hostPath: {{path: {folder}, type: Directory}}}}
",
        image = stack.busybox,
        folder = folder.path().display()
    ))?;
    namespace.wait_for("Ready", "polite")?;
    wait::until("the handler to be set", || Ok(folder.path().join("up").exists().then_some(())))?;
    namespace.run(&["delete", "pod", "polite"])?;
    ensure!(std::fs::read_to_string(folder.path().join("order"))? == "prestop\nterm\n");
    ensure!(namespace.outcome(&["get", "pod", "polite"])?.stderr.contains("NotFound"));
    Ok(())
}

fn oom(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: hungry}}, spec: {{restartPolicy: Never, containers: [{{name: main, image: '{}', \
          command: [sh, -c, 'exec tail -c 200m /dev/zero'], resources: {{limits: {{memory: 24Mi}}}}}}]}}}}",
        stack.busybox
    ))?;
    namespace.wait_for_phase("hungry", "Failed")?;
    let ended = |field: &str| {
        namespace.field("pod", "hungry", &format!("/status/containerStatuses/0/state/terminated/{field}"))
    };
    ensure!(ended("reason")? == "OOMKilled", "{}", ended("reason")?);
    ensure!(ended("exitCode")? == 137, "{}", ended("exitCode")?);
    Ok(())
}

fn missing_image(stack: &Stack, namespace: &Namespace) -> Result<()> {
    let image = format!("{}/library/no-such-image:1", stack.registry());
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: nothing}}, spec: {{terminationGracePeriodSeconds: 0, \
          containers: [{{name: main, image: '{image}'}}]}}}}"
    ))?;
    let waiting =
        |field: &str| namespace.field("pod", "nothing", &format!("/status/containerStatuses/0/state/waiting/{field}"));
    wait::until_equal("the pull to fail", &"ErrImagePull".into(), || waiting("reason"))?;
    wait::until_equal("the back-off", &"ImagePullBackOff".into(), || waiting("reason"))?;
    let message = waiting("message")?;
    let start = format!("Back-off pulling image \"{image}\"");
    ensure!(message.as_str().is_some_and(|text| text.starts_with(&start)), "{message}");
    let events = namespace.run(&["get", "events"])?;
    ensure!(events.contains("Failed to pull image"), "{events}");
    ensure!(events.contains("not found") || events.contains("404"), "the event does not say why: {events}");
    Ok(())
}

fn static_pod(stack: &Stack, namespace: &Namespace) -> Result<()> {
    let (manifests, node) = {
        let node = stack.node();
        (node.manifests(), node.name().to_owned())
    };
    std::fs::create_dir_all(&manifests)?;
    let file = manifests.join("static.yaml");
    let hidden = manifests.join(".static.yaml");
    std::fs::write(
        &hidden,
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: static, namespace: {}}}, spec: {{terminationGracePeriodSeconds: 0, \
              containers: [{{name: main, image: '{}', command: [sleep, '100000']}}]}}}}",
            namespace.namespace(),
            stack.busybox
        ),
    )?;
    std::fs::rename(&hidden, &file)?;
    let name = format!("static-{node}");
    let mirrored = wait::until("the mirror pod", || namespace.get("pod", &name).map(Some))
        .and_then(|_| namespace.wait_for("Ready", &name));
    std::fs::remove_file(&file)?;
    mirrored?;
    wait::until("the mirror pod to go with its file", || {
        Ok(namespace.outcome(&["get", "pod", &name])?.stderr.contains("NotFound").then_some(()))
    })
}
