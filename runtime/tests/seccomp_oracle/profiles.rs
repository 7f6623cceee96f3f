//! Profiles from a seed, and arguments that tell their conditions apart.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::chance::Chance;

const ACTIONS: [&str; 8] = [
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_LOG",
    "SCMP_ACT_ALLOW",
];

pub(crate) const OPERATORS: [&str; 7] =
    ["SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"];

/// A profile of system calls by these names.
pub(crate) fn random(chance: &mut Chance, names: &[String]) -> Value {
    let architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
    let architectures: Vec<&str> = architectures.into_iter().filter(|_| chance.comes(60)).collect();
    // The most names make libseccomp search in a tree, too.
    let count = if chance.comes(30) { chance.below(4) } else { chance.below(40) };
    let mut actions: BTreeMap<String, Value> = BTreeMap::new();
    let (mut rules, mut all_plain) = (Vec::new(), BTreeMap::new());
    for _ in 0..count {
        let mut rule = action(chance, "action", "errnoRet");
        if chance.comes(3) {
            rule = json!({"action": "SCMP_ACT_NOTIFY"});
        }
        let args: Vec<Value> = if chance.comes(40) { arguments_of_rule(chance) } else { Vec::new() };
        let some: Vec<String> = (0..=chance.below(8)).map(|_| chance.one_of(names).clone()).collect();
        // libseccomp 2.5 goes wrong where limits and inequalities meet other conditions on the same call: with
        // a0 < 0 and a0 < 0x1_0000_0005 it does not find 4; and of x86_64 beside x32 it can lose a limit. So those are alone,
        // and equalities share calls.
        let plain = |arg: &Value| ["SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ"].iter().any(|op| arg["op"] == *op);
        let indices: BTreeSet<Option<u64>> = args.iter().map(|arg| arg["index"].as_u64()).collect();
        let is_plain = args.iter().all(plain);
        if !is_plain && (indices.len() < args.len() || architectures.contains(&"SCMP_ARCH_X32")) {
            continue;
        }
        for name in some.into_iter().filter(|name| !["write", "sendmsg", "socketcall", "ipc"].contains(&name.as_str()))
        {
            if !args.is_empty() {
                let others = *all_plain.entry(name.clone()).or_insert(is_plain);
                if actions.contains_key(&name) && !(others && is_plain) {
                    continue;
                }
            }
            // What several rules with conditions do about one call they do alike: see the test of the order.
            let mut rule =
                if args.is_empty() { &rule } else { actions.entry(name.clone()).or_insert(rule.clone()) }.clone();
            rule["names"] = json!([name]);
            rule["args"] = json!(args);
            rules.push(rule);
        }
    }
    let mut profile = action(chance, "defaultAction", "defaultErrnoRet");
    profile["architectures"] = json!(architectures);
    profile["listenerPath"] = json!("/nowhere");
    profile["syscalls"] = json!(rules);
    profile
}

fn action(chance: &mut Chance, field: &str, errno: &str) -> Value {
    let mut action = json!({field: chance.one_of(&ACTIONS)});
    if chance.comes(40) {
        action[errno] = json!([0, 1, 13, 38, 4094][chance.below(5)]);
    }
    action
}

fn arguments_of_rule(chance: &mut Chance) -> Vec<Value> {
    let mut value = || match chance.below(4) {
        0 => chance.next() % 48,
        1 => [u64::MAX, 1 << 32, u64::from(u32::MAX), 1 << 63, 0, (1 << 32) + 1][chance.below(6)],
        2 => chance.next() >> chance.below(64),
        _ => 1 << chance.below(64),
    };
    let values = [(value(), value()), (value(), value()), (value(), value())];
    let made = values.into_iter().take(1 + chance.below(3)).map(|(value, two)| {
        let index = if chance.comes(60) { chance.below(2) } else { chance.below(6) };
        let op = chance.one_of(&OPERATORS);
        json!({"index": index, "op": op, "value": value, "valueTwo": two})
    });
    made.collect()
}

/// Arguments that are equal to, next to, or in one half of what a profile compares with.
pub(crate) fn arguments(profile: &Value, chance: &mut Chance, count: usize) -> Vec<[u64; 6]> {
    let mut of_index: [Vec<u64>; 6] = std::array::from_fn(|_| vec![0, 1, u64::MAX, u64::from(u32::MAX), 1 << 32]);
    // What socketcall and ipc are asked for.
    of_index[0].extend(1..=24);
    for rule in profile["syscalls"].as_array().into_iter().flatten() {
        for arg in rule["args"].as_array().into_iter().flatten() {
            let list = &mut of_index[arg["index"].as_u64().expect("index") as usize];
            let (value, two) = (arg["value"].as_u64().unwrap_or(0), arg["valueTwo"].as_u64().unwrap_or(0));
            let other = chance.next();
            for value in [value, two & value, (two & value) | (other & !value), other & value] {
                list.extend([value, value.wrapping_add(1), value.wrapping_sub(1)]);
                list.extend([value ^ (1 << 32), value & u64::from(u32::MAX), value >> 32, value << 32, !value]);
            }
        }
    }
    (0..count).map(|_| std::array::from_fn(|index| *chance.one_of(&of_index[index]))).collect()
}
