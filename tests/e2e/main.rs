//! The whole of orlop, as a person uses it: kubectl and a CRI client against a private node, images from a real
//! registry. One node serves all cases; at the end it is reset, and the host must be as it was.

mod api;
mod configuration;
mod crash;
mod cri;
mod demo;
mod lifecycle;
mod pods;
mod stack;
mod streams;
mod workloads;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use stack::Stack;

/// One case: it gets a namespace of its own.
type Case = (&'static str, fn(&Stack, &stack::Namespace) -> anyhow::Result<()>);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: the node makes namespaces and cgroups, and this is not root");
        return ExitCode::SUCCESS;
    }
    let beside_each_other =
        [workloads::CASES, pods::CASES, configuration::CASES, streams::CASES, lifecycle::CASES, api::CASES];
    // Cases mostly wait for the kernel and for each other's processes, hence more threads than cores.
    arguments.test_threads.get_or_insert(6);
    let mut failed = run(&arguments, &beside_each_other.concat());
    arguments.test_threads = Some(1);
    failed |= run(&arguments, &[cri::CASES, crash::CASES, demo::CASES].concat());
    // Whatever was asked for, what was started is ended.
    arguments.filter = None;
    arguments.exact = false;
    arguments.skip.clear();
    let last = Trial::test("nothing_is_left", || stack::finish().map_err(failure));
    failed |= libtest_mimic::run(&arguments, vec![last]).has_failed();
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run(arguments: &Arguments, cases: &[Case]) -> bool {
    let trials = cases
        .iter()
        .map(|&(name, case)| {
            Trial::test(name, move || {
                let stack = stack::get().map_err(failure)?;
                stack.within_namespace(name, case).map_err(failure)
            })
        })
        .collect();
    libtest_mimic::run(arguments, trials).has_failed()
}

fn failure(error: anyhow::Error) -> Failed {
    Failed::from(format!("{error:#}"))
}
