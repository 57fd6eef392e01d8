//! `sandboxai serve`

use super::Context;
use crate::{
    config::{Config, FlagValue},
    exit_code::ExitCode,
    failure::Failure,
    serve,
};

/// Flags of `serve`.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Serve {
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// Port to listen on; 0 takes a free one and prints it as JSON [default: 5266]
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// Which sandboxes are this server's [default: default]
    #[arg(long, value_name = "NAME")]
    scope: Option<String>,
    /// What makes the sandboxes: embedded or docker [default: embedded]
    #[arg(long, value_name = "RUNTIME")]
    runtime: Option<String>,
    /// Folder of images and sandboxes [default: /var/lib/sandboxai]
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<String>,
    /// End the sandboxes with the server, also when it is killed
    #[arg(long)]
    delete_on_shutdown: bool,
    /// Shut down when whoever started the server is gone
    #[arg(long)]
    exit_with_client: bool,
    /// Listen on other addresses than loopback without keys
    #[arg(long)]
    allow_unauthenticated: bool,
    /// What to log, e.g. debug
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Set any key of the configuration
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = super::variable)]
    set: Vec<(String, String)>,
}

impl Serve {
    fn flags(&self) -> Vec<FlagValue> {
        let texts = [
            ("server.host", "--host", &self.host),
            ("server.port", "--port", &self.port),
            ("server.scope", "--scope", &self.scope),
            ("server.runtime", "--runtime", &self.runtime),
            ("server.state_dir", "--state-dir", &self.state_dir),
            ("log.level", "--log-level", &self.log_level),
        ];
        let switches = [
            (
                "server.delete_on_shutdown",
                "--delete-on-shutdown",
                self.delete_on_shutdown,
            ),
            (
                "server.exit_with_client",
                "--exit-with-client",
                self.exit_with_client,
            ),
            (
                "server.allow_unauthenticated",
                "--allow-unauthenticated",
                self.allow_unauthenticated,
            ),
        ];
        let value = |key: &str, flag: &str, value: &str| FlagValue {
            key: key.to_owned(),
            flag: flag.to_owned(),
            value: value.to_owned(),
        };
        let texts = texts
            .iter()
            .filter_map(|(key, flag, text)| Some(value(key, flag, text.as_deref()?)));
        let switches = switches
            .iter()
            .filter(|(_, _, on)| *on)
            .map(|(key, flag, _)| value(key, flag, "true"));
        let set = self.set.iter().map(|(key, text)| value(key, "--set", text));
        set.chain(texts).chain(switches).collect()
    }
}

pub(super) fn main(context: &Context, flags: &Serve) -> Result<ExitCode, Failure> {
    let (config, _) = Config::load(&context.sources(flags.flags()))?;
    serve::serve(&config, &context.environment)
}

/// The server as the original's client starts it. That client gives it a pipe
/// and never says that it went away, so the pipe is watched where the client
/// takes a random port and wants its sandboxes deleted.
pub(super) fn as_original(context: &Context) -> Result<ExitCode, Failure> {
    let (mut config, _) = Config::load(&context.sources(Vec::new()))?;
    let server = &mut config.server;
    let embedded = server.port == 0 && server.delete_on_shutdown;
    server.exit_with_client.get_or_insert(embedded);
    serve::serve(&config, &context.environment)
}
