//! A control plane of a test's own, kubectl against it, and a plain HTTPS client.
#![allow(dead_code, reason = "each test program uses its part")]

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use orlop_control_plane::{Config, ControlPlane};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};

const KUBECTL: &str = "/usr/bin/kubectl";
/// What should happen, happens within this time, or the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A control plane on a free port of loopback, with its state in a folder that goes with it.
pub(crate) struct Cluster {
    pub(crate) control_plane: ControlPlane,
    pub(crate) dir: tempfile::TempDir,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Its standard output; panics unless it succeeded.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// Its standard error; panics if it succeeded.
    pub(crate) fn failed(self) -> String {
        assert_ne!(self.code, 0, "it should have failed: {}", self.stdout);
        self.stderr
    }
}

async fn start(dir: &Path) -> ControlPlane {
    let config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Config::new(dir.join("state")) };
    let control_plane = ControlPlane::start(config).await.unwrap();
    control_plane.write_admin_kubeconfig(&dir.join("admin.kubeconfig")).unwrap();
    control_plane
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { control_plane: start(dir.path()).await, dir }
    }

    /// Stops it and starts it again on the same state.
    pub(crate) async fn restart(self) -> Self {
        self.control_plane.shutdown().await;
        Self { control_plane: start(self.dir.path()).await, dir: self.dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs kubectl with this input.
    pub(crate) async fn kubectl_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(KUBECTL);
        command.args(arguments).env_clear().env("HOME", self.path("home"));
        command.env("KUBECONFIG", self.path("admin.kubeconfig")).env("PATH", "/usr/bin:/bin");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let input = input.to_owned();
        tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            Output {
                code: output.status.code().unwrap_or(-1),
                stdout: String::from_utf8(output.stdout).unwrap(),
                stderr: String::from_utf8(output.stderr).unwrap(),
            }
        })
        .await
        .unwrap()
    }

    /// Runs kubectl; the arguments are separated by spaces.
    pub(crate) async fn kubectl(&self, arguments: &str) -> Output {
        self.kubectl_with(&arguments.split(' ').collect::<Vec<_>>(), "").await
    }

    /// `kubectl apply -f -`.
    pub(crate) async fn apply(&self, manifest: &str) -> Output {
        self.kubectl_with(&["apply", "-f", "-"], manifest).await
    }

    /// Asks until the answer satisfies.
    pub(crate) async fn until(&self, arguments: &str, test: impl Fn(&str) -> bool) -> String {
        let started = std::time::Instant::now();
        loop {
            let output = self.kubectl(arguments).await;
            if output.code == 0 && test(&output.stdout) {
                return output.stdout;
            }
            assert!(started.elapsed() < PATIENCE, "kubectl {arguments}: {output:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A client with every right.
    pub(crate) fn admin(&self) -> Client {
        Client::from_kubeconfig(&self.control_plane, &self.path("admin.kubeconfig"))
    }

    /// A client as the agent on node `name`.
    pub(crate) fn node(&self, name: &str) -> Client {
        let path = self.path(&format!("{name}.kubeconfig"));
        self.control_plane.write_node_kubeconfig(name, &path).unwrap();
        Client::from_kubeconfig(&self.control_plane, &path)
    }

    /// A client that shows nothing, or a token.
    pub(crate) fn stranger(&self, token: Option<&str>) -> Client {
        Client::new(&self.control_plane, None, token.map(str::to_owned))
    }
}

/// Text with every run of spaces as one: the widths of kubectl's columns follow their contents.
pub(crate) fn squeezed(text: &str) -> String {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("\n")
}

/// Says why a test does not run, when there is no kubectl.
pub(crate) fn no_kubectl() -> bool {
    let missing = !Path::new(KUBECTL).exists();
    if missing {
        println!("SKIP: {KUBECTL} is not installed");
    }
    missing
}

/// An HTTPS client that opens a connection for each request.
pub(crate) struct Client {
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    token: Option<String>,
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Client {
    fn from_kubeconfig(control_plane: &ControlPlane, path: &Path) -> Self {
        let config: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let user = &config["users"][0]["user"];
        let pem =
            |field: &str| base64::engine::general_purpose::STANDARD.decode(user[field].as_str().unwrap()).unwrap();
        let certificate = CertificateDer::from_pem_slice(&pem("client-certificate-data")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&pem("client-key-data")).unwrap();
        Self::new(control_plane, Some((vec![certificate], key)), None)
    }

    fn new(control_plane: &ControlPlane, identity: Option<Identity>, token: Option<String>) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(control_plane.ca_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let tls = match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        Self { address: control_plane.local_addr(), tls: Arc::new(tls), token }
    }

    /// A connection on which nothing has been asked.
    pub(crate) async fn connect(&self) -> hyper::client::conn::http1::SendRequest<Full<Bytes>> {
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::from(self.address.ip());
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }

    /// Whether a new connection gets an answer at all.
    pub(crate) async fn is_served(&self) -> bool {
        let request = Request::get("/version").header("host", "test").body(Full::new(Bytes::new())).unwrap();
        self.connect().await.send_request(request).await.is_ok()
    }

    /// Sends a request and returns the response, whose body may go on.
    async fn open(&self, method: Method, path: &str, body: Option<(&str, &Value)>) -> http::Response<Incoming> {
        let mut request = Request::builder().method(method).uri(path).header("host", "test");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut bytes = Bytes::new();
        if let Some((content_type, value)) = body {
            request = request.header("content-type", content_type);
            bytes = Bytes::from(value.to_string());
        }
        self.connect().await.send_request(request.body(Full::new(bytes)).unwrap()).await.unwrap()
    }

    /// Upgrades to SPDY, as far as the bytes that follow the handshake.
    pub(crate) async fn upgrade(&self, path: &str) -> TokioIo<hyper::upgrade::Upgraded> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("host", "test")
            .header("connection", "Upgrade")
            .header("upgrade", "SPDY/3.1")
            .header("x-stream-protocol-version", "v4.channel.k8s.io")
            .body(Full::new(Bytes::new()))
            .unwrap();
        let response = self.connect().await.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
        TokioIo::new(hyper::upgrade::on(response).await.unwrap())
    }

    async fn send(&self, method: Method, path: &str, body: Option<(&str, &Value)>) -> (StatusCode, Value) {
        let response = self.open(method, path, body).await;
        let code = response.status();
        let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.expect("an answer that ends");
        let bytes = body.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes))))
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.send(Method::POST, path, Some(("application/json", body))).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.send(Method::PUT, path, Some(("application/json", body))).await
    }

    pub(crate) async fn patch(&self, kind: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        self.send(Method::PATCH, path, Some((&format!("application/{kind}"), body))).await
    }

    pub(crate) async fn delete(&self, path: &str, options: &Value) -> (StatusCode, Value) {
        self.send(Method::DELETE, path, Some(("application/json", options))).await
    }

    /// Opens a watch.
    pub(crate) async fn watch(&self, path: &str) -> Watch {
        let response = self.open(Method::GET, path, None).await;
        assert_eq!(response.status(), StatusCode::OK);
        Watch { body: response.into_body(), buffer: Vec::new() }
    }
}

/// The events of a watch.
pub(crate) struct Watch {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next event: its type and object.
    pub(crate) async fn next(&mut self) -> (String, Value) {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).unwrap();
                return (event["type"].as_str().unwrap().to_owned(), event["object"].clone());
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time");
            let frame = frame.expect("the watch goes on").unwrap();
            self.buffer.extend_from_slice(frame.data_ref().unwrap());
        }
    }
}

/// A node object, ready to take pods.
pub(crate) fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}})
}

/// A pod with one container.
pub(crate) fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "web:1"}]}})
}

pub(crate) const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: 'web:1', ports: [{containerPort: 80}]}
";
