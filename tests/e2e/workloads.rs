//! Real servers from real images, reached as their users reach them.

use anyhow::{Result, ensure};
use orlop_tests::wait;

use crate::Case;
use crate::stack::{Namespace, Stack};

pub(crate) const CASES: &[Case] = &[
    ("busybox_runs_and_its_output_is_the_log", busybox_logs),
    ("nginx_serves_another_pod_by_pod_address", nginx_by_pod_ip),
    ("redis_keeps_what_another_pod_set", redis_from_another_pod),
    ("postgres_data_on_emptydir_outlives_a_container_restart", postgres_restart),
    ("a_deployment_scales_and_rolls", deployment),
];

/// A pod that stays, for `kubectl exec` into it.
fn client(stack: &Stack, namespace: &Namespace, image: &str) -> Result<()> {
    let _ = stack;
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: client}}, spec: {{terminationGracePeriodSeconds: 0, \
          containers: [{{name: client, image: '{image}', command: [sleep, '100000']}}]}}}}"
    ))?;
    namespace.wait_for("Ready", "client")
}

fn busybox_logs(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: hello}}, spec: {{restartPolicy: Never, \
          containers: [{{name: main, image: '{}', command: [sh, -c, 'echo to stdout; echo to stderr >&2; hostname']}}]}}}}",
        stack.busybox
    ))?;
    namespace.wait_for_phase("hello", "Succeeded")?;
    let log = namespace.run(&["logs", "hello"])?;
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    ensure!(lines == ["hello", "to stderr", "to stdout"], "the log is {log:?}");
    ensure!(namespace.field("pod", "hello", "/status/containerStatuses/0/state/terminated/reason")? == "Completed");
    Ok(())
}

fn nginx_by_pod_ip(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: web}}, spec: {{containers: [{{name: web, image: '{}', \
          readinessProbe: {{httpGet: {{path: /, port: 80}}, periodSeconds: 1}}}}]}}}}",
        stack.nginx
    ))?;
    client(stack, namespace, &stack.busybox)?;
    namespace.wait_for("Ready", "web")?;
    let url = format!("http://{}/", namespace.pod_ip("web")?);
    let page = namespace.run(&["exec", "client", "--", "wget", "-q", "-O", "-", &url])?;
    ensure!(page.contains("Welcome to nginx!"), "the page is {page:?}");
    let log = namespace.run(&["logs", "web"])?;
    ensure!(log.contains("GET / HTTP/1.1"), "nginx's log is {log:?}");
    Ok(())
}

fn redis_from_another_pod(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: redis}}, spec: {{containers: [{{name: redis, image: '{}', \
          readinessProbe: {{tcpSocket: {{port: 6379}}, periodSeconds: 1}}}}]}}}}",
        stack.redis
    ))?;
    client(stack, namespace, &stack.redis)?;
    namespace.wait_for("Ready", "redis")?;
    let ip = namespace.pod_ip("redis")?;
    let redis = |args: &[&str]| namespace.run(&[&["exec", "client", "--", "redis-cli", "-h", &ip], args].concat());
    ensure!(redis(&["SET", "deck", "orlop"])?.trim() == "OK");
    ensure!(redis(&["GET", "deck"])?.trim() == "orlop");
    Ok(())
}

fn postgres_restart(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: db}}, spec: {{\
          containers: [{{name: postgres, image: '{}', volumeMounts: [{{name: data, mountPath: /var/lib/postgresql/data}}], \
            readinessProbe: {{exec: {{command: [psql, -h, /tmp, -U, postgres, -c, 'select 1']}}, periodSeconds: 1}}}}], \
          volumes: [{{name: data, emptyDir: {{}}}}]}}}}",
        stack.postgres
    ))?;
    namespace.wait_for("Ready", "db")?;
    let sql =
        |text: &str| namespace.run(&["exec", "db", "--", "psql", "-h", "/tmp", "-U", "postgres", "-At", "-c", text]);
    sql("create table deck (name text)")?;
    sql("insert into deck values ('orlop')")?;
    // A fast shutdown of the server ends the container; the pod and its volume stay.
    namespace.outcome(&["exec", "db", "--", "sh", "-c", "kill -INT 1"])?;
    wait::until_equal("the container to be restarted once", &1.into(), || {
        namespace.field("pod", "db", "/status/containerStatuses/0/restartCount")
    })?;
    namespace.wait_for("Ready", "db")?;
    ensure!(sql("select name from deck")?.trim() == "orlop");
    Ok(())
}

fn deployment(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: web}}, spec: {{replicas: 2, \
          selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, \
          spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: web, image: '{}', command: [sleep, '100000']}}]}}}}}}}}",
        stack.busybox
    ))?;
    namespace.run(&["rollout", "status", "deployment/web", "--timeout=120s"])?;
    namespace.run(&["scale", "deployment/web", "--replicas=4"])?;
    namespace.run(&["rollout", "status", "deployment/web", "--timeout=120s"])?;
    let pods = || namespace.run(&["get", "pods", "-l", "app=web", "-o", "name"]);
    ensure!(pods()?.lines().count() == 4, "four replicas, but: {}", pods()?);
    let first = pods()?;
    namespace.run(&["rollout", "restart", "deployment/web"])?;
    namespace.run(&["rollout", "status", "deployment/web", "--timeout=120s"])?;
    wait::until("four pods, all of them new", || {
        let now = pods()?;
        Ok((now.lines().count() == 4 && now.lines().all(|pod| !first.contains(pod))).then_some(()))
    })?;
    namespace.run(&["delete", "deployment", "web"])?;
    wait::until("no pod to be left", || Ok(pods()?.is_empty().then_some(())))
}
