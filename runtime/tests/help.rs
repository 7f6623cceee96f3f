//! What people are told about the command line: `--help`, man pages, and shells that complete it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const VERBS: [&str; 17] = [
    "create",
    "start",
    "state",
    "kill",
    "delete",
    "run",
    "exec",
    "list",
    "ps",
    "pause",
    "resume",
    "update",
    "checkpoint",
    "restore",
    "events",
    "spec",
    "features",
];

fn text(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn help(arguments: &[&str]) -> String {
    text(Command::new(env!("CARGO_BIN_EXE_orlop-runtime")).args(arguments).arg("--help").output().unwrap())
}

#[test]
fn every_verb_says_how_it_ends_and_how_it_is_used() {
    let all = help(&[]);
    for verb in VERBS {
        assert!(all.lines().any(|line| line.trim_start().starts_with(&format!("{verb} "))), "{verb}: {all}");
        let own = help(&[verb]);
        for wanted in ["Usage:", "Exit codes:", "Example", &format!("  orlop-runtime {verb} ")] {
            assert!(own.contains(wanted) || verb == "list" || verb == "features", "{verb}: no {wanted:?} in {own}");
        }
        assert_eq!(own, text(Command::new(env!("CARGO_BIN_EXE_orlop-runtime")).args(["help", verb]).output().unwrap()));
    }
}

fn is_flag(line: &str) -> bool {
    // Further in are the texts about flags, which may mention others.
    let (text, indent) = (line.trim_start(), line.len() - line.trim_start().len());
    (2..=6).contains(&indent) && text.starts_with('-')
}

/// Each has a line that begins with it, and then what it does.
#[test]
fn every_flag_is_explained() {
    for verb in VERBS {
        let own = help(&[verb]);
        let lines: Vec<&str> = own.lines().collect();
        for (line, next) in lines.iter().zip(&lines[1..]).filter(|(line, _)| is_flag(line)) {
            assert!(!next.trim().is_empty() && !is_flag(next), "{verb}: {line}");
        }
    }
}

/// The folder with what the example `manual` writes.
fn manual() -> tempfile::TempDir {
    // It is built with all tests, but not when only some are asked for.
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "-p", "orlop-runtime", "--example", "manual"]);
    assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    let program = Path::new(env!("CARGO_BIN_EXE_orlop-runtime")).with_file_name("examples/manual");
    let folder = tempfile::tempdir().unwrap();
    text(Command::new(program).arg(folder.path()).output().unwrap());
    folder
}

#[test]
fn a_man_page_for_each_verb() {
    let folder = manual();
    let pages = folder.path().join("man8");
    let page = |name: &str| std::fs::read_to_string(pages.join(name)).unwrap();
    let first = page("orlop-runtime.8");
    for verb in VERBS {
        assert!(first.contains(&format!("orlop\\-runtime\\-{verb}(8)")), "{verb}");
        let own = page(&format!("orlop-runtime-{verb}.8"));
        for section in [".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS", ".SH \"EXIT STATUS\"", ".SH EXAMPLES"] {
            assert!(own.contains(section), "{verb}: no {section} in {own}");
        }
        assert!(!own.contains("log\\-format"), "{verb}: it has the flags of all verbs");
    }
    assert_eq!(std::fs::read_dir(&pages).unwrap().count(), VERBS.len() + 1);
    if Command::new("groff").arg("--version").output().is_err() {
        return println!("SKIP: groff is not installed; the pages are not set");
    }
    for entry in std::fs::read_dir(&pages).unwrap().flatten() {
        let set = Command::new("groff").args(["-man", "-k", "-Tutf8", "-ww", "-z"]).arg(entry.path()).output().unwrap();
        let said = String::from_utf8_lossy(&set.stderr);
        assert!(set.status.success() && said.is_empty(), "{}: {said}", entry.path().display());
    }
}

#[test]
fn shells_complete_verbs_and_flags() {
    let folder = manual();
    let has = |shell: &str| Command::new(shell).args(["-c", "true"]).status().is_ok_and(|status| status.success());
    let bash: PathBuf = folder.path().join("bash/orlop-runtime.bash");
    let in_bash = |words: &[&str]| -> Vec<String> {
        let script = format!(
            ". {}; words=({}); COMP_WORDS=(\"${{words[@]}}\"); COMP_CWORD={}; \
             function=$(complete -p orlop-runtime | sed 's/.*-F \\([^ ]*\\).*/\\1/'); \
             $function orlop-runtime \"${{words[-1]}}\" \"${{words[-2]}}\"; echo \"${{COMPREPLY[@]}}\"",
            bash.display(),
            words.join(" "),
            words.len() - 1,
        );
        let said = text(Command::new("bash").args(["--norc", "-c", &script]).output().unwrap());
        said.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(in_bash(&["orlop-runtime", "che"]), ["checkpoint"]);
    assert_eq!(in_bash(&["orlop-runtime", "exec", "--ign"]), ["--ignore-paused"]);
    assert_eq!(in_bash(&["orlop-runtime", "list", "--format", "j"]), ["json"]);
    if has("fish") {
        let script = format!(
            "source {}; complete -C 'orlop-runtime restore --lsm-m'",
            folder.path().join("fish/orlop-runtime.fish").display()
        );
        assert!(text(Command::new("fish").args(["-c", &script]).output().unwrap()).contains("--lsm-mount-context"));
    } else {
        println!("SKIP: fish is not installed");
    }
    if has("zsh") {
        let file = folder.path().join("zsh/_orlop-runtime");
        assert!(Command::new("zsh").arg("-n").arg(file).status().unwrap().success());
    } else {
        println!("SKIP: zsh is not installed");
    }
}
