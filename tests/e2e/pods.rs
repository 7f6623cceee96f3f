//! Pods of several containers, init containers, crash loops.

use anyhow::{Result, ensure};
use orlop_tests::wait;

use crate::Case;
use crate::stack::{Namespace, Stack};

pub(crate) const CASES: &[Case] = &[
    ("two_containers_share_localhost_and_an_emptydir", two_containers),
    ("init_containers_run_first_and_in_order", init_containers),
    ("a_crash_loop_backs_off_and_keeps_the_previous_log", crash_loop),
    ("a_shared_pid_namespace_shows_all_processes", shared_pids),
    ("the_security_context_is_what_the_process_has", security_context),
];

fn two_containers(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: pair}}
spec:
  containers:
  - name: web
    image: {image}
    command: [httpd, -f, -p, '127.0.0.1:8080', -h, /shared]
    volumeMounts: [{{name: shared, mountPath: /shared}}]
  - name: side
    image: {image}
    command: [sh, -c, 'echo written by side > /shared/page; exec sleep 100000']
    volumeMounts: [{{name: shared, mountPath: /shared}}]
  volumes:
  - {{name: shared, emptyDir: {{}}}}
",
        image = stack.busybox
    ))?;
    namespace.wait_for("Ready", "pair")?;
    let url = "http://127.0.0.1:8080/page";
    wait::until("the page over localhost", || {
        let page = namespace.run(&["exec", "pair", "-c", "side", "--", "wget", "-q", "-O", "-", url])?;
        Ok((page.trim() == "written by side").then_some(()))
    })
}

fn init_containers(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: staged}}
spec:
  restartPolicy: Never
  initContainers:
  - {{name: one, image: {image}, command: [sh, -c, 'echo one >> /work/order'], volumeMounts: [{{name: work, mountPath: /work}}]}}
  - {{name: two, image: {image}, command: [sh, -c, 'echo two >> /work/order'], volumeMounts: [{{name: work, mountPath: /work}}]}}
  containers:
  - {{name: main, image: {image}, command: [cat, /work/order], volumeMounts: [{{name: work, mountPath: /work}}]}}
  volumes:
  - {{name: work, emptyDir: {{}}}}
",
        image = stack.busybox
    ))?;
    namespace.wait_for_phase("staged", "Succeeded")?;
    ensure!(namespace.run(&["logs", "staged"])? == "one\ntwo\n");
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: stuck}}, spec: {{restartPolicy: Never, \
          initContainers: [{{name: bad, image: '{image}', command: [sh, -c, 'exit 3']}}], \
          containers: [{{name: main, image: '{image}', command: ['true']}}]}}}}",
        image = stack.busybox
    ))?;
    namespace.wait_for_phase("stuck", "Failed")?;
    ensure!(namespace.field("pod", "stuck", "/status/initContainerStatuses/0/state/terminated/exitCode")? == 3);
    ensure!(namespace.run(&["get", "pod", "stuck", "--no-headers"])?.contains("Init:Error"));
    Ok(())
}

fn crash_loop(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: crash}}, spec: {{containers: [{{name: main, image: '{}', \
          command: [sh, -c, 'echo dying; exit 7']}}]}}}}",
        stack.busybox
    ))?;
    let status = |pointer: &str| namespace.field("pod", "crash", &format!("/status/containerStatuses/0{pointer}"));
    wait::until_equal("the back-off", &"CrashLoopBackOff".into(), || status("/state/waiting/reason"))?;
    ensure!(status("/lastState/terminated/exitCode")? == 7);
    ensure!(status("/lastState/terminated/reason")? == "Error");
    ensure!(namespace.field("pod", "crash", "/status/phase")? == "Running", "a crash loop is a running pod");
    let message = status("/state/waiting/message")?;
    ensure!(
        message.as_str().is_some_and(|text| text.starts_with("back-off 10s restarting failed container=main")),
        "{message}"
    );
    wait::until("a restart after the back-off", || Ok((status("/restartCount")?.as_u64() >= Some(2)).then_some(())))?;
    ensure!(namespace.run(&["logs", "crash", "--previous"])? == "dying\n");
    wait::until("the BackOff event", || {
        let events = namespace.run(&["get", "events", "--field-selector", "reason=BackOff", "-o", "name"])?;
        Ok((!events.is_empty()).then_some(()))
    })
}

fn shared_pids(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: shared}}, spec: {{shareProcessNamespace: true, \
          terminationGracePeriodSeconds: 0, containers: [\
            {{name: one, image: '{image}', command: [sleep, '100001']}}, {{name: two, image: '{image}', command: [sleep, '100002']}}]}}}}",
        image = stack.busybox
    ))?;
    namespace.wait_for("Ready", "shared")?;
    let processes = namespace.run(&["exec", "shared", "-c", "one", "--", "ps"])?;
    ensure!(processes.contains("sleep 100001") && processes.contains("sleep 100002"), "{processes}");
    ensure!(
        !processes.lines().any(|line| line.trim_start().starts_with("1 ") && line.contains("sleep")),
        "{processes}"
    );
    Ok(())
}

fn security_context(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: careful}}
spec:
  restartPolicy: Never
  securityContext: {{runAsUser: 1234, runAsGroup: 2345, supplementalGroups: [3456], fsGroup: 4567}}
  containers:
  - name: main
    image: {image}
    command: [sh, -c, 'id -u; id -g; id -G; grep -E ^CapEff /proc/self/status; grep -E ^NoNewPrivs /proc/self/status; grep -E ^Seccomp: /proc/self/status; touch /x || true; stat -c %g /data']
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {{drop: [ALL]}}
      seccompProfile: {{type: RuntimeDefault}}
    volumeMounts: [{{name: data, mountPath: /data}}]
  volumes:
  - {{name: data, emptyDir: {{}}}}
",
        image = stack.busybox
    ))?;
    namespace.wait_for_phase("careful", "Succeeded")?;
    let log = namespace.run(&["logs", "careful"])?;
    let words: Vec<&str> = log.split_whitespace().collect();
    ensure!(words.starts_with(&["1234", "2345"]), "{log}");
    for group in ["3456", "4567"] {
        ensure!(log.lines().nth(2).is_some_and(|groups| groups.split(' ').any(|g| g == group)), "{log}");
    }
    ensure!(log.contains("CapEff:\t0000000000000000"), "{log}");
    ensure!(log.contains("NoNewPrivs:\t1") && log.contains("Seccomp:\t2"), "{log}");
    ensure!(log.contains("Read-only file system"), "{log}");
    // stdout and stderr are two pipes: their lines' order in the log is nobody's promise.
    ensure!(log.lines().any(|line| line == "4567"), "{log}");
    Ok(())
}
