//! `orlop-hello --listen ADDRESS --root FOLDER` serves the files of a folder over HTTP/1.1, and nothing else.

use std::env;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// A request line longer than this is not one of ours.
const LONGEST_LINE: u64 = 8 * 1024;

fn main() -> ExitCode {
    match arguments().and_then(|(listen, root)| serve(&listen, &root)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("orlop-hello: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> io::Result<(String, PathBuf)> {
    let (mut listen, mut root) = ("[::]:8080".to_owned(), PathBuf::from("/www"));
    let mut args = env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| io::Error::other(format!("{flag} takes a value")))?;
        match flag.as_str() {
            "--listen" => listen = value,
            "--root" => root = value.into(),
            _ => return Err(io::Error::other(format!("unknown flag {flag}; it takes --listen and --root"))),
        }
    }
    Ok((listen, root))
}

fn serve(listen: &str, root: &Path) -> io::Result<()> {
    let listener = TcpListener::bind(listen)
        .map_err(|error| io::Error::new(error.kind(), format!("listen on {listen}: {error}")))?;
    println!("serving {} on {listen}", root.display());
    for stream in listener.incoming() {
        let (stream, root) = (stream?, root.to_owned());
        thread::spawn(move || {
            if let Err(error) = answer(&stream, &root) {
                eprintln!("{error}");
            }
        });
    }
    Ok(())
}

fn answer(mut stream: &TcpStream, root: &Path) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(io::Read::take(stream, LONGEST_LINE)).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|header| !header.is_empty()) {}
    let (status, body) = match page(&request, root) {
        Some(path) => match std::fs::read(path) {
            Ok(body) => ("200 OK", body),
            Err(error) => ("404 Not Found", format!("{error}\n").into_bytes()),
        },
        None => ("400 Bad Request", b"only GET of a file\n".to_vec()),
    };
    println!("{request} -> {status}");
    write!(
        stream,
        "HTTP/1.1 {status}\r\nServer: {}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        hostname(),
        body.len()
    )?;
    stream.write_all(&body)
}

/// The file that a request line asks for; none if it is no plain GET, or leads out of `root`.
fn page(request: &str, root: &Path) -> Option<PathBuf> {
    let mut words = request.split(' ');
    let ("GET", Some(target)) = (words.next()?, words.next()) else { return None };
    let name = target.split('?').next()?.trim_start_matches('/');
    let name = Path::new(if name.is_empty() { "index.html" } else { name });
    name.components().all(|part| matches!(part, Component::Normal(_))).then(|| root.join(name))
}

/// The pod's name, as its UTS namespace tells it.
fn hostname() -> String {
    let mut name = String::new();
    if let Ok(file) = File::open("/proc/sys/kernel/hostname") {
        let _ = BufReader::new(file).read_line(&mut name);
    }
    name.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_stays_below_the_root() {
        let root = Path::new("/www");
        assert_eq!(page("GET / HTTP/1.1", root), Some("/www/index.html".into()));
        assert_eq!(page("GET /a/b.html?x=1 HTTP/1.1", root), Some("/www/a/b.html".into()));
        assert_eq!(page("GET /../etc/passwd HTTP/1.1", root), None);
        assert_eq!(page("GET //etc/passwd HTTP/1.1", root), Some("/www/etc/passwd".into()));
        assert_eq!(page("POST / HTTP/1.1", root), None);
        assert_eq!(page("", root), None);
    }
}
