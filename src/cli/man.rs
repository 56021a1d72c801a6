//! `fleetpack man`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::generate;
use super::ui::{Failure, Ui};
use crate::fsio::write_atomic;
use crate::model::ErrorClass;

/// Print the man page, or write every page to a folder.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder to write every page to, one file a subcommand; without it the main page is printed.
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

impl Args {
    /// Prints the page, or writes them all.
    pub(super) fn run(self, ui: &Ui) -> Result<ExitCode, Failure> {
        let failed = |what: String, error: std::io::Error| Failure {
            message: format!("cannot {what}: {error}"),
            hint: None,
            class: ErrorClass::Failed,
        };
        let files = generate::all().map_err(|error| failed("render the man pages".into(), error))?;
        for (name, content) in files {
            let Some(page) = name.strip_prefix("man/") else { continue };
            match &self.write {
                None if page == "fleetpack.1" => ui.raw(&content),
                None => {}
                Some(folder) => {
                    std::fs::create_dir_all(folder)
                        .and_then(|()| write_atomic(&folder.join(page), &content))
                        .map_err(|error| failed(format!("write `{}`", folder.join(page).display()), error))?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
