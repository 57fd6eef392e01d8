//! `sandboxai config`

use super::Context;
use crate::{
    config::{Config, Raw, explain::explain},
    exit_code::ExitCode,
    failure::Failure,
};

/// Flags of `config`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Also say what each key is for and how it is written
    #[arg(long)]
    explain: bool,
}

/// Shows every key even when some are wrong, and then fails with what is wrong.
pub(super) fn main(context: &Context, show: &Show) -> Result<ExitCode, Failure> {
    let sources = context.sources(Vec::new());
    let mut problems = Vec::new();
    let raw = Raw::read(&sources, &mut problems);
    let explained = explain(&raw);
    if context.output.json {
        context.output.json(&explained)?;
    } else if show.explain {
        for key in explained {
            context.output.line(format!(
                "{} = {}\n  from     {}\n  default  {}\n  value    {}\n  variable {}\n  {}\n",
                context.output.paint("1", key.key),
                key.value,
                key.origin,
                key.default,
                key.form,
                key.variable,
                key.doc,
            ))?;
        }
    } else {
        let rows = explained
            .into_iter()
            .map(|key| vec![key.key.to_owned(), key.value, key.origin])
            .collect();
        context.output.table(&["KEY", "VALUE", "ORIGIN"], rows)?;
    }
    Config::load(&sources)?;
    Ok(ExitCode::Ok)
}
