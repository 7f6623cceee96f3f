//! A private containerd with two images made from Debian's busybox, and an agent's client certificate.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long conditions are waited for.
const PATIENCE: Duration = Duration::from_mins(1);

/// Waits for a condition; panics with `what` when it does not come.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs a command and returns its output; panics when it fails.
pub(crate) fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the program runs");
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

/// The programs and rights that the test needs; otherwise why not.
pub(crate) fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let programs = ["containerd", "ctr", "runc", "curl", "tar"];
    let absent = programs.into_iter().find(|program| {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        !found.is_ok_and(|o| o.status.success())
    });
    if let Some(program) = absent {
        return Some(format!("{program} is not installed"));
    }
    (!Path::new("/bin/busybox").exists()).then(|| "busybox-static is not installed".to_owned())
}

/// A containerd of our own; dropped, it ends with all that it ran.
pub(crate) struct Containerd {
    child: Child,
    pub(crate) socket: PathBuf,
}

impl Containerd {
    pub(crate) async fn start(root: &Path) -> Self {
        let config = root.join("containerd.toml");
        let socket = root.join("containerd.sock");
        let text = format!(
            "version = 2\nroot = \"{root}/cd-root\"\nstate = \"{root}/cd-state\"\n\
             [grpc]\naddress = \"{root}/containerd.sock\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"test.local/pause:1\"\n\
             restrict_oom_score_adj = true\ndisable_apparmor = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n",
            root = root.display()
        );
        fs::write(&config, text).expect("a config");
        let log = fs::File::create(root.join("containerd.log")).expect("a log");
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd starts");
        let this = Self { child, socket };
        eventually("containerd answers", || this.ctr(&["version"]).output().is_ok_and(|o| o.status.success())).await;
        for (name, command) in [("pause", r#"["/bin/busybox","sleep","100000"]"#), ("busybox", r#"["/bin/sh"]"#)] {
            let archive = image_archive(root, name, command);
            run(&mut this.ctr(&["images", "import", "--snapshotter", "native", &archive.to_string_lossy()]));
        }
        this
    }

    fn ctr(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket).args(["--namespace", "k8s.io"]).args(args);
        command
    }

    /// The ids of the tasks that exist.
    pub(crate) fn tasks(&self) -> Vec<String> {
        run(&mut self.ctr(&["tasks", "list", "--quiet"])).lines().map(str::to_owned).collect()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Ok(output) = self.ctr(&["tasks", "list", "--quiet"]).output() {
            for id in String::from_utf8_lossy(&output.stdout).lines() {
                // What fails here shows in the test's own assertions.
                let _ = self.ctr(&["tasks", "delete", "--force", id]).output();
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A docker archive of one layer: busybox under its usual names.
fn image_archive(root: &Path, name: &str, command: &str) -> PathBuf {
    let folder = root.join(format!("image-{name}"));
    let bin = folder.join("fs/bin");
    fs::create_dir_all(&bin).expect("a folder");
    fs::create_dir_all(folder.join("fs/etc")).expect("a folder");
    fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox");
    for applet in ["sh", "sleep", "cat", "echo", "test", "ls", "id"] {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).expect("a link");
    }
    run(Command::new("tar").arg("-C").arg(folder.join("fs")).arg("-cf").arg(folder.join("layer.tar")).arg("."));
    let digest = run(Command::new("sha256sum").arg(folder.join("layer.tar")));
    let digest = digest.split(' ').next().expect("a digest");
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Entrypoint":{command},"Env":["PATH=/bin"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}}}}"#
    );
    fs::write(folder.join("config.json"), config).expect("a config");
    let manifest = format!(r#"[{{"Config":"config.json","RepoTags":["test.local/{name}:1"],"Layers":["layer.tar"]}}]"#);
    fs::write(folder.join("manifest.json"), manifest).expect("a manifest");
    let archive = root.join(format!("{name}.tar"));
    let files = ["manifest.json", "config.json", "layer.tar"];
    run(Command::new("tar").arg("-C").arg(&folder).arg("-cf").arg(&archive).args(files));
    archive
}

/// A CA in `ca.pem`, and the certificate of a member of system:masters in `admin.pem`.
pub(crate) fn client_certificates(root: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test CA");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    params.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    let key = KeyPair::generate().expect("a key");
    let admin = params.signed_by(&key, &ca).expect("a certificate");
    fs::write(root.join("ca.pem"), ca.pem()).expect("a file");
    fs::write(root.join("admin.pem"), admin.pem() + &key.serialize_pem()).expect("a file");
}
