//! `fleetpack mirrors`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use super::exit;
use super::settings::{self, StoreArgs};
use super::ui::{Failure, Format, Ui};
use crate::ops;
use crate::ops::mirrors::NodeFile;

/// Print the configuration that points a container runtime at this site, or check it.
///
/// Every registry of the kept releases is led to `fleetpack serve`, or to the registry that releases
/// are pushed to, and the runtime never asks the registry itself.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The runtime.
    #[arg(long, value_enum)]
    runtime: ops::mirrors::Runtime,
    /// Where the nodes find the images: URL of `fleetpack serve`, or of a registry with its prefix as the
    /// path; may be given several times, and nodes try them in this order [default: the registry of the
    /// last `apply --registry`, else where `serve` runs].
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    endpoint: Vec<String>,
    /// Certificate (PEM) of the authority that nodes are to trust for these endpoints [default: that of
    /// `serve` where it made one].
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Name that nodes log in with.
    #[arg(long, value_name = "NAME", requires = "password_file")]
    username: Option<String>,
    /// File whose first line is their password.
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
    /// Write the files below this folder (the runtime's own: /etc/containerd/certs.d, /etc/rancher/k3s,
    /// /etc/rancher/rke2, /etc/containers) instead of printing them.
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    write: Option<PathBuf>,
    /// Ask each endpoint for every image of the active releases as the runtime would, and compare the files
    /// of this node, where it has them, with what they should say. Ends with 4 where an image is lacking,
    /// 8 where a file is wrong.
    #[arg(long)]
    check: bool,
    /// The node's file system [default: this machine's; files that are not there are wrong only where this
    /// is given].
    #[arg(long, value_name = "DIR", requires = "check")]
    root: Option<PathBuf>,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    /// Prints, writes or checks the files.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let options = ops::mirrors::Options {
            runtime: self.runtime,
            endpoints: self.endpoint,
            ca: self.ca,
            username: self.username,
            password_file: self.password_file,
            store: self.store.path(),
        };
        if self.check {
            let root = self.root.as_deref().unwrap_or(Path::new("/"));
            let checked = ops::mirrors_check::check(&options, root, self.root.is_some());
            let checked = settings::runtime()?.block_on(checked)?;
            match self.format {
                Format::Json => ui.json(&checked),
                Format::Text => ui.data(&checked.to_string()),
            }
            return Ok(checked.verdict().map_or(ExitCode::SUCCESS, exit::exit));
        }
        let files = ops::mirrors::mirrors(&options)?;
        match (self.write, self.format) {
            (Some(folder), _) => {
                for path in ops::mirrors::write(&files, &folder)? {
                    ui.data(&path.display().to_string());
                }
            }
            (None, Format::Json) => {
                let row = |file: &NodeFile| serde_json::json!({"path": file.path, "content": file.content});
                let files: Vec<_> = files.iter().map(row).collect();
                let folder = self.runtime.folder();
                ui.json(&serde_json::json!({"format": 1, "folder": folder, "files": files}));
            }
            (None, Format::Text) => {
                for file in files {
                    ui.data(&format!("# {}\n{}", file.path, file.content));
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
