//! Where errors and warnings go: standard error, and the file of `--log` in the format of `--log-format`,
//! which is where containerd and podman look for what went wrong.

use std::fs::OpenOptions;
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

static FILE: OnceLock<(PathBuf, Format)> = OnceLock::new();

/// Decides where messages go, once.
pub(crate) fn open(file: Option<&Path>, format: Format) {
    if let Some(file) = file {
        let _ = FILE.set((file.to_path_buf(), format));
    }
}

pub(crate) fn warning(message: &str) {
    write("warning", message);
}

pub(crate) fn error(message: &str) {
    write("error", message);
}

fn write(level: &str, message: &str) {
    // A closed standard error must not change what the command does.
    let _ = writeln!(std::io::stderr(), "orlop-runtime: {level}: {message}");
    let Some((path, format)) = FILE.get() else { return };
    let line = line(*format, level, message, &orlop_runtime::rfc3339(SystemTime::now()));
    let opened = OpenOptions::new().append(true).create(true).open(path);
    if let Err(error) = opened.and_then(|mut file| file.write_all(line.as_bytes())) {
        let _ = writeln!(std::io::stderr(), "orlop-runtime: cannot write to the log {}: {error}", path.display());
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
