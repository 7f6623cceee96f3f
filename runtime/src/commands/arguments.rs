//! The arguments as runc's own parser, Go's, takes them: long names after one dash, truth values after `=`, empty
//! values that mean none, and nothing after a container's name that is not the program's.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};

use super::say;
use crate::log::{self, Format};

/// Rewrites arguments to what clap understands.
pub(super) fn rewrite(cli: &Command, given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut given = given.peekable();
    let mut rewritten: Vec<OsString> = given.next().into_iter().collect();
    let mut verb: Option<&Command> = None;
    while let Some(argument) = given.next() {
        if argument == "--" {
            rewritten.push(argument);
            break;
        }
        let bytes = argument.as_bytes();
        if bytes.len() < 2 || bytes[0] != b'-' {
            rewritten.push(argument);
            match verb {
                None => match rewritten.last().and_then(|name| cli.find_subcommand(name)) {
                    Some(found) => verb = Some(found),
                    None => break,
                },
                Some(verb) if verb.get_positionals().any(Arg::is_trailing_var_arg_set) => {
                    if given.peek().is_some_and(|next| next != "--") {
                        rewritten.push("--".into());
                    }
                    break;
                }
                Some(_) => (),
            }
            continue;
        }
        let dashes = if bytes[1] == b'-' { 2 } else { 1 };
        let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) if at >= dashes => (&bytes[dashes..at], Some(&bytes[at + 1..])),
            _ => (&bytes[dashes.min(bytes.len())..], None),
        };
        let Some(option) = find(cli, verb, name) else {
            rewritten.push(argument);
            continue;
        };
        let flag = if name.len() > 1 { [b"--", name].concat() } else { [b"-", name].concat() };
        if !option.get_action().takes_values() {
            match value.map(truth) {
                None | Some(Some(true)) => rewritten.push(OsString::from_vec(flag)),
                Some(Some(false)) => (),
                // Not a truth value: for clap to take or to complain about.
                Some(None) => rewritten.push(OsString::from_vec([&flag, &bytes[dashes + name.len()..]].concat())),
            }
            continue;
        }
        let optional = option.get_num_args().is_some_and(|count| count.min_values() == 0);
        let value = match value {
            Some(value) => Some(OsString::from_vec(value.to_vec())),
            // Before the verb it has one, after it, it is another flag of this name, without.
            None if optional && verb.is_some() => None,
            None => given.next(),
        };
        let many = matches!(option.get_action(), ArgAction::Append);
        if many || value.as_ref().is_none_or(|value| !value.is_empty()) {
            // In one, so that a value which begins with a dash is none the less a value.
            let equals = value.map(|value| [b"=", value.as_bytes()].concat()).unwrap_or_default();
            rewritten.push(OsString::from_vec([flag, equals].concat()));
        }
    }
    rewritten.extend(given);
    rewritten
}

/// The option of this name, long or of one letter, of the verb or of all.
fn find<'a>(cli: &'a Command, verb: Option<&'a Command>, name: &[u8]) -> Option<&'a Arg> {
    let name = std::str::from_utf8(name).ok()?;
    let is = |option: &&Arg| {
        let mut letters = name.chars();
        match (letters.next(), letters.next()) {
            (letter, None) => letter.is_some() && option.get_short() == letter,
            _ => option.get_long() == Some(name) || option.get_all_aliases().is_some_and(|all| all.contains(&name)),
        }
    };
    let options = |command: &'a Command| command.get_arguments().find(is);
    verb.and_then(options).or_else(|| options(cli))
}

/// What Go takes for true and false.
fn truth(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Some(true),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Some(false),
        _ => None,
    }
}

/// Tells what is wrong with the arguments, or what was asked for about them; the exit code is runc's.
pub(super) fn complain(error: &clap::Error, given: &[OsString]) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            return 0;
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = say(error.render().to_string().trim_end_matches('\n'));
            return 0;
        }
        _ => (),
    }
    // Whoever gave a log looks for all errors there.
    if let Some(file) = value_of(given, "log") {
        let json = value_of(given, "log-format").is_some_and(|format| format == "json");
        let _ = log::open(Some(&PathBuf::from(file)), if json { Format::Json } else { Format::Text });
    }
    let text = error.render().to_string();
    log::error_to_file(text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: "));
    let _ = error.print();
    if error.kind() == ErrorKind::InvalidSubcommand { 3 } else { 1 }
}

/// The value of an option of arguments that could not be understood.
fn value_of<'a>(given: &'a [OsString], name: &str) -> Option<&'a std::ffi::OsStr> {
    let flag = format!("--{name}=");
    given.iter().find_map(|argument| argument.as_bytes().strip_prefix(flag.as_bytes()).map(std::ffi::OsStr::from_bytes))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[track_caller]
    fn check(given: &str, wanted: &str) {
        let mut cli = super::super::Cli::command();
        cli.build();
        let words = |text: &str| text.split(' ').map(|word| OsString::from(word.replace('_', ""))).collect::<Vec<_>>();
        assert_eq!(rewrite(&cli, words(given).into_iter()), words(wanted));
    }

    #[test]
    fn as_go_takes_them() {
        check("r -root /x state a", "r --root=/x state a");
        check("r --log-format json list -q", "r --log-format=json list -q");
        check("r run -detach -bundle=/b a", "r run --detach --bundle=/b a");
        check("r run --detach=true --keep=false a", "r run --detach a");
        check("r run --keep=maybe a", "r run --keep=maybe a");
        check("r run --pid-file _ --console-socket= a", "r run a");
        check("r run --nosuch --pid-file", "r run --nosuch --pid-file");
        check("r --rootless true list", "r --rootless=true list");
        check("r -rootless=auto spec -rootless", "r --rootless=auto spec --rootless");
        check("r update --cpu-quota -1 a", "r update --cpu-quota=-1 a");
    }

    #[test]
    fn a_program_keeps_its_arguments() {
        check("r exec -t a sh -detach", "r exec -t a -- sh -detach");
        check("r exec -e A=b a -- sh", "r exec -e=A=b a -- sh");
        check("r exec -e _ a -p", "r exec -e= a -- -p");
        check("r exec a", "r exec a");
        check("r exec -- a sh -t", "r exec -- a sh -t");
        check("r ps -f json a -ef", "r ps -f=json a -- -ef");
    }
}
