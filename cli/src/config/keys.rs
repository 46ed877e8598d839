//! Which arguments of the command line are settings: they may also stand in the environment and in a file.
//!
//! The definitions of the command line are the only list of settings. A new option of a server, of `render` or of `submit`
//! is a setting without being named here.

use std::path::Path;

use clap::{Arg, ArgAction, Command};

/// Sections of a file, in the order of the documentation.
pub const SECTIONS: [&str; 5] = ["coordinator", "worker", "render", "submit", "client"];

/// Options that the verbs of people share: where the farm and its files are.
const CLIENT: [&str; 4] = ["coordinator", "data", "cache", "cache_size"];

/// More of them: who asks, wherever a coordinator is asked.
const CREDENTIALS: [&str; 5] = ["token", "token_file", "ca", "cert", "key"];

/// Options that say how one call of the program ends or answers.
const OF_ONE_CALL: [&str; 6] = ["help", "version", "config", "print_config", "json", "dry_run"];

/// Options that say what one job is; the next one is another.
const OF_ONE_JOB: [&str; 7] = ["name", "output", "append", "limit", "after", "after_any", "deadline"];

/// An argument that may stand in the environment and in a file.
#[derive(Clone)]
pub struct Setting {
    /// Where it stands in a file.
    pub section: &'static str,
    /// Its name there: that of the option, with underscores.
    pub key: String,
    /// The variable.
    pub variable: String,
    /// As clap knows it.
    pub arg: Arg,
}

impl Setting {
    /// An argument of a verb, of the command below it to which it belongs.
    pub fn new(verb: &str, command: &Command, arg: &Arg) -> Option<Self> {
        let key = arg.get_long()?.replace('-', "_");
        if arg.is_hide_set() || OF_ONE_CALL.contains(&key.as_str()) {
            return None;
        }
        let section = section(verb, command, &key)?;
        let variable = match arg.get_env() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => format!("SANAFARM_{}", key.to_uppercase()),
        };
        Some(Self { section, key, variable, arg: arg.clone() })
    }

    /// Whether it is on or off and has no value.
    pub fn is_switch(&self) -> bool {
        matches!(self.arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse)
    }

    /// Whether it can have several values.
    pub fn is_list(&self) -> bool {
        matches!(self.arg.get_action(), ArgAction::Append) || self.arg.get_value_delimiter().is_some()
    }

    /// Whether nobody may read it.
    pub fn is_secret(&self) -> bool {
        ["token", "secret", "password", "webhook"].iter().any(|word| self.key.ends_with(word))
    }
}

/// The section in which an option of a verb stands; `None` when it is no setting.
fn section(verb: &str, command: &Command, key: &str) -> Option<&'static str> {
    let own = |name| (!OF_ONE_JOB.contains(&key)).then_some(name);
    let asks = || command.get_arguments().any(|arg| arg.get_long() == Some("coordinator"));
    let client = CLIENT.contains(&key) || (CREDENTIALS.contains(&key) && asks());
    let client = client.then_some("client");
    match verb {
        "coordinator" => Some("coordinator"),
        "worker" => Some("worker"),
        // Tokens are in the database of the coordinator, and the first is made before one is started.
        "token" if ["data", "database"].contains(&key) => Some("coordinator"),
        "render" => own("render"),
        "submit" | "estimate" => client.or_else(|| own("submit")),
        _ => client,
    }
}

/// The settings of a verb, given as the path to it: `["models", "list"]`.
pub fn of_verb(program: &Command, path: &[String]) -> Vec<Setting> {
    let Some((verb, rest)) = path.split_first() else { return Vec::new() };
    let Some(mut command) = program.find_subcommand(verb) else { return Vec::new() };
    let mut settings = settings_of(verb, command);
    for name in rest {
        let Some(inner) = command.find_subcommand(name) else { break };
        command = inner;
        settings.extend(settings_of(verb, command));
    }
    let global = program.get_arguments().filter(|arg| arg.is_global_set());
    settings.extend(global.filter_map(|arg| Setting::new(verb, command, arg)));
    settings
}

