//! What every command takes.

use clap::Args;
use framecrew::Cluster;

use crate::console::{CLUSTER_DEFAULT, Failure};

/// Flags of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// URL of the orchestrator
    #[arg(long, global = true, env = "FRAMECREW_CLUSTER", default_value = CLUSTER_DEFAULT, value_name = "URL", help_heading = "Global")]
    pub(super) cluster: String,
    /// One JSON object per line on stdout (canonical proto3 JSON) instead of text for people
    #[arg(long, global = true, env = "FRAMECREW_JSON", value_parser = clap::builder::FalseyValueParser::new(), help_heading = "Global")]
    pub(super) json: bool,
}

impl Global {
    pub(super) async fn connect(&self) -> Result<Cluster, Failure> {
        Ok(Cluster::connect(self.cluster.as_str()).await?)
    }
}

/// Reads a job's number.
pub(super) fn job_number(text: &str) -> Result<u64, &'static str> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or("a job is named by its number, as `framecrew jobs` lists them")
}
