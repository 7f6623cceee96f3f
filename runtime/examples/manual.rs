//! `manual FOLDER`: writes the man pages of orlop-runtime to FOLDER/man8, and what lets shells complete its command
//! line to FOLDER/{bash,zsh,fish}. Made from the same definition as `--help`, by a program of its own, so that the
//! runtime does not carry it.
#![allow(dead_code)]

#[path = "../src/commands/mod.rs"]
mod commands;
#[path = "../src/log.rs"]
mod log;

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

const NAME: &str = "orlop-runtime";

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).ok_or("usage: manual FOLDER")?;
    for (shell, name) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let file = generate_to(shell, &mut commands::Cli::command(), NAME, folder)?;
        // In bash's, clap_complete 4.6 takes the dash of our name for the border of a verb in one place of two.
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(&file, text.replace("orlop__subcmd__runtime__subcmd__", "orlop__runtime__subcmd__"))?;
    }
    let pages = folder.join("man8");
    std::fs::create_dir_all(&pages)?;
    let command = commands::Cli::command().disable_help_subcommand(true).version(env!("CARGO_PKG_VERSION"));
    // Not built as a whole, a verb is without the flags of all verbs, which are in the first page.
    let verbs: Vec<Command> = command.get_subcommands().cloned().collect();
    write(&pages, NAME, command)?;
    for verb in verbs {
        let (name, typed) = (format!("{NAME}-{}", verb.get_name()), format!("{NAME} {}", verb.get_name()));
        write(&pages, &name, verb.bin_name(typed))?;
    }
    Ok(())
}

fn write(folder: &Path, name: &str, command: Command) -> Result<(), Box<dyn Error>> {
    let closing = command.get_after_long_help().map(ToString::to_string);
    let verbs = command.has_subcommands();
    let source = concat!("orlop-runtime ", env!("CARGO_PKG_VERSION"));
    let page = Man::new(command.after_long_help(None::<&str>)).title(name).section("8").source(source).manual("orlop");
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if verbs {
        page.render_subcommands_section(&mut text)?;
    }
    render_closing(&mut text, closing.as_deref().unwrap_or_default())?;
    let also = if verbs { "runc (8), criu (8)" } else { "orlop\\-runtime (8)" };
    writeln!(text, ".SH \"SEE ALSO\"\n.BR {also}")?;
    Ok(std::fs::write(folder.join(format!("{name}.8")), text)?)
}

/// What follows the options in `--help`: paragraphs, of which the exit codes and the examples are sections.
fn render_closing(text: &mut Vec<u8>, closing: &str) -> std::io::Result<()> {
    for paragraph in closing.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        // A line that begins with a dot or a quote would be a request.
        let plain =
            paragraph.replace('\\', "\\e").replace('-', "\\-").replace("\n.", "\n\\&.").replace("\n'", "\n\\&'");
        if let Some(codes) = plain.strip_prefix("Exit codes: ") {
            let (first, rest) = codes.split_at(codes.chars().next().map_or(0, char::len_utf8));
            writeln!(text, ".SH \"EXIT STATUS\"\n{}{rest}", first.to_uppercase())?;
        } else if let Some((_, lines)) = plain.split_once(":\n").filter(|(title, _)| title.starts_with("Example")) {
            writeln!(text, ".SH EXAMPLES\n.nf\n{lines}\n.fi")?;
        } else {
            writeln!(text, ".SH NOTES\n{plain}")?;
        }
    }
    Ok(())
}
