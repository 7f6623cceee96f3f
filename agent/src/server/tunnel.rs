//! Passing an upgraded connection (SPDY or WebSocket) to the runtime's streaming server, byte for byte.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Body, text};

/// Sends the request to `url` and joins the two connections once both sides agreed to upgrade.
pub(super) async fn to(url: &str, request: Request<Incoming>) -> Response<Body> {
    match connect(url, request).await {
        Ok(response) => response,
        Err(message) => text(StatusCode::BAD_GATEWAY, format!("the runtime's streaming server {url}: {message}")),
    }
}

async fn connect(url: &str, mut request: Request<Incoming>) -> Result<Response<Body>, String> {
    let uri: Uri = url.parse().map_err(|e| format!("not a URL: {e}"))?;
    let authority = uri.authority().ok_or("the URL has no host")?.clone();
    if uri.scheme_str() != Some("http") {
        return Err("only http is spoken to a runtime on this host".to_owned());
    }
    let host = authority.host().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80)));
    let stream = stream.await.map_err(|e| e.to_string())?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
    tokio::spawn(connection.with_upgrades());

    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut onward = Request::new(Empty::<Bytes>::new());
    *onward.method_mut() = request.method().clone();
    *onward.uri_mut() = path.parse().map_err(|e| format!("not a path: {e}"))?;
    *onward.headers_mut() = request.headers().clone();
    let headers = onward.headers_mut();
    // The client's credentials are ours to check, not the runtime's to know.
    headers.remove(header::AUTHORIZATION);
    headers.remove(header::CONTENT_LENGTH);
    let value = HeaderValue::try_from(authority.as_str()).map_err(|e| e.to_string())?;
    headers.insert(header::HOST, value);

    let mut answer = sender.send_request(onward).await.map_err(|e| e.to_string())?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer.map(|body| BodyExt::boxed(body.map_err(std::io::Error::other))));
    }
    let mut response = Response::new(super::full(Bytes::new()));
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    let client = hyper::upgrade::on(&mut request);
    let runtime = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        match tokio::try_join!(client, runtime) {
            Ok((client, runtime)) => {
                let (mut client, mut runtime) = (TokioIo::new(client), TokioIo::new(runtime));
                // Either side may just go away; that is how streams end.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut runtime).await;
            }
            Err(error) => tracing::debug!(%error, "upgrading a stream"),
        }
    });
    Ok(response)
}
