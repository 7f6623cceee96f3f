//! What the server does not serve.

use orlop_cri::streaming::Error;

use crate::backend::{forward, sh, start};
use crate::http::{request, upgrade_to_spdy};

const UPGRADE: [(&str, &str); 2] = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];

async fn status(method: &str, url: &str, headers: &[(&str, &str)]) -> u16 {
    request(method, url, headers).await.unwrap().1.status
}

#[tokio::test]
async fn a_url_is_good_once() {
    let (server, _) = start().await;
    let url = server.exec_url(sh("cat")).unwrap();
    let (_first, answer) = upgrade_to_spdy(&url, &["v4.channel.k8s.io"]).await.unwrap();
    assert_eq!(answer.status, 101);
    let (_, answer) = upgrade_to_spdy(&url, &["v4.channel.k8s.io"]).await.unwrap();
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn urls_that_were_never_given_are_not_found() {
    let (server, _) = start().await;
    let base = format!("http://{}", server.address());
    for path in ["/", "/exec", "/exec/", "/exec/0123456789abcdef0123456789abcdef", "/run/x", "/metrics"] {
        assert_eq!(status("GET", &format!("{base}{path}"), &UPGRADE).await, 404, "{path}");
    }
    let of_another_kind = server.exec_url(sh("cat")).unwrap().replace("/exec/", "/attach/");
    assert_eq!(status("POST", &of_another_kind, &UPGRADE).await, 404);
}

#[tokio::test]
async fn a_wrong_method_or_protocol_is_refused() {
    let (server, _) = start().await;
    let url = || server.exec_url(sh("cat")).unwrap();
    assert_eq!(status("DELETE", &url(), &UPGRADE).await, 405);
    assert_eq!(status("GET", &url(), &[]).await, 400);
    assert_eq!(status("POST", &url(), &UPGRADE).await, 400);
    let (_, answer) = upgrade_to_spdy(&url(), &["portforward.k8s.io"]).await.unwrap();
    assert_eq!(answer.status, 403);
    assert!(answer.header("x-accepted-stream-protocol-versions").contains(&"v4.channel.k8s.io"), "{}", answer.head);
    let (_, answer) =
        upgrade_to_spdy(&server.port_forward_url(forward(&[])).unwrap(), &["v4.channel.k8s.io"]).await.unwrap();
    assert_eq!(answer.status, 403);
}

#[tokio::test]
async fn requests_without_sense_get_no_url() {
    let (server, _) = start().await;
    let mut none = sh("cat");
    (none.stdin, none.stdout, none.stderr) = (false, false, false);
    assert!(matches!(server.exec_url(none), Err(Error::NoStream)));
    let mut both = sh("cat");
    both.tty = true;
    assert!(matches!(server.exec_url(both), Err(Error::TtyWithStderr)));
    let mut nothing = sh("cat");
    nothing.command.clear();
    assert!(matches!(server.exec_url(nothing), Err(Error::NoCommand)));
    let mut nobody = sh("cat");
    nobody.container_id.clear();
    assert!(matches!(server.exec_url(nobody), Err(Error::NoTarget)));
}

/// Bytes that are no SPDY end their session and nothing else.
#[tokio::test]
async fn a_client_that_does_not_speak_spdy_is_dropped() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (server, host) = start().await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x80\x02\0\x01\0\0\0\x10", b"\x80\x03\0\x01\0\0\0\x04abcd"] {
        let (mut stream, _) =
            upgrade_to_spdy(&server.exec_url(sh("cat")).unwrap(), &["v4.channel.k8s.io"]).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert_eq!(host.running(), 0);
    }
    let url = server.exec_url(sh("cat")).unwrap();
    assert_eq!(upgrade_to_spdy(&url, &["v4.channel.k8s.io"]).await.unwrap().1.status, 101);
}
