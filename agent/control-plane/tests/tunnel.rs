//! Streams pass through to the kubelet of the pod's node and to nobody else. The kubelet's side is a TLS server that
//! tells what it was asked and returns what it is sent; a whole agent is behind it in the end-to-end tests.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use common::{Cluster, node, pod};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use orlop_control_plane::CertificateAndKey;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    if !request.headers().contains_key("upgrade") {
        return Ok(Response::new(Full::new(Bytes::from(request.uri().to_string()))));
    }
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for name in ["upgrade", "connection", "x-stream-protocol-version"] {
        response.headers_mut().insert(name, request.headers()[name].clone());
    }
    let path = request.uri().to_string();
    tokio::spawn(async move {
        let mut stream = TokioIo::new(hyper::upgrade::on(&mut request).await.unwrap());
        stream.write_all(format!("{path}\n").as_bytes()).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    Ok(response)
}

/// Starts the kubelet's side with this certificate; it lets in only clients of the cluster's CA.
async fn kubelet(cluster: &Cluster, serving: &CertificateAndKey) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(cluster.control_plane.ca_pem().as_bytes()).unwrap()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(serving.certificate_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(serving.key_pem.as_bytes()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust the certificate hangs up.
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = hyper::service::service_fn(answer);
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection.with_upgrades());
        }
    });
    address
}

/// A cluster with a pod `p` on a node whose kubelet is at `address`.
async fn place(cluster: &Cluster, address: SocketAddr) {
    let mut node = node("n1");
    node["status"]["addresses"] = json!([{"type": "InternalIP", "address": address.ip().to_string()}]);
    node["status"]["daemonEndpoints"] = json!({"kubeletEndpoint": {"Port": address.port()}});
    assert_eq!(cluster.admin().post("/api/v1/nodes", &node).await.0, StatusCode::CREATED);
    let mut pod = pod("p");
    pod["spec"]["nodeName"] = json!("n1");
    assert_eq!(cluster.admin().post("/api/v1/namespaces/default/pods", &pod).await.0, StatusCode::CREATED);
}

const POD: &str = "/api/v1/namespaces/default/pods/p";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_and_upgraded_streams_reach_the_kubelet_by_its_own_paths() {
    let cluster = Cluster::start().await;
    let serving = cluster.control_plane.issue_kubelet_serving("n1", &["127.0.0.1".to_owned()]).unwrap();
    place(&cluster, kubelet(&cluster, &serving).await).await;
    let admin = cluster.admin();
    let (code, asked) = admin.get(&format!("{POD}/log?tailLines=3&follow=true&pretty=1")).await;
    assert_eq!((code, asked), (StatusCode::OK, json!("/containerLogs/default/p/c?follow=true&tailLines=3")));
    let (code, status) = admin.get(&format!("{POD}/log?container=x")).await;
    assert_eq!((code, &status["message"]), (StatusCode::BAD_REQUEST, &json!("container x is not valid for pod p")));
    let (code, _) = admin.get(&format!("{POD}/exec?command=sh&stdout=1")).await;
    assert_eq!(code, StatusCode::BAD_REQUEST, "without an upgrade there is nothing to stream on");

    let mut stream =
        admin.upgrade(&format!("{POD}/exec?command=sh&command=-c&command=a%20b&stdin=true&stdout=true")).await;
    stream.write_all(b"ping").await.unwrap();
    let expected = "/exec/default/p/c?input=1&output=1&command=sh&command=-c&command=a%20b\nping";
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubelet_with_another_certificate_is_not_talked_to() {
    let cluster = Cluster::start().await;
    // Of the right CA, but for another address.
    let serving = cluster.control_plane.issue_kubelet_serving("n1", &["192.0.2.1".to_owned()]).unwrap();
    place(&cluster, kubelet(&cluster, &serving).await).await;
    let (code, status): (StatusCode, Value) = cluster.admin().get(&format!("{POD}/log")).await;
    assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(status["message"].as_str().unwrap().contains("certificate"), "{status}");
}
