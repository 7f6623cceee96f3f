//! The API server, as kubectl and a stranger see it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use orlop_tests::command;

use crate::Case;
use crate::stack::{Namespace, Stack};

pub(crate) const CASES: &[Case] = &[
    ("a_bad_manifest_is_refused_and_nothing_is_stored", bad_manifest),
    ("kubectl_shows_what_people_expect", kubectl_views),
    ("objects_are_labelled_annotated_patched_and_edited", changes),
    ("a_pod_that_fits_nowhere_stays_pending_and_says_why", unschedulable),
    ("strangers_get_nothing", strangers),
];

fn bad_manifest(_: &Stack, namespace: &Namespace) -> Result<()> {
    let refused = |manifest: &str, why: &str| {
        let outcome = namespace.try_apply(manifest)?;
        ensure!(outcome.code == 1 && outcome.stderr.contains(why), "wanted {why:?}: {outcome:?}");
        Ok(())
    };
    refused(
        "{apiVersion: v1, kind: Pod, metadata: {name: bad}, spec: {containers: []}}",
        "spec.containers: Required value",
    )?;
    refused(
        "{apiVersion: v1, kind: Pod, metadata: {name: bad}, spec: {containers: [{name: main}]}}",
        "spec.containers[0].image: Required value",
    )?;
    refused(
        "{apiVersion: v1, kind: Pod, metadata: {name: Bad_Name}, spec: {containers: [{name: main, image: x}]}}",
        "metadata.name: Invalid value",
    )?;
    refused(
        "{apiVersion: v1, kind: Pod, metadata: {name: bad}, spec: {containres: [], containers: [{name: main, image: x}]}}",
        "unknown field \"spec.containres\"",
    )?;
    refused(
        "{apiVersion: v1, kind: Pod, metadata: {name: bad}, spec: {containers: [{name: main, image: x, ports: [{containerPort: 99999}]}]}}",
        "spec.containers[0].ports[0].containerPort: Invalid value",
    )?;
    let stored = namespace.outcome(&["get", "pods"])?;
    ensure!(stored.stderr.contains("No resources found"), "{stored:?}");
    Ok(())
}

fn kubectl_views(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: seen, labels: {{app: seen}}}}, spec: {{terminationGracePeriodSeconds: 0, \
          containers: [{{name: main, image: '{}', command: [sleep, '100000']}}]}}}}",
        stack.busybox
    ))?;
    namespace.wait_for("Ready", "seen")?;
    let wide = namespace.run(&["get", "pods", "-o", "wide"])?;
    let header: Vec<&str> =
        wide.lines().next().context("a header")?.split("  ").map(str::trim).filter(|h| !h.is_empty()).collect();
    ensure!(
        header == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES"],
        "{header:?}"
    );
    let row: Vec<&str> = wide.lines().nth(1).context("a row")?.split_whitespace().collect();
    ensure!(row[..4] == ["seen", "1/1", "Running", "0"], "{row:?}");
    ensure!(row[5] == namespace.pod_ip("seen")? && row[6] == stack.node().name(), "{row:?}");
    let described = namespace.run(&["describe", "pod", "seen"])?;
    for wanted in ["Successfully assigned", "Pulled", "Created", "Started", "QoS Class:", "BestEffort", "Image ID:"] {
        ensure!(described.contains(wanted), "no {wanted:?} in: {described}");
    }
    let nodes = namespace.run(&["get", "nodes", "-o", "wide"])?;
    ensure!(nodes.contains("Ready") && nodes.contains("CONTAINER-RUNTIME") && nodes.contains("orlop://"), "{nodes}");
    ensure!(namespace.run(&["describe", "node", stack.node().name()])?.contains("kubelet is posting ready status"));
    ensure!(namespace.run(&["api-resources"])?.contains("deployments"));
    ensure!(namespace.run(&["auth", "can-i", "create", "pods"])?.trim() == "yes");
    for format in ["yaml", "name", "jsonpath={.metadata.uid}"] {
        ensure!(!namespace.run(&["get", "pod", "seen", "-o", format])?.is_empty());
    }
    Ok(())
}

fn changes(_: &Stack, namespace: &Namespace) -> Result<()> {
    let manifest = "{apiVersion: v1, kind: ConfigMap, metadata: {name: thing}, data: {a: one, b: two}}";
    ensure!(namespace.apply(manifest)?.contains("configmap/thing created"));
    ensure!(namespace.apply(manifest)?.contains("configmap/thing unchanged"));
    ensure!(
        namespace
            .apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: thing}, data: {a: three}}")?
            .contains("configured")
    );
    ensure!(namespace.field("configmap", "thing", "/data")? == serde_json::json!({"a": "three"}));
    namespace.run(&["label", "configmap", "thing", "tier=low"])?;
    namespace.run(&["annotate", "configmap", "thing", "note=kept"])?;
    ensure!(namespace.run(&["get", "configmap", "-l", "tier=low", "-o", "name"])? == "configmap/thing\n");
    ensure!(namespace.run(&["get", "configmap", "-l", "tier!=low", "-o", "name"])? == "configmap/kube-root-ca.crt\n");
    namespace.run(&[
        "patch",
        "configmap",
        "thing",
        "--type=json",
        "-p",
        r#"[{"op":"add","path":"/data/c","value":"four"}]"#,
    ])?;
    ensure!(namespace.field("configmap", "thing", "/data/c")? == "four");
    let stale = namespace.run(&["get", "configmap", "thing", "-o", "json"])?;
    namespace.run(&["label", "configmap", "thing", "tier-"])?;
    let conflict = namespace.outcome_with_input(&["replace", "-f", "-"], &stale)?;
    ensure!(conflict.code == 1 && conflict.stderr.contains("the object has been modified"), "{conflict:?}");
    namespace.run(&["delete", "configmap", "thing"])?;
    Ok(())
}

fn unschedulable(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: huge}}, spec: {{containers: [{{name: main, image: '{}', \
          resources: {{requests: {{cpu: '10000'}}}}}}]}}}}",
        stack.busybox
    ))?;
    namespace.run(&["wait", "--for=condition=PodScheduled=false", "pod/huge", "--timeout=60s"])?;
    let events = namespace.run(&["get", "events"])?;
    ensure!(
        events.contains("FailedScheduling") && events.contains("0/1 nodes are available: 1 Insufficient cpu."),
        "{events}"
    );
    Ok(())
}

fn strangers(_: &Stack, namespace: &Namespace) -> Result<()> {
    let config: serde_json::Value = serde_json::from_str(&namespace.run(&["config", "view", "--raw", "-o", "json"])?)?;
    let server = config["clusters"][0]["cluster"]["server"].as_str().context("the server's address")?;
    let status = |path: &str| {
        command::stdout(Command::new("curl").args([
            "-sk",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &format!("{server}{path}"),
        ]))
    };
    for open in ["/healthz", "/livez", "/readyz", "/version"] {
        ensure!(status(open)? == "200", "{open} gives {}", status(open)?);
    }
    for closed in ["/api", "/apis", "/api/v1/pods", "/openapi/v3", "/metrics", "/"] {
        ensure!(status(closed)? == "401", "{closed} gives {}", status(closed)?);
    }
    let denied = namespace.with_token("not-a-token")?.outcome(&["get", "pods"])?;
    ensure!(denied.code == 1 && denied.stderr.contains("Unauthorized"), "{denied:?}");
    Ok(())
}
