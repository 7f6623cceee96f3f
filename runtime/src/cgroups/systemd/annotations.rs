//! Properties of the unit that the configuration asks for by annotations `org.systemd.property.NAME`, whose values are
//! in GVariant's text format, as runc takes them.
//!
//! They may come from whoever may write a pod (CVE-2024-3154), and systemd does what a unit says as root. So what makes
//! it run a program, or start, stop or change anything but this unit, is refused.

use std::collections::HashMap;

use super::gvariant;
use super::wire::Value;
use crate::error::Error;

const PREFIX: &str = "org.systemd.property.";

/// What decides which unit it is, and whose processes are in it.
const OURS: [&str; 6] = ["Slice", "PIDs", "PIDFDs", "Controller", "Delegate", "Names"];

/// Dependencies that make systemd start or stop other units with this one, or act on their namespaces.
const OTHERS: [&str; 15] = [
    "Wants",
    "Requires",
    "Requisite",
    "BindsTo",
    "Upholds",
    "Conflicts",
    "OnFailure",
    "OnFailureJobMode",
    "OnSuccess",
    "OnSuccessJobMode",
    "RequiresMountsFor",
    "WantsMountsFor",
    "JoinsNamespaceOf",
    "RebootArgument",
    "ConsistsOf",
];

/// The properties that annotations ask for, by name.
pub(super) fn properties(annotations: &HashMap<String, String>) -> Result<Vec<(String, Value)>, Error> {
    let mut wanted: Vec<_> =
        annotations.iter().filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value))).collect();
    wanted.sort_unstable();
    wanted
        .into_iter()
        .map(|(name, text)| {
            let invalid =
                |reason: &str| Error::invalid(format!("annotations[{:?}]", format!("{PREFIX}{name}")), reason);
            check(name).map_err(invalid)?;
            let value = gvariant::parse(text).map_err(|reason| invalid(&format!("{text:?}: {reason}")))?;
            in_microseconds(name, value).map_err(invalid)
        })
        .collect()
}

fn check(name: &str) -> Result<(), &'static str> {
    let acts = name.starts_with("Exec")
        || name.ends_with("Action")
        || name.ends_with("By")
        || name.starts_with("Propagates")
        || name.starts_with("StopPropagated")
        || name.starts_with("ReloadPropagated")
        || name.starts_with("Trigger");
    if name.len() < 3 || !name.bytes().all(|letter| letter.is_ascii_alphabetic()) {
        Err("it is not the name of a property: at least three letters, and nothing but letters")
    } else if OURS.contains(&name) {
        Err("it is the runtime's to set")
    } else if acts || OTHERS.contains(&name) {
        Err("it would have systemd run a program or act on other units")
    } else {
        Ok(())
    }
}

/// Times that are documented in seconds, as in TimeoutStopSec, have in D-Bus a name for microseconds.
fn in_microseconds(name: &str, value: Value) -> Result<(String, Value), &'static str> {
    let Some(stem) = name.strip_suffix("Sec").filter(|stem| stem.ends_with(|end: char| end.is_ascii_lowercase()))
    else {
        return Ok((name.to_owned(), value));
    };
    let whole = |seconds: Option<u64>| seconds.and_then(|seconds| seconds.checked_mul(1_000_000));
    let time = match value {
        Value::Byte(seconds) => whole(Some(seconds.into())),
        Value::I16(seconds) => whole(seconds.try_into().ok()),
        Value::U16(seconds) => whole(Some(seconds.into())),
        Value::I32(seconds) => whole(seconds.try_into().ok()),
        Value::U32(seconds) => whole(Some(seconds.into())),
        Value::I64(seconds) => whole(seconds.try_into().ok()),
        Value::U64(seconds) => whole(Some(seconds)),
        Value::Double(seconds) if (0.0..1e12).contains(&seconds) => Some((seconds * 1e6) as u64),
        _ => None,
    };
    let time = time.ok_or("a time in seconds is a number that is not negative")?;
    Ok((format!("{stem}USec"), Value::U64(time)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> Result<(String, Value), Error> {
        let all = HashMap::from([(format!("{PREFIX}{name}"), value.to_owned()), ("a".into(), "b".into())]);
        properties(&all).map(|mut all| all.remove(0))
    }

    #[test]
    fn properties_by_annotation() {
        let is = |name: &str, text: &str, known: &str, value: Value| {
            assert_eq!(one(name, text).ok(), Some((known.to_owned(), value)), "{name}={text}");
        };
        is("CollectMode", "'inactive-or-failed'", "CollectMode", Value::str("inactive-or-failed"));
        is("TimeoutStopUSec", "uint64 7", "TimeoutStopUSec", Value::U64(7));
        is("TimeoutStopSec", "2", "TimeoutStopUSec", Value::U64(2_000_000));
        is("TimeoutStopSec", "1.5", "TimeoutStopUSec", Value::U64(1_500_000));
        is("After", "['crio.service']", "After", Value::Array("s".into(), vec![Value::str("crio.service")]));
    }

    #[test]
    fn what_acts_on_the_host_is_refused() {
        for name in [
            "ExecStart",
            "ExecStopPost",
            "SuccessAction",
            "FailureAction",
            "JobTimeoutAction",
            "StartLimitAction",
            "RebootArgument",
            "OnFailure",
            "Wants",
            "WantedBy",
            "Conflicts",
            "PropagatesStopTo",
            "Slice",
            "PIDs",
            "a",
            "",
            "Cpu.Weight",
            "CPUWeight\u{0}",
            "Kelvin\u{212a}",
        ] {
            let error = one(name, "'poweroff-force'").expect_err(name).to_string();
            assert!(error.contains("annotations[\"org.systemd.property."), "{error}");
        }
        assert!(one("TimeoutStopSec", "-1").is_err());
        assert!(one("TimeoutStopSec", "'1'").is_err());
        assert!(one("TimeoutStopSec", "uint64 18446744073709551615").is_err());
    }
}
