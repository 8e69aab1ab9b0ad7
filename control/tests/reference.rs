//! What is made of the grammar: docs/commands.md, man pages, completions.

use std::fs;
use std::path::Path;

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use control::commandline::{DaemonArguments, grammar};
use control::commands::generate;

/// Set it to have docs/commands.md written anew.
const BLESS: &str = "RVS_BLESS";

#[test]
fn the_page_of_commands_is_as_the_grammar_has_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands.md");
    let made = generate::reference(grammar());
    if std::env::var_os(BLESS).is_some() {
        fs::write(&path, &made).unwrap();
    }
    let page = fs::read_to_string(&path).unwrap_or_default();
    let differs = page.lines().zip(made.lines()).find(|(is, should)| is != should);
    assert!(page == made, "docs/commands.md is not up to date; {BLESS}=1 writes it: {differs:?}");
}

#[test]
fn every_command_is_on_the_page_with_its_arguments() {
    let page = generate::reference(grammar());
    for heading in ["## rvsadm top", "### rvsadm show connections", "## rvsadm drain"] {
        assert_eq!(page.lines().filter(|line| *line == heading).count(), 1, "{heading}");
    }
    assert!(
        page.contains("| `--proto PROTO` | Only of this protocol. One of `tcp`, `udp`, `sctp`. |")
    );
    assert!(!page.contains("rvsadm man\n"), "a hidden command");
}

#[test]
fn every_command_has_a_man_page() {
    let directory = std::env::temp_dir().join(format!("rvs-man-{}", std::process::id()));
    generate::man_pages(grammar(), DaemonArguments::command(), &directory).unwrap();
    let page = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    let all = page("rvsadm.8");
    assert!(all.starts_with(".ie \\n(.g .ds Aq") && all.contains(".TH rvsadm 8"), "{all}");
    assert!(page("rvsadm-show-connections.8").contains("\\-\\-client"));
    assert!(page("rvsadm-top.8").contains("\\-\\-interval"));
    assert!(page("rvsd.8").contains("\\-\\-check"));
    assert!(!directory.join("rvsadm-man.8").exists(), "a hidden command");
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn completions_know_commands_and_options() {
    for shell in Shell::value_variants() {
        let mut script = Vec::new();
        generate::completions(grammar(), *shell, &mut script).unwrap();
        let script = String::from_utf8(script).unwrap();
        for word in ["connections", "completions", "client", "interval"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}
