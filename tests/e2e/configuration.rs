//! ConfigMaps, Secrets, the downward API, service-account tokens.

use anyhow::{Result, ensure};
use orlop_tests::wait;

use crate::Case;
use crate::stack::{Namespace, Stack};

pub(crate) const CASES: &[Case] = &[
    ("a_configmap_is_files_and_environment", config_map),
    ("a_secret_lives_in_memory", secret),
    ("the_pod_knows_itself_by_the_downward_api", downward_api),
    ("a_missing_configmap_holds_the_pod_and_says_so", missing),
    ("a_service_account_token_is_good_at_the_api_server", token),
];

fn config_map(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        r"
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{colour: teal, motd: hold fast}}
---
apiVersion: v1
kind: Pod
metadata: {{name: reader}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: {image}
    command: [sh, -c, 'echo $(COLOUR) $PREFIX_motd; exec sleep 100000']
    env: [{{name: COLOUR, valueFrom: {{configMapKeyRef: {{name: settings, key: colour}}}}}}]
    envFrom: [{{prefix: PREFIX_, configMapRef: {{name: settings}}}}]
    volumeMounts: [{{name: settings, mountPath: /settings}}]
  volumes:
  - {{name: settings, configMap: {{name: settings}}}}
",
        image = stack.busybox
    ))?;
    namespace.wait_for("Ready", "reader")?;
    ensure!(namespace.run(&["logs", "reader"])? == "teal hold fast\n");
    let file = || namespace.run(&["exec", "reader", "--", "cat", "/settings/motd"]);
    ensure!(file()? == "hold fast");
    namespace.run(&["patch", "configmap", "settings", "--type=merge", "-p", r#"{"data":{"motd":"let go"}}"#])?;
    wait::until_equal("the file to follow the ConfigMap", &"let go".to_owned(), file)
}

fn secret(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.run(&["create", "secret", "generic", "key", "--from-literal=word=xyzzy"])?;
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: keeper}}, spec: {{restartPolicy: Never, containers: [{{name: main, \
          image: '{}', command: [sh, -c, 'cat /key/word; echo; grep \" /key \" /proc/mounts | cut -d\" \" -f3; stat -L -c %a /key/word'], \
          volumeMounts: [{{name: key, mountPath: /key, readOnly: true}}]}}], \
          volumes: [{{name: key, secret: {{secretName: key, defaultMode: 256}}}}]}}}}",
        stack.busybox
    ))?;
    namespace.wait_for_phase("keeper", "Succeeded")?;
    let log = namespace.run(&["logs", "keeper"])?;
    ensure!(log == "xyzzy\ntmpfs\n400\n", "{log:?}");
    Ok(())
}

fn downward_api(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: self-aware, labels: {{tier: low}}}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: {image}
    command: [sh, -c, 'echo $NAME $IP $LIMIT; cat /about/labels']
    resources: {{limits: {{memory: 64Mi}}}}
    env:
    - {{name: NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
    - {{name: IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
    - {{name: LIMIT, valueFrom: {{resourceFieldRef: {{resource: limits.memory}}}}}}
    volumeMounts: [{{name: about, mountPath: /about}}]
  volumes:
  - name: about
    downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}
",
        image = stack.busybox
    ))?;
    namespace.wait_for_phase("self-aware", "Succeeded")?;
    let ip = namespace.pod_ip("self-aware")?;
    let log = namespace.run(&["logs", "self-aware"])?;
    ensure!(log.trim_end() == format!("self-aware {ip} 67108864\ntier=\"low\""), "{log:?}");
    Ok(())
}

fn missing(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: waits}}, spec: {{restartPolicy: Never, containers: [{{name: main, \
          image: '{}', command: [sh, -c, 'echo $WORD'], \
          env: [{{name: WORD, valueFrom: {{configMapKeyRef: {{name: later, key: word}}}}}}]}}]}}}}",
        stack.busybox
    ))?;
    let waiting =
        |field: &str| namespace.field("pod", "waits", &format!("/status/containerStatuses/0/state/waiting/{field}"));
    wait::until_equal("the reason", &"CreateContainerConfigError".into(), || waiting("reason"))?;
    ensure!(waiting("message")? == "configmap \"later\" not found", "{}", waiting("message")?);
    namespace.run(&["create", "configmap", "later", "--from-literal=word=found"])?;
    namespace.wait_for_phase("waits", "Succeeded")?;
    ensure!(namespace.run(&["logs", "waits"])? == "found\n");
    Ok(())
}

fn token(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: bearer}}, spec: {{terminationGracePeriodSeconds: 0, \
          containers: [{{name: main, image: '{}', command: [sleep, '100000']}}]}}}}",
        stack.busybox
    ))?;
    namespace.wait_for("Ready", "bearer")?;
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    let read = |name: &str| namespace.run(&["exec", "bearer", "--", "cat", &format!("{folder}/{name}")]);
    ensure!(read("namespace")? == namespace.namespace());
    ensure!(read("ca.crt")?.starts_with("-----BEGIN CERTIFICATE-----"));
    let token = read("token")?;
    let who = namespace.with_token(&token)?.run(&["auth", "whoami", "-o", "json"])?;
    let wanted = format!("system:serviceaccount:{}:default", namespace.namespace());
    ensure!(who.contains(&wanted), "{who}");
    Ok(())
}
