//! The agent on Debian's containerd, with static pods and no control plane: the swap, and a whole life.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Containerd, client_certificates, eventually, missing, run};
use orlop_agent::{Agent, Config};

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: init, image: "test.local/busybox:1", command: [sh, -c, "echo made by init > /data/file"],
     volumeMounts: [{name: data, mountPath: /data}]}
  containers:
  - name: main
    image: test.local/busybox:1
    command: [sh, -c, "cat /data/file /data2/f; echo $(WHO) $NODE; cat /info/name; echo; sleep 10000"]
    env:
    - {name: WHO, value: expanded}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    readinessProbe: {exec: {command: [test, -e, /data/file]}}
    resources: {requests: {cpu: 10m, memory: 8Mi}, limits: {memory: 64Mi}}
    volumeMounts:
    - {name: data, mountPath: /data}
    - {name: data, mountPath: /data2/f, subPath: file}
    - {name: info, mountPath: /info}
  volumes:
  - {name: data, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: info, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
"#;

const CRASHER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: crash}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: "test.local/busybox:1", command: [sh, -c, "echo dying > /dev/termination-log; exit 7"]}
"#;

/// It takes all of its grace period, and tells when that began.
const SLOW: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: slow}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 3
  containers:
  - name: main
    image: test.local/busybox:1
    command: [sleep, "10000"]
    lifecycle: {preStop: {exec: {command: [sh, -c, "echo > /data/stopping; sleep 10000"]}}}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
"#;

