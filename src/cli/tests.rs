//! What README.md says of flags, environment variables and keys, held against the commands as they are.

use std::collections::BTreeSet;

use clap::{Arg, CommandFactory};

use super::*;

/// README.md on one line.
fn readme() -> String {
    let text = include_str!("../../README.md");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What stands between backquotes in the part of README.md that begins and ends with these words.
fn quoted(begin: &str, end: &str) -> BTreeSet<String> {
    let readme = readme();
    let (_, part) = readme.split_once(begin).expect(begin);
    let (part, _) = part.split_once(end).expect(end);
    let quoted = part.split('`').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

/// The commands that do something, by their names, such as `wallet new`.
fn commands() -> Vec<(String, clap::Command)> {
    fn collect(name: &str, command: &clap::Command, all: &mut Vec<(String, clap::Command)>) {
        if !command.has_subcommands() {
            all.push((name.trim().to_owned(), command.clone()));
        }
        for command in command.get_subcommands().filter(|c| c.get_name() != "help") {
            collect(&format!("{name} {}", command.get_name()), command, all);
        }
    }
    let mut cli = Cli::command();
    cli.build();
    let mut all = Vec::new();
    collect("", &cli, &mut all);
    all
}

/// The flags of a command, but for those that clap adds.
fn flags(command: &clap::Command) -> impl Iterator<Item = &Arg> {
    let flags = command
        .get_arguments()
        .filter(|flag| flag.get_long().is_some());
    flags.filter(|flag| !["help", "version"].contains(&flag.get_id().as_str()))
}

fn variable_of(flag: &Arg) -> Option<String> {
    Some(flag.get_env()?.to_str().expect("plain text").to_owned())
}

#[test]
fn every_flag_has_the_variable_that_the_readme_promises() {
    let flag_only = quoted("Flags alone are what is asked of one call:", ", and what");
    let without = quoted(", and what", "have beside");
    let but_for = quoted("have beside", ".");
    assert_eq!(without.len(), 3, "{without:?}");
    let mut seen = BTreeSet::new();
    for (name, command) in commands() {
        let is_without = without.contains(name.split(' ').next().unwrap_or_default());
        for flag in flags(&command) {
            let long = format!("--{}", flag.get_long().unwrap_or_default());
            let expected = match flag_only.contains(&long) {
                true => {
                    seen.insert(long.clone());
                    None
                }
                false if is_without && long != "--log" && !but_for.contains(&long) => None,
                false => Some(format!(
                    "SPINDEX_{}",
                    long.trim_start_matches('-')
                        .replace('-', "_")
                        .to_uppercase()
                )),
            };
            assert_eq!(variable_of(flag), expected, "{long} of {name}");
        }
    }
    assert_eq!(seen, flag_only, "no command has some of them");
}

#[test]
fn every_variable_has_the_key_that_the_readme_promises() {
    let keyless = quoted("Variables without a key are", "and those of");
    let readers = quoted("too (`node_url`), which", "read");
    let common = quoted("read (`scan` takes", "from it)");
    let keys = config::known_keys();
    let mut used = BTreeSet::new();
    for (name, command) in commands() {
        for flag in flags(&command) {
            let Some(variable) = variable_of(flag) else {
                continue;
            };
            let key = flag.get_id().as_str();
            if readers.contains(&name) {
                assert_ne!(
                    keys.contains(key),
                    keyless.contains(&variable),
                    "{key} of {name}"
                );
                used.insert(key.to_owned());
            } else if name == "scan" {
                assert_eq!(keys.contains(key), common.contains(key), "{key} of {name}");
            }
        }
    }
    // The password is never a flag.
    used.insert("rpc_password".to_owned());
    assert!(keys.is_subset(&used), "{keys:?} {used:?}");
    assert_eq!(readers.len(), 5, "{readers:?}");
}

#[test]
fn every_command_of_the_readme_is_one() {
    let names: BTreeSet<String> = commands().into_iter().map(|(name, _)| name).collect();
    let readme = readme();
    let first_words = names.iter().filter_map(|name| name.split(' ').next());
    for name in first_words {
        assert!(readme.contains(&format!("| `spindex {name}` |")), "{name}");
    }
    for row in readme.split("| `spindex ").skip(1) {
        let (name, _) = row.split_once('`').expect("a closing quote");
        assert!(
            names
                .iter()
                .any(|known| known.split(' ').next() == Some(name)),
            "{name}"
        );
    }
}
