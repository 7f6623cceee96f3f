//! What the guest's `run-job` writes: per program a line `NUMBER CODE STDOUT-BYTES STDERR-BYTES`, then those bytes.

use anyhow::{Context, Result, ensure};

use crate::command::Outcome;

/// The outcomes that are there in full, of the programs from number `first` on. A guest that died leaves the last one cut
/// off.
pub(super) fn parse(mut bytes: &[u8], first: usize) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
        let line = String::from_utf8_lossy(&bytes[..end]);
        let what = || format!("{line:?} of the guest's results");
        let numbers = line.split(' ').map(str::parse).collect::<Result<Vec<usize>, _>>().with_context(what)?;
        let &[number, code, stdout, stderr] = &*numbers else { anyhow::bail!("not four numbers: {}", what()) };
        let wanted = first + outcomes.len();
        ensure!(number == wanted, "wanted program {wanted}: {}", what());
        let rest = &bytes[end + 1..];
        let Some((out, rest)) = rest.split_at_checked(stdout) else { break };
        let Some((err, rest)) = rest.split_at_checked(stderr) else { break };
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        outcomes.push(Outcome { code: i32::try_from(code)?, stdout: text(out), stderr: text(err) });
        bytes = rest;
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn outcomes_are_framed_by_length() {
        let outcomes = parse(b"000 0 3 0\na\nb001 7 0 2\n\nx", 0).unwrap();
        let told: Vec<_> = outcomes.iter().map(|o| (o.code, o.stdout.as_str(), o.stderr.as_str())).collect();
        assert_eq!(told, [(0, "a\nb", ""), (7, "", "\nx")]);
    }

    #[test]
    fn the_last_may_be_cut_off() {
        assert_eq!(parse(b"000 0 1 0\na001 0 100 0\nabc", 0).unwrap().len(), 1);
        assert!(parse(b"000 0 1 0\na002 0 0 0\n", 0).is_err());
        assert!(parse(b"000 0 1\na", 0).is_err());
        assert!(parse(b"003 0 1 0\na", 3).is_ok() && parse(b"003 0 1 0\na", 0).is_err());
    }
}
