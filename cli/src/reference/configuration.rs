//! `docs/configuration.md` and `examples/sanafarm.toml`.

use super::{code, default, holds, meaning, words};
use crate::config;
use crate::config::help;
use crate::config::keys::{SECTIONS, Setting, of_section};

#[test]
fn the_reference_of_the_configuration_is_true() {
    let program = config::program();
    let mut text = include_str!("configuration.head").to_owned();
    for section in SECTIONS {
        text.push_str(&format!("\n## [{}]\n\nRead by {}.\n\n", section, readers(section)));
        text.push_str("| key | what it is | default | variable |\n| --- | --- | --- | --- |\n");
        for setting in of_section(&program, section) {
            text.push_str(&format!(
                "| {} | {} | {} | {} |\n",
                code(&setting.key),
                meaning(&setting.arg),
                if setting.is_switch() { code("false") } else { default(&setting.arg) },
                code(&setting.variable)
            ));
        }
    }
    holds("docs/configuration.md", &text);
}

#[test]
fn the_reference_has_an_example_file() {
    let program = config::program();
    let mut text = String::from(
        "# Every setting of Sanafarm with its default; use it with --config FILE or SANAFARM_CONFIG.\n\
         # docs/configuration.md explains it. An empty value is as good as none.\n",
    );
    for section in SECTIONS {
        text.push_str(&format!("\n# Read by {}.\n[{}]\n", readers(section).replace('`', ""), section));
        for setting in of_section(&program, section) {
            text.push_str(&entry(&setting));
        }
    }
    holds("examples/sanafarm.toml", &text);
}

/// The verbs that read a section.
fn readers(section: &str) -> &'static str {
    match section {
        "coordinator" => "`coordinator`; `token` finds the database there",
        "worker" => "`worker`",
        "render" => "`render`",
        "submit" => "`submit` and `estimate`",
        "client" => "all verbs besides `coordinator`, `worker` and `render`",
        _ => panic!("who reads [{section}]?"),
    }
}

fn entry(setting: &Setting) -> String {
    let (mut help, told) = help::parts(&setting.arg);
    let words: Vec<_> = words(&setting.arg).map(|(word, _)| word).collect();
    if !words.is_empty() {
        help.push_str(&format!(": {}", words.join(", ")));
    }
    if let Some(told) = told {
        help.push_str(&format!(" (default: {told})"));
    }
    let known = setting.arg.get_default_values().first().map(|value| value.to_string_lossy());
    let value = match known {
        _ if setting.is_list() => "[]".to_owned(),
        _ if setting.is_switch() => "false".to_owned(),
        Some(value) => config::literal(setting, &value),
        None => "\"\"".to_owned(),
    };
    format!("# {help}\n#{} = {value}\n", setting.key)
}
