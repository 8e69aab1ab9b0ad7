//! Completions, man pages and the reference, all out of the grammar.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use super::manual;

/// Writes a shell's completions.
///
/// # Errors
/// Of the output.
pub fn completions(mut grammar: Command, shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut grammar, "rvsadm", &mut script);
    out.write_all(&script)
}

/// Writes the man pages of `rvsadm` and each of its commands into a directory,
/// that of `rvsd` and that of its configuration.
///
/// # Errors
/// Of the file system.
pub fn man_pages(grammar: Command, daemon: Command, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut grammar = without_environment(grammar);
    grammar.build();
    for command in [grammar, daemon] {
        pages(&command, directory)?;
    }
    fs::write(directory.join("rvsd.toml.5"), manual::rvsd_toml())
}

/// The page of a command and those of the commands in it.
fn pages(command: &Command, directory: &Path) -> io::Result<()> {
    // That of a command in a command, `rvsadm-show-drops`, is made by `build`.
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).section("8").render(&mut page)?;
    fs::write(directory.join(format!("{name}.8")), page)?;
    shown(command).try_for_each(|command| pages(command, directory))
}

/// The commands that are for people.
fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help")
}

/// The socket's default must not be what the environment of a build has.
fn without_environment(grammar: Command) -> Command {
    grammar.mut_arg("socket", |socket| socket.hide_env_values(true))
}

/// docs/commands.md.
#[must_use]
pub fn reference(grammar: Command) -> String {
    let mut grammar = without_environment(grammar);
    grammar.build();
    let mut page = String::from(
        "# Commands of rvsadm\n\n\
         RVS's own commands, beside those of ipvsadm (`rvsadm -h`). This page is made of the \
         program's grammar, and a test says when it is not as that has it: \
         `RVS_BLESS=1 cargo test -p control --test reference` writes it anew. \
         `rvsadm help COMMAND` prints the same, `rvsadm man DIRECTORY` writes man pages, \
         `rvsadm completions SHELL` prints completions.\n\n\
         Every command takes `--socket PATH`, the socket of rvsd, which is \
         `/run/rvs/rvsd.sock` unless `RVS_SOCKET` says otherwise. They exit with 0, with 1 when \
         rvsd refuses or cannot be asked, and with 2 when the command line is wrong.\n",
    );
    for command in shown(&grammar) {
        section(&mut page, command, "rvsadm");
    }
    page
}

fn section(page: &mut String, command: &Command, parent: &str) {
    let name = format!("{parent} {}", command.get_name());
    let about = command.get_long_about().or_else(|| command.get_about());
    let about = about.map(ToString::to_string).unwrap_or_default();
    let usage = command.clone().bin_name(&name).render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    let depth = "#".repeat(name.split(' ').count());
    // A string takes everything.
    let _ = write!(page, "\n{depth} {name}\n\n{}\n\n```\n{usage}\n```\n", sentence(&about));
    let own = command.get_arguments().filter(|arg| !arg.is_global_set() && !arg.is_hide_set());
    let rows: Vec<_> = own.filter(|arg| arg.get_id() != "help").map(row).collect();
    if !rows.is_empty() {
        let _ = write!(page, "\n| argument | meaning |\n|---|---|\n{}", rows.concat());
    }
    for inner in shown(command) {
        section(page, inner, &name);
    }
}

/// Comments in the source have no full stop at the end of their first line.
fn sentence(text: &str) -> String {
    let (first, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let stop = if first.ends_with(['.', ':']) { "" } else { "." };
    let rest = if rest.is_empty() { String::new() } else { format!("\n\n{rest}") };
    format!("{first}{stop}{rest}")
}

fn row(arg: &clap::Arg) -> String {
    let values: Vec<_> =
        arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let takes = arg.get_action().takes_values();
    let value = if takes { values.join(" ") } else { String::new() };
    let long = arg.get_long().map(|long| format!("--{long}"));
    let name = match (arg.get_short(), long) {
        (Some(short), Some(long)) => format!("-{short}, {long} {value}"),
        (None, Some(long)) => format!("{long} {value}"),
        (Some(short), None) => format!("-{short} {value}"),
        (None, None) => value,
    };
    let mut meaning = sentence(&arg.get_help().map(ToString::to_string).unwrap_or_default());
    let possible = arg.get_possible_values();
    if takes && !possible.is_empty() {
        let names: Vec<_> =
            possible.iter().map(|value| format!("`{}`", value.get_name())).collect();
        let _ = write!(meaning, " One of {}.", names.join(", "));
    }
    let defaults: Vec<_> = arg.get_default_values().iter().filter_map(|v| v.to_str()).collect();
    if takes && !defaults.concat().is_empty() {
        let _ = write!(meaning, " Default `{}`.", defaults.join(" "));
    }
    format!("| `{}` | {} |\n", name.trim_end(), meaning.replace('|', "\\|"))
}
