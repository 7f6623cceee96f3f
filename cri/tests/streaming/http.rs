//! The HTTP/1.1 request that asks for an upgrade, by hand.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
}

impl Answer {
    /// The values of a header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        let pairs = self.head.lines().filter_map(|line| line.split_once(": "));
        pairs.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }
}

/// Sends a request to `url` and reads the head of the answer.
pub(crate) async fn request(method: &str, url: &str, headers: &[(&str, &str)]) -> io::Result<(TcpStream, Answer)> {
    let (authority, path) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .ok_or_else(|| io::Error::other(format!("{url} is not an http URL")))?;
    let mut stream = TcpStream::connect(authority).await?;
    let mut text = format!("{method} /{path} HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 0\r\n");
    for (name, value) in headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    stream.write_all(format!("{text}\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).map_err(io::Error::other)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((stream, Answer { status: status.ok_or_else(|| io::Error::other(head.clone()))?, head }))
}

/// Asks for SPDY with `protocols`.
pub(crate) async fn upgrade_to_spdy(url: &str, protocols: &[&str]) -> io::Result<(TcpStream, Answer)> {
    let mut headers = vec![("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];
    headers.extend(protocols.iter().map(|protocol| ("X-Stream-Protocol-Version", *protocol)));
    request("POST", url, &headers).await
}
