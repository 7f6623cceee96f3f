//! Where messages go: to standard error, or into the file of `--log` in the format of `--log-format`, which is where
//! containerd and podman look for what went wrong; errors go to both.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

/// The formats of the log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// `time="…" level=… msg="…"`
    Text,
    /// One object a line: `{"level":"error","msg":"…","time":"…"}`
    Json,
}

static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    path: PathBuf,
    file: File,
    format: Format,
}

/// Decides where messages go, once. A file that cannot be written to is an error at once: whoever looks there for
/// what went wrong would look in vain.
pub(crate) fn open(path: Option<&Path>, format: Format) -> Result<(), String> {
    let Some(path) = path else { return Ok(()) };
    let opened = OpenOptions::new().append(true).create(true).open(path);
    let file = opened.map_err(|error| format!("open log {}: {error}", path.display()))?;
    let _ = LOG.set(Log { path: path.to_path_buf(), file, format });
    Ok(())
}

pub(crate) fn warning(message: &str) {
    note("warning", message);
}

/// What is of use to who looks for a mistake.
pub(crate) fn debug(message: &str) {
    note("debug", message);
}

/// Into the file alone, if there is one: standard error is the container's, whose output this is not. As runc.
fn note(level: &str, message: &str) {
    match LOG.get() {
        Some(_) => write_to_file(level, message),
        None => write(level, message),
    }
}

pub(crate) fn error(message: &str) {
    write("error", message);
}

fn write(level: &str, message: &str) {
    // In one piece, whatever else is written there. A closed standard error must not change what the command does.
    let _ = std::io::stderr().write_all(format!("orlop-runtime: {level}: {message}\n").as_bytes());
    write_to_file(level, message);
}

/// An error that standard error has already, in another form.
pub(crate) fn error_to_file(message: &str) {
    write_to_file("error", message);
}

fn write_to_file(level: &str, message: &str) {
    let Some(log) = LOG.get() else { return };
    let line = line(log.format, level, message, &orlop_runtime::rfc3339(SystemTime::now()));
    if let Err(error) = (&log.file).write_all(line.as_bytes()) {
        let _ = writeln!(std::io::stderr(), "orlop-runtime: write to log {}: {error}", log.path.display());
    }
}

fn line(format: Format, level: &str, message: &str, time: &str) -> String {
    match format {
        Format::Json => {
            let record = serde_json::json!({"level": level, "msg": message, "time": time});
            format!("{record}\n")
        }
        Format::Text => format!("time={time:?} level={level} msg={message:?}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_each() {
        let json = line(Format::Json, "error", "a \"b\"\nc", "T");
        assert_eq!(json, "{\"level\":\"error\",\"msg\":\"a \\\"b\\\"\\nc\",\"time\":\"T\"}\n");
        assert_eq!(line(Format::Text, "error", "a\nb", "T"), "time=\"T\" level=error msg=\"a\\nb\"\n");
    }
}
