//! The command line: one file a subcommand, each its `Args` and one call into `ops`.
//!
//! The only room that reads the environment, prompts and prints. No logic: what can be decided
//! without a terminal is decided below.

pub mod environment;
pub mod exit;
pub mod generate;
pub mod settings;
pub mod ui;

mod apply;
mod build;
mod completions;
mod demo;
mod export;
mod gc;
mod history;
mod images;
mod inputs;
mod inspect;
mod keygen;
mod lines;
mod lock;
mod man;
mod mirrors;
mod render;
mod rollback;
mod scrub;
mod serve;
mod serve_log;
mod sign;
mod status;
mod verify;
mod waiting;
mod watch;

use std::process::ExitCode;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};

use ui::{Failure, Ui};

/// Carries Kubernetes releases across an air gap.
///
/// `build` makes one signed archive from a Git revision and every image it runs, `verify` proves
/// offline what is in it, `apply` installs it at a disconnected site and keeps the release before.
#[derive(Debug, Parser)]
#[command(name = "fleetpack", version, after_help = exit::TABLE, arg_required_else_help = true)]
pub struct Cli {
    /// Print results, warnings and errors only: no status, no progress.
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
enum Command {
    Build(build::Args),
    Lock(lock::Args),
    Render(render::Args),
    Verify(verify::Args),
    Inspect(inspect::Args),
    Images(images::Args),
    Sign(sign::Args),
    Keygen(keygen::Args),
    Apply(apply::Args),
    Rollback(rollback::Args),
    Status(status::Args),
    History(history::Args),
    Gc(gc::Args),
    Export(export::Args),
    Scrub(scrub::Args),
    Watch(watch::Args),
    Serve(serve::Args),
    Mirrors(mirrors::Args),
    Demo(demo::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// The whole command as clap has it, with a `FLEETPACK_…` variable for every flag.
#[must_use]
pub fn command() -> clap::Command {
    let mut command = Cli::command();
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    command = command.mut_args(|arg| with_variable("", arg));
    for name in names {
        command = command.mut_subcommand(name.clone(), |sub| {
            sub.mut_args(|arg| with_variable(&name, arg)).after_help(exit::TABLE)
        });
    }
    command
}

/// Gives `arg` its environment variable: `FLEETPACK_` and the flag's name in capitals.
fn with_variable(subcommand: &str, arg: clap::Arg) -> clap::Arg {
    let Some(long) = arg.get_long().filter(|long| !matches!(*long, "help" | "version")) else { return arg };
    let name = match (subcommand, long) {
        // A private key and the public keys one trusts are different things: one variable for
        // both would hand the one where the other is wanted.
        ("build" | "sign", "key") => "FLEETPACK_SIGNING_KEY".to_owned(),
        _ => format!("FLEETPACK_{}", long.replace('-', "_").to_uppercase()),
    };
    // clap keeps names for the life of the process; this runs once, so nothing grows.
    let arg = arg.env(&*name.leak()).hide_env_values(true);
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        arg.value_parser(FalseyValueParser::new())
    } else {
        arg
    }
}

/// Parses the command line, runs the command, and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // A reader that went away while help was printed is not an error worth telling.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let ui = std::sync::Arc::new(Ui::new(cli.quiet, environment::variable("NO_COLOR").is_some()));
    // Tests alone stop the process at a failpoint; a release build cannot be told to.
    #[cfg(debug_assertions)]
    if let Some(path) = environment::variable("FLEETPACK_FAILPOINTS")
        && let Err(error) = crate::fsio::failpoint::listen(path.as_ref())
    {
        ui.error(&format!("nobody listens at the failpoints: {error}"), None);
        return ExitCode::FAILURE;
    }
    match run(cli.command, &ui) {
        Ok(code) => code,
        Err(failure) => {
            ui.error(&failure.message, failure.hint.as_deref());
            exit::exit(failure.class)
        }
    }
}

fn run(command: Command, ui: &std::sync::Arc<Ui>) -> Result<ExitCode, Failure> {
    match command {
        Command::Build(args) => args.run(ui),
        Command::Lock(args) => args.run(ui),
        Command::Render(args) => args.run(ui),
        Command::Verify(args) => args.run(ui),
        Command::Inspect(args) => args.run(ui),
        Command::Images(args) => args.run(ui),
        Command::Sign(args) => args.run(ui),
        Command::Keygen(args) => args.run(ui),
        Command::Apply(args) => args.run(ui),
        Command::Rollback(args) => args.run(ui),
        Command::Status(args) => args.run(ui),
        Command::History(args) => args.run(ui),
        Command::Gc(args) => args.run(ui),
        Command::Export(args) => args.run(ui),
        Command::Scrub(args) => args.run(ui),
        Command::Watch(args) => args.run(ui),
        Command::Serve(args) => args.run(ui),
        Command::Mirrors(args) => args.run(ui),
        Command::Demo(args) => args.run(ui),
        Command::Completions(args) => args.run(ui),
        Command::Man(args) => args.run(ui),
    }
}