/// The folders of one test.
struct Fixture {
    root: tempfile::TempDir,
    cgroup: String,
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::Builder::new().prefix("orlop-agent-").tempdir_in("/var/tmp").expect("a folder");
        fs::create_dir_all(root.path().join("manifests")).expect("a folder");
        client_certificates(root.path());
        Self { root, cgroup: format!("/orlop-agent-test-{}", std::process::id()) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn config(&self, socket: &Path) -> Config {
        Config {
            static_pod_dir: Some(self.path("manifests")),
            pod_logs_dir: self.path("logs"),
            cgroup_root: self.cgroup.clone(),
            listen: ([127, 0, 0, 1], 0).into(),
            client_ca: Some(self.path("ca.pem")),
            ..Config::new("testnode", self.path("agent"), socket)
        }
    }

    fn curl(&self, agent: &Agent, path: &str) -> String {
        let url = format!("https://{}{path}", agent.address());
        run(Command::new("curl").args(["-sk", "--cert"]).arg(self.path("admin.pem")).arg(url))
    }

    /// A value in the agent's list of pods, by its JSON pointer in the pod of this name.
    fn of_pod(&self, agent: &Agent, name: &str, pointer: &str) -> serde_json::Value {
        let list: serde_json::Value = serde_json::from_str(&self.curl(agent, "/pods")).expect("JSON");
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        let pod = pods.into_iter().find(|p| p["metadata"]["name"] == name).unwrap_or_default();
        pod.pointer(pointer).cloned().unwrap_or_default()
    }

    fn cgroup_exists(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let points = mounts.lines().filter(|l| l.contains(" - cgroup")).filter_map(|l| l.split(' ').nth(4));
        points.into_iter().any(|point| Path::new(&format!("{point}{}", self.cgroup)).exists())
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // A failed test may leave mounts below its folder.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below = mounts.lines().filter_map(|l| l.split(' ').nth(4));
        for point in below.filter(|p| Path::new(p).starts_with(self.root.path())) {
            let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        }
        let points = mounts.lines().filter(|l| l.contains(" - cgroup")).filter_map(|l| l.split(' ').nth(4));
        for point in points {
            let folder = format!("{point}{}", self.cgroup);
            let _ = Command::new("find").args([&folder, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]).output();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn static_pods_live_and_end_on_containerd() {
    if let Some(why) = missing() {
        eprintln!("SKIP: {why}");
        return;
    }
    let fixture = Fixture::new();
    let containerd = Containerd::start(fixture.root.path()).await;
    let agent = Agent::start(fixture.config(&containerd.socket)).await.expect("the agent starts");

    let url = |path: &str| format!("https://{}{path}", agent.address());
    let health = run(Command::new("curl").args(["-sk", &url("/healthz")]));
    assert_eq!(health, "ok");
    let denied = run(Command::new("curl").args(["-sk", "-w", " %{http_code}", &url("/pods")]));
    assert_eq!(denied, "Unauthorized 401");

    fs::write(fixture.path("manifests/web.yaml"), POD).expect("a manifest");
    fs::write(fixture.path("manifests/crash.yaml"), CRASHER).expect("a manifest");
    let ready = |agent: &Agent| fixture.of_pod(agent, "web-testnode", "/status/containerStatuses/0/ready") == true;
    eventually("the pod is ready", || ready(&agent)).await;
    assert_eq!(fixture.of_pod(&agent, "web-testnode", "/status/phase"), "Running");
    assert_eq!(fixture.of_pod(&agent, "web-testnode", "/status/qosClass"), "Burstable");
    let log = || fixture.curl(&agent, "/containerLogs/default/web-testnode/main");
    let lines = "made by init\nmade by init\nexpanded testnode\nweb-testnode\n";
    eventually("the pod's log is whole", || log() == lines).await;
    assert_eq!(fixture.curl(&agent, "/containerLogs/default/web-testnode/main?tailLines=1"), "web-testnode\n");
    let output = run(Command::new("curl")
        .args(["-sk", "-X", "POST", "--cert"])
        .arg(fixture.path("admin.pem"))
        .arg(url("/run/default/web-testnode/main?cmd=cat%20/data/file")));
    assert_eq!(output, "made by init\n");

    let crash = |pointer: &str| fixture.of_pod(&agent, "crash-testnode", pointer);
    eventually("the crashing pod backs off", || {
        crash("/status/containerStatuses/0/state/waiting/reason") == "CrashLoopBackOff"
    })
    .await;
    let last = crash("/status/containerStatuses/0/lastState/terminated");
    assert_eq!((last["exitCode"].as_i64(), last["message"].as_str()), (Some(7), Some("dying\n")));
    assert_eq!(crash("/status/containerStatuses/0/restartCount"), 1);

    // Killed after the rename, a rotation is ended by the next look at the logs.
    let uid = fixture.of_pod(&agent, "web-testnode", "/metadata/uid");
    let current =
        fixture.path("logs").join(format!("default_web-testnode_{}/main/0.log", uid.as_str().expect("a uid")));
    fs::rename(&current, current.with_extension("log.20260101-000000")).expect("a log");
    assert_eq!(log(), lines);
    eventually("the log has a file again", || current.exists()).await;

    // A restart of the agent restarts nothing.
    let id = fixture.of_pod(&agent, "web-testnode", "/status/containerStatuses/0/containerID");
    agent.shutdown().await;
    let agent = Agent::start(fixture.config(&containerd.socket)).await.expect("the agent starts again");
    eventually("the pod is known again", || ready(&agent)).await;
    let after = fixture.of_pod(&agent, "web-testnode", "/status/containerStatuses/0/containerID");
    assert_eq!(after, id);

    // A file that comes back while its pod is still ending has its pod again.
    let (slow, aside) = (fixture.path("manifests/slow.yaml"), fixture.path("slow.yaml"));
    let of_slow = |pointer: &str| fixture.of_pod(&agent, "slow-testnode", pointer);
    fs::write(&slow, SLOW).expect("a manifest");
    let runs = || of_slow("/status/containerStatuses/0/ready") == true;
    eventually("the slow pod runs", runs).await;
    let (uid, id) = (of_slow("/metadata/uid"), of_slow("/status/containerStatuses/0/containerID"));
    let volumes = fixture.path("agent/pods").join(uid.as_str().expect("a uid")).join("volumes");
    fs::rename(&slow, &aside).expect("a manifest");
    eventually("the slow pod ends", || volumes.join("kubernetes.io~empty-dir/data/stopping").exists()).await;
    fs::rename(&aside, &slow).expect("a manifest");
    eventually("the slow pod runs anew", || runs() && of_slow("/status/containerStatuses/0/containerID") != id).await;

    for file in ["web.yaml", "crash.yaml", "slow.yaml"] {
        fs::remove_file(fixture.path("manifests").join(file)).expect("a manifest");
    }
    let pods_dir = fixture.path("agent/pods");
    eventually("nothing of the pods is left", || {
        let folders = fs::read_dir(&pods_dir).expect("a folder").count();
        let logs = fs::read_dir(fixture.path("logs")).expect("a folder").count();
        folders == 0 && logs == 0 && containerd.tasks().is_empty()
    })
    .await;
    agent.shutdown().await;
    assert!(!fixture.cgroup_exists(), "the pods' cgroups are gone");
}
