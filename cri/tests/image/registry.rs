//! Debian's docker-registry on a free port of the loopback, with its storage in a folder of the test.

use std::fmt::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::build::Layout;
use super::fixture::{run, text};

pub(crate) struct Registry {
    child: Child,
    pub(crate) host: String,
    root: PathBuf,
    log: PathBuf,
}

impl Registry {
    /// Starts a registry; with a user and a password it lets nobody else in.
    pub(crate) fn start(root: PathBuf, login: Option<(&str, &str)>) -> Registry {
        std::fs::create_dir(&root).unwrap();
        let host = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
            root.display()
        );
        if let Some((user, password)) = login {
            let file = root.join("htpasswd");
            std::fs::write(&file, run("htpasswd", &["-Bbn", user, password]).stdout).unwrap();
            let _ = write!(config, "auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display());
        }
        let (path, log) = (root.join("config.yml"), root.join("log"));
        std::fs::write(&path, config).unwrap();
        let output = std::fs::File::create(&log).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", text(&path)])
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Registry { child, host, root, log };
        registry.wait();
        registry
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(&self.host).is_err() {
            assert!(Instant::now() < deadline, "the registry does not listen: {}", self.requests());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Pushes what `build` writes, under `name:tag`, with skopeo. Several platforms go as an index.
    pub(crate) fn push(&self, name: &str, login: Option<&str>, build: impl Fn(&Layout<'_>) -> serde_json::Value) {
        let folder = self.root.join("push");
        let mut layout = Layout::new(&folder);
        let image = build(&layout);
        layout.tag(image, "it");
        layout.finish();
        let (from, to) = (format!("oci:{}:it", folder.display()), format!("docker://{}/{name}", self.host));
        let mut arguments = vec!["--insecure-policy", "copy", "--all", "--dest-tls-verify=false"];
        arguments.extend(login.map(|_| "--dest-creds"));
        arguments.extend(login);
        arguments.extend([from.as_str(), to.as_str()]);
        run("skopeo", &arguments);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    pub(crate) fn requests(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How many requests there were of this method for paths with this part.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        let asked = format!("\"{method} /v2/");
        self.requests().lines().filter(|line| line.contains(&asked) && line.contains(part)).count()
    }

    /// The files of all blobs.
    pub(crate) fn blobs(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.root.join("docker/registry/v2/blobs"), &mut found);
        found
    }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() { walk(&entry.path(), found) } else { found.push(entry.path()) }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