/// All settings of a section, in the order of the verbs and their options.
pub fn of_section(program: &Command, section: &str) -> Vec<Setting> {
    let verbs = program.get_subcommands().map(Command::get_name);
    // `submit` has words of its own for what others share: they are told in those of the others.
    let (first, last): (Vec<_>, Vec<_>) = verbs.partition(|verb| section != "client" || *verb != "submit");
    let mut found: Vec<Setting> = Vec::new();
    for setting in first.into_iter().chain(last).flat_map(|verb| all_below(program, &[verb.to_owned()])) {
        if setting.section == section && !found.iter().any(|known| known.key == setting.key) {
            found.push(setting);
        }
    }
    if section == "client" {
        found.sort_by_key(|setting| CLIENT.iter().chain(&CREDENTIALS).position(|key| *key == setting.key));
    }
    found
}

fn all_below(program: &Command, path: &[String]) -> Vec<Setting> {
    let mut settings = of_verb(program, path);
    let here = path.iter().try_fold(program, |command, name| command.find_subcommand(name));
    for inner in here.into_iter().flat_map(Command::get_subcommands) {
        settings.extend(all_below(program, &[path, &[inner.get_name().to_owned()]].concat()));
    }
    settings
}

fn settings_of(verb: &str, command: &Command) -> Vec<Setting> {
    command.get_arguments().filter_map(|arg| Setting::new(verb, command, arg)).collect()
}

/// Where a value comes from, the weakest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// What the program does by itself.
    Default,
    /// A line of a file.
    File {
        /// As the user named it.
        file: String,
        /// From 1.
        line: usize,
    },
    /// A variable.
    Environment(String),
    /// The command line.
    Flag,
}

impl Source {
    /// A line of a file.
    pub fn line(file: &Path, line: usize) -> Self {
        Self::File { file: file.display().to_string(), line }
    }

    /// Whether this wins over another.
    pub fn is_stronger_than(&self, other: &Self) -> bool {
        self.rank() > other.rank()
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::Environment(_) => 2,
            Self::Flag => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn what_is_of_one_call_or_one_job_is_no_setting() {
        let program = config::program();
        let keys = |section| of_section(&program, section).into_iter().map(|s| s.key).collect::<Vec<_>>();
        assert!(keys("coordinator").contains(&"lease_seconds".to_owned()));
        assert!(keys("worker").contains(&"name".to_owned()));
        assert!(keys("client").contains(&"coordinator".to_owned()));
        for (section, key) in
            [("submit", "name"), ("submit", "json"), ("submit", "coordinator"), ("client", "reason")]
        {
            assert!(!keys(section).contains(&key.to_owned()), "[{section}] {key}");
        }
    }

    #[test]
    fn tokens_are_where_the_coordinator_keeps_them() {
        let list = Command::new("list").arg(Arg::new("coordinator").long("coordinator"));
        assert_eq!(section("token", &list, "database"), Some("coordinator"));
        assert_eq!(section("token", &list, "token_file"), Some("client"));
        assert_eq!(section("token", &Command::new("issue"), "key"), None);
    }

    /// What many verbs take says where the farm is or who asks, or it is of one call.
    #[test]
    fn what_the_verbs_of_people_share_is_a_setting() {
        let program = config::program();
        let people =
            || program.get_subcommands().filter(|verb| section(verb.get_name(), verb, "x").is_none());
        let takes = |verb: &Command, long: &str| verb.get_arguments().any(|arg| arg.get_long() == Some(long));
        for long in people().flat_map(Command::get_arguments).filter_map(Arg::get_long) {
            let key = long.replace('-', "_");
            let shared = people().filter(|verb| takes(verb, long)).count() > 5;
            let known = ["json", "reason"].contains(&key.as_str())
                || CLIENT.contains(&key.as_str())
                || CREDENTIALS.contains(&key.as_str());
            assert!(!shared || known, "--{long} is neither in CLIENT or CREDENTIALS nor of one call");
        }
    }

    /// `--token` and `--data` are the same variable for all who have them.
    #[test]
    fn a_variable_is_named_after_its_key() {
        let program = config::program();
        for section in SECTIONS {
            for setting in of_section(&program, section) {
                assert_eq!(setting.variable, format!("SANAFARM_{}", setting.key.to_uppercase()));
            }
        }
    }
}
