//! Help texts, manual pages, completions, and the document that lists the commands.

use std::process::Command;

use crate::support::process::{run, stdout};

/// The names of the commands, from the help of the program.
fn commands() -> Vec<String> {
    let help = stdout(&run(&["-h"], ""));
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    let name = |line: &str| line.split_whitespace().next().unwrap().to_owned();
    let is_command = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
    let names: Vec<_> = list.lines().filter(is_command).map(name).collect();
    assert!(
        names.len() > 10 && names.contains(&"serve".to_owned()),
        "{names:?}"
    );
    names.into_iter().filter(|name| name != "help").collect()
}

#[test]
fn document_lists_all_commands() {
    let document = include_str!("../../../docs/commands.md");
    let rows = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `chatfiles "));
    let documented: Vec<_> = rows
        .map(|row| row.split(['`', ' ']).next().unwrap().to_owned())
        .collect();
    assert_eq!(documented, commands());
}

#[test]
fn help_shows_own_flags_only() {
    // (command, some flags that it shows, some that it does not show, most lines)
    let all = ["--listen", "--upload-bytes-max", "--log-format", "--exempt"];
    for (command, shown, lines_max) in [
        (
            "token",
            &[
                "--user",
                "--app",
                "--ttl-seconds",
                "--config",
                "--store-path",
            ][..],
            30,
        ),
        (
            "store-token",
            &["--user", "--tenant", "--config", "--store-path"],
            30,
        ),
        ("hash-password", &[], 10),
        ("scrub", &["--config", "--store-path"], 20),
        (
            "rotate-keys",
            &["--overlap-days", "--config", "--store-path"],
            22,
        ),
        (
            "sweep",
            &["--yes", "--config", "--store-path", "--chatfile-days"],
            22,
        ),
        ("completions", &[], 20),
        ("man", &[], 20),
    ] {
        let help = stdout(&run(&[command, "--help"], ""));
        for flag in shown {
            assert!(help.contains(flag), "{command}: {flag} in {help}");
        }
        for flag in all {
            assert!(!help.contains(flag), "{command}: {flag} in {help}");
        }
        if shown.is_empty() {
            assert!(!help.contains("--config"), "{command}: {help}");
        }
        let lines = help.lines().count();
        assert!(lines <= lines_max, "{command}: {lines} lines\n{help}");
    }
    for command in ["serve", "check-config"] {
        let help = stdout(&run(&[command, "--help"], ""));
        for flag in all {
            assert!(help.contains(flag), "{command}: {flag} in {help}");
        }
    }
    let help = stdout(&run(&["--help"], ""));
    assert!(
        help.contains("--listen") && !help.contains("--exempt"),
        "{help}"
    );
    assert!(help.contains("chatfiles serve --help"), "{help}");
}

#[test]
fn hidden_settings_are_accepted() {
    // Also before the command.
    for arguments in [
        &["hash-password", "--log-level", "debug"][..],
        &["--log-level", "debug", "hash-password"],
    ] {
        let hash = stdout(&run(arguments, "correct horse battery\n"));
        assert!(hash.starts_with("$argon2id$"));
    }
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let store = store.to_str().unwrap();
    for arguments in [
        ["--store-path", store, "scrub", "--listen", "1"],
        ["--listen", "1", "scrub", "--store-path", store],
    ] {
        let error = run(&arguments, "");
        let error = String::from_utf8_lossy(&error.stderr).into_owned();
        assert!(error.contains(store), "{error}");
    }
    // A wrong value is an error even where the setting is not used.
    assert_eq!(
        run(&["scrub", "--calls-burst", "many"], "").status.code(),
        Some(2)
    );
}

#[test]
fn prints_manual_pages() {
    let commands = commands();
    let page = stdout(&run(&["man"], ""));
    assert!(page.contains(".TH chatfiles 1"), "{page}");
    for command in &commands {
        assert!(
            page.contains(&format!("chatfiles\\-{}", command.replace('-', "\\-"))),
            "{command}: {page}"
        );
        let own = stdout(&run(&["man", command], ""));
        assert!(own.contains(&format!(".TH chatfiles-{command} 1")), "{own}");
        assert!(own.contains(".SH SYNOPSIS"), "{own}");
    }
    assert!(page.contains("Exit codes"), "{page}");
    let token = stdout(&run(&["man", "token"], ""));
    assert!(
        token.contains("user") && !token.contains("exempt"),
        "{token}"
    );
}

#[test]
fn bash_completes_commands_and_flags() {
    let script = stdout(&run(&["completions", "bash"], ""));
    let complete = |words: &str, current: usize| {
        let test = format!(
            "{script}\nCOMP_WORDS=({words}); COMP_CWORD={current}; _chatfiles chatfiles \"${{COMP_WORDS[{current}]}}\" \
             \"${{COMP_WORDS[{}]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            current - 1
        );
        let output = Command::new("bash").args(["-c", &test]).output().unwrap();
        stdout(&output)
    };
    assert_eq!(complete("chatfiles sto", 1), "store-token");
    assert_eq!(complete("chatfiles token --us", 2), "--user");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&run(&["completions", shell], ""));
        assert!(script.contains("store-token"), "{shell}");
    }
}
