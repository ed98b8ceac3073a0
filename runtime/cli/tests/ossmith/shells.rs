//! Completions as a shell uses them, and manual pages as `man` finds them.

use std::process::Command;

use super::common::{Folder, ossmith};

/// What the command prints.
fn printed(args: &[&str]) -> String {
    let output = ossmith(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that `ossmith help` lists.
fn commands() -> Vec<String> {
    let help = printed(&["--help"]);
    let listed = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    // Names are indented by two blanks, what follows of their text by more.
    let names = listed.lines().filter_map(|line| line.strip_prefix("  "));
    let names: Vec<String> = names
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .filter(|name| name != "help")
        .collect();
    assert!(names.len() > 15 && names.iter().any(|name| name == "serve"), "{names:?}");
    names
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let folder = Folder::empty();
    let script = folder.write("ossmith.bash", &printed(&["completions", "bash"]));
    let complete = |words: &[&str]| -> Vec<String> {
        // What bash does when the tab key is pressed after these words.
        let last = words.len() - 1;
        let text = format!(
            "source '{script}'; COMP_WORDS=({}); COMP_CWORD={last}; \
             _ossmith ossmith '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
            words[last],
            words[last - 1],
        );
        // A locale that the machine lacks is a warning, and so is a script that BASH_ENV names and that is not there.
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", &text]).env("LC_ALL", "C").env_remove("BASH_ENV");
        let output = bash.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{words:?}: {errors}");
        String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
    };
    let first = complete(&["ossmith", ""]);
    for name in commands() {
        assert!(first.contains(&name), "{name} is not among {first:?}");
    }
    assert!(first.iter().all(|word| word != "grammar-helper"), "it is hidden: {first:?}");
    assert_eq!(complete(&["ossmith", "ser"]), ["serve"]);
    assert_eq!(complete(&["ossmith", "kernels", "comp"]), ["compile"]);
    assert_eq!(complete(&["ossmith", "serve", "--tensor-par"]), ["--tensor-parallel-size"]);
    assert_eq!(complete(&["ossmith", "completions", "fi"]), ["fish"]);
}

#[test]
fn each_shell_has_a_script() {
    for (shell, mark) in [
        ("bash", "complete -F _ossmith"),
        ("zsh", "#compdef ossmith"),
        ("fish", "complete -c ossmith"),
        ("elvish", "edit:completion:arg-completer[ossmith]"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let script = printed(&["completions", shell]);
        assert!(script.contains(mark) && script.contains("tensor-parallel-size"), "{shell}");
    }
    let output = ossmith(&["completions", "tcsh"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("possible values: bash"));
}

#[test]
fn each_command_has_a_manual_page() {
    let folder = Folder::empty();
    let pages = folder.path("man/man1");
    printed(&["man", &pages]);
    let page = |name: &str| {
        let path = format!("{pages}/{name}.1");
        std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{path}: {why}"))
    };
    let first = page("ossmith");
    assert!(first.starts_with(".ie") && first.contains(".TH ossmith 1"), "{first}");
    for name in commands() {
        let text = page(&format!("ossmith-{name}"));
        assert!(text.contains(".SH OPTIONS") && text.contains(".SH SYNOPSIS"), "{name}");
        let listed = format!("ossmith-{name}(1)").replace('-', "\\-");
        assert!(first.contains(&listed), "{name} is not named in ossmith.1");
    }
    assert!(page("ossmith-serve").contains("\\-\\-tensor\\-parallel\\-size"));
    page("ossmith-kernels-compile");
    let helper = format!("{pages}/ossmith-grammar-helper.1");
    assert!(!std::path::Path::new(&helper).exists(), "it is hidden");
}
