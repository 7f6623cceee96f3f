//! update

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use orlop_runtime::LinuxResources;
use serde_json::{Value, json};

use super::{Context, Failure, too_large};
use crate::log;

#[derive(Debug, clap::Args)]
pub(super) struct Update {
    /// A file with the limits as JSON, as in linux.resources of config.json; - is standard input. The other
    /// limits are ignored then, but for those of Intel RDT, and what the JSON does not give stays as it is
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
    /// The name of the container
    id: String,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
struct Limits {
    /// Weight of block I/O, from 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Period of the hard limit on processor time, in microseconds; 0 for the system's default
    #[arg(long, value_name = "US")]
    cpu_period: Option<u64>,
    /// Processor time in a period, in microseconds; -1 for no limit
    #[arg(long, value_name = "US", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// Unused processor time of earlier periods that may be used in addition, in microseconds
    #[arg(long, value_name = "US")]
    cpu_burst: Option<u64>,
    /// Share of processor time relative to other containers, from 2 to 262144
    #[arg(long, value_name = "SHARES")]
    cpu_share: Option<u64>,
    /// Period of the limit on real-time scheduling, in microseconds (cgroup v1)
    #[arg(long, value_name = "US")]
    cpu_rt_period: Option<u64>,
    /// Real-time processor time in a period, in microseconds (cgroup v1)
    #[arg(long, value_name = "US", allow_negative_numbers = true)]
    cpu_rt_runtime: Option<i64>,
    /// 1 to run only when nothing else wants to, 0 for the usual
    #[arg(long, value_name = "0|1", allow_negative_numbers = true)]
    cpu_idle: Option<i64>,
    /// Processors to use, as in 0-3,5
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use, as in 0-1
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Accepted for compatibility: obsolete and ignored
    #[arg(long, hide = true, value_name = "BYTES", allow_hyphen_values = true)]
    kernel_memory: Option<String>,
    /// Accepted for compatibility: obsolete and ignored
    #[arg(long, hide = true, value_name = "BYTES", allow_hyphen_values = true)]
    kernel_memory_tcp: Option<String>,
    /// Memory, in bytes or as in 512M; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory that is not reclaimed while others have more than theirs
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Memory and swap together; -1 for no limit on swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Processes and threads; -1 for no limit
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Intel RDT schema of the L3 cache, as in L3:0=7f0;1=1f
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Intel RDT schema of memory bandwidth, as in MB:0=20;1=70
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
}

impl Update {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        let given = match &self.resources {
            Some(path) if !path.as_os_str().is_empty() => read(path)?,
            _ => self.limits.resources()?,
        };
        if !given.is_object() {
            return Err("linux.resources: it must be an object".into());
        }
        if ["kernel", "kernelTCP"].iter().any(|knob| !given["memory"][knob].is_null()) {
            log::warning("linux.resources.memory.kernel and kernelTCP are obsolete and ignored");
        }
        let resources: LinuxResources =
            serde_json::from_value(given).map_err(|error| format!("linux.resources: {error}"))?;
        let schema = |line: &Option<String>| line.clone().filter(|line| !line.is_empty());
        let (cache, bandwidth) = (schema(&self.limits.l3_cache_schema), schema(&self.limits.mem_bw_schema));
        if cache.is_some() || bandwidth.is_some() {
            cli.runtime.update_intel_rdt(&self.id, cache.as_deref(), bandwidth.as_deref())?;
        }
        cli.runtime.update(&self.id, &resources)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// One JSON value; what follows it is not looked at.
fn read(path: &Path) -> Result<Value, Failure> {
    let from: Box<dyn Read> = match path.as_os_str().to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(std::fs::File::open(path).map_err(|error| format!("open {}: {error}", path.display()))?),
    };
    let mut limited = from.take(orlop_runtime::MAX_DOCUMENT);
    let first = serde_json::Deserializer::from_reader(&mut limited).into_iter::<Value>().next();
    match first {
        Some(Err(_)) if limited.limit() == 0 => Err(too_large(path)),
        Some(value) => value.map_err(|error| format!("read limits from {}: {error}", path.display()).into()),
        None => Err(format!("read limits from {}: it is empty", path.display()).into()),
    }
}

impl Limits {
    /// What the flags say, as linux.resources says it.
    fn resources(&self) -> Result<Value, Failure> {
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let memory = |flag: &str, size: &Option<String>| -> Result<Option<i64>, Failure> {
            text(size)
                .map(|size| bytes(&size).ok_or_else(|| format!("invalid value for {flag}: {size:?}").into()))
                .transpose()
        };
        let mut all = json!({
            "memory": {
                "limit": memory("memory", &self.memory)?,
                "swap": memory("memory-swap", &self.memory_swap)?,
                "reservation": memory("memory-reservation", &self.memory_reservation)?,
                "kernel": memory("kernel-memory", &self.kernel_memory)?,
                "kernelTCP": memory("kernel-memory-tcp", &self.kernel_memory_tcp)?,
            },
            "cpu": {
                "shares": self.cpu_share,
                "quota": self.cpu_quota,
                "period": self.cpu_period,
                "burst": self.cpu_burst,
                "realtimePeriod": self.cpu_rt_period,
                "realtimeRuntime": self.cpu_rt_runtime,
                "idle": self.cpu_idle,
                "cpus": text(&self.cpuset_cpus),
                "mems": text(&self.cpuset_mems),
            },
            "blockIO": {"weight": self.blkio_weight},
        });
        if let Some(limit) = self.pids_limit {
            all["pids"] = json!({"limit": limit});
        }
        Ok(all)
    }
}

/// A number of bytes as runc reads it: `-1`, or a number with a unit of powers of 1024, as in `1.5g`, `64MiB`.
fn bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if ["", "b"].contains(&unit.as_str()) => 0,
        letter if ["", "b", "ib"].contains(&unit.get(1..)?) => {
            1 + ["k", "m", "g", "t", "p"].iter().position(|known| *known == letter)?
        }
        _ => return None,
    };
    let size = number * 1024_f64.powi(power as i32);
    (size < i64::MAX as f64).then_some(size as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [
            ("0", 0),
            ("-1", -1),
            ("1000", 1000),
            ("1000b", 1000),
            ("2k", 2048),
            ("2 KB", 2048),
            ("1.5m", 1_572_864),
            ("64MiB", 64 << 20),
            ("3G", 3 << 30),
            ("1p", 1 << 50),
        ] {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for odd in ["", "-2", "m", "1x", "1mm", "1bk", "1ib", "1.2.3", "1e3", "nan", "9999999p"] {
            assert_eq!(bytes(odd), None, "{odd}");
        }
    }
}
