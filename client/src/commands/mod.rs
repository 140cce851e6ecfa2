//! One file per command: what it takes, and what it does.

mod cancel;
mod completions;
#[cfg(feature = "local")]
mod demo;
mod doctor;
mod fetch;
mod global;
mod inspect;
mod job;
mod job_flags;
mod jobs;
#[cfg(feature = "local")]
mod local_session;
mod logs;
mod man;
mod movie;
mod nodes;
mod render;
#[cfg(feature = "local")]
mod renderer;
mod retry;
#[cfg(feature = "local")]
mod scratch;
mod submit;
#[cfg(feature = "local")]
mod up;
mod watch;

use clap::{
    ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, error::ErrorKind,
    parser::ValueSource,
};

use self::global::Global;
use crate::console::{Exit, Failure};

/// Renders Blender projects on a crew of machines and shows every frame as it happens.
#[derive(Debug, Parser)]
#[command(
    name = "framecrew",
    version,
    propagate_version = true,
    after_help = "\
Examples:
  framecrew demo                                    see it work, from nothing
  framecrew up                                      a cluster on this machine
  framecrew render shot.blend -f 1-250 -o frames    render on it
  framecrew watch 7                                 come back to job 7
  framecrew retry 7                                 render what failed of it once more

Exit codes: 0 all frames, 1 the job failed, 2 usage, 3 unreachable or busy, 4 not allowed, 5 cancelled, 130 interrupted."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Render(Box<render::Render>),
    Watch(watch::Watch),
    Jobs(jobs::Jobs),
    Job(job::Job),
    Fetch(fetch::Fetch),
    Retry(retry::Retry),
    Cancel(cancel::Cancel),
    Logs(logs::Logs),
    Nodes(nodes::Nodes),
    Inspect(inspect::Inspect),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
    Man(man::Man),
    #[cfg(feature = "local")]
    Up(up::Up),
    #[cfg(feature = "local")]
    Demo(demo::Demo),
}

/// Reads the command line; ends the process where it cannot be used, or asks for help.
pub(crate) fn parse() -> Cli {
    let matches = Cli::command().get_matches();
    if let Some(fault) = contradiction(&matches) {
        Cli::command().error(ErrorKind::ArgumentConflict, fault).exit();
    }
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// What was typed in vain. Only what was typed: the environment is there for other commands too.
fn contradiction(matches: &ArgMatches) -> Option<&'static str> {
    let (command, matches) = matches.subcommand()?;
    let typed = |flag| matches.value_source(flag) == Some(ValueSource::CommandLine);
    if command == "fetch" {
        let both = typed("movie") && (typed("output") || typed("frames"));
        return both.then_some("--movie brings the movie alone, into that file; drop -o and -f");
    }
    of_local(command, matches)
}

#[cfg(feature = "local")]
fn of_local(command: &str, matches: &ArgMatches) -> Option<&'static str> {
    let typed = |flag| matches.value_source(flag) == Some(ValueSource::CommandLine);
    let brings_its_own = match command {
        "up" | "demo" => true,
        "render" => matches.value_source("nodes").is_some(),
        _ => return None,
    };
    if brings_its_own && typed("cluster") {
        return Some("--cluster names a cluster, but this command brings its own; drop --cluster");
    }
    (!brings_its_own && typed("renderer")).then_some(
        "--renderer is what the nodes of --local draw with; add --local, or drop --renderer",
    )
}

#[cfg(not(feature = "local"))]
fn of_local(_: &str, _: &ArgMatches) -> Option<&'static str> {
    None
}

/// Does what was asked.
pub(crate) async fn run(cli: Cli) -> Result<Exit, Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Render(render) => render.run(&global).await,
        Command::Watch(watch) => watch.run(&global).await,
        Command::Jobs(jobs) => jobs.run(&global).await,
        Command::Job(job) => job.run(&global).await,
        Command::Fetch(fetch) => fetch.run(&global).await,
        Command::Retry(retry) => retry.run(&global).await,
        Command::Cancel(cancel) => cancel.run(&global).await,
        Command::Logs(logs) => logs.run(&global).await,
        Command::Nodes(nodes) => nodes.run(&global).await,
        Command::Inspect(inspect) => inspect.run(&global).await,
        Command::Doctor(doctor) => doctor.run(&global).await,
        Command::Completions(completions) => completions.run(&mut Cli::command()),
        Command::Man(man) => man.run(Cli::command()),
        #[cfg(feature = "local")]
        Command::Up(up) => up.run(&global).await,
        #[cfg(feature = "local")]
        Command::Demo(demo) => demo.run(&global).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn no_environment_variable_means_two_things() {
        // The data folder of this machine, and what its nodes draw with, whichever command asks.
        const SHARED: [&str; 4] =
            ["FRAMECREW_CLUSTER", "FRAMECREW_JSON", "FRAMECREW_DATA", "FRAMECREW_RENDERER"];
        // Those of `framecrew-node`, which one environment may hold as well.
        const OF_NODES: [&str; 8] = [
            "FRAMECREW_ORCHESTRATOR",
            "FRAMECREW_ADVERTISE",
            "FRAMECREW_NAME",
            "FRAMECREW_SLOTS",
            "FRAMECREW_TAGS",
            "FRAMECREW_BLENDERS",
            "FRAMECREW_CACHE",
            "FRAMECREW_PROVISION",
        ];
        let cli = super::Cli::command();
        let flags = cli.get_subcommands().flat_map(clap::Command::get_arguments);
        let mut seen: Vec<_> = OF_NODES.map(str::to_owned).into();
        for env in flags.filter_map(|flag| flag.get_env()?.to_str()) {
            assert!(!seen.iter().any(|name| name == env), "{env}");
            if !SHARED.contains(&env) {
                seen.push(env.to_owned());
            }
        }
    }

    #[test]
    fn every_flag_has_an_environment_variable_of_its_own() {
        let cli = super::Cli::command();
        for command in cli.get_subcommands() {
            for flag in command.get_arguments().filter(|arg| !arg.is_positional()) {
                let name = flag.get_id().as_str();
                if matches!(name, "help" | "version") {
                    continue;
                }
                let env = flag.get_env().and_then(|env| env.to_str()).unwrap_or_default();
                assert!(env.starts_with("FRAMECREW_"), "{} --{name}: {env:?}", command.get_name());
            }
        }
    }
}
