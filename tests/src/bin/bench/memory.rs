//! What the programs of a node hold with idle pods: resident (RSS) and proportional (PSS) memory.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use orlop_tests::programs;

use crate::figures::against;
use crate::scale::REPLICAS;

/// Kibibytes of all processes of one program.
#[derive(Debug, Default)]
struct Held {
    processes: u64,
    resident: u64,
    proportional: u64,
    /// Pages that no other process shares.
    unshared: u64,
}

pub(crate) fn measure() -> Result<()> {
    println!("\n# Memory with {REPLICAS} idle pods (smaps_rollup)");
    let folder = programs::folder()?;
    let mut held: BTreeMap<String, Held> = BTreeMap::new();
    for (pid, name) in programs::running(&folder)? {
        // A process may end while we look.
        let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
        add(held.entry(name).or_default(), &rollup).with_context(|| format!("read the memory of process {pid}"))?;
    }
    for (name, held) in &held {
        println!(
            "{name:<20} x{:<3} RSS {:>8.1} MiB   PSS {:>8.1} MiB   unshared {:>8.1} MiB   unshared each {:>7.1} KiB",
            held.processes,
            held.resident as f64 / 1024.0,
            held.proportional as f64 / 1024.0,
            held.unshared as f64 / 1024.0,
            held.unshared as f64 / held.processes as f64
        );
    }
    let total: u64 = held.values().map(|held| held.proportional).sum();
    against("the stack's proportional memory", total as f64 / 1024.0, "MiB", 80.0);
    Ok(())
}

fn add(held: &mut Held, rollup: &str) -> Result<()> {
    let field = |name: &str| {
        let line = rollup.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}"))?;
        let number = line.split_whitespace().nth(1).with_context(|| format!("no number in {line:?}"))?;
        Ok::<u64, anyhow::Error>(number.parse()?)
    };
    held.processes += 1;
    held.resident += field("Rss:")?;
    held.proportional += field("Pss:")?;
    held.unshared += field("Private_Clean:")? + field("Private_Dirty:")?;
    Ok(())
}
