//! `sandboxai create`

use std::time::Duration;

use sandbox::{Name, NetworkMode, RuntimeClass};
use serde_json::{Value, json};

use super::{Context, client::Client};
use crate::{
    config::parse::{cpu_millis, duration, size},
    exit_code::ExitCode,
    failure::Failure,
};

/// Arguments of `create`.
#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// Its name; made up when absent
    #[arg(value_parser = super::name)]
    name: Option<Name>,
    #[command(flatten)]
    spec: Spec,
}

/// What a sandbox is to be; the server's defaults fill the rest.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Spec {
    /// Image its file system starts from
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Environment variable of everything inside
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = super::variable)]
    env: Vec<(String, String)>,
    /// What it can reach: `open` (the public internet) or `none`
    #[arg(long, value_name = "MODE", value_parser = network)]
    network: Option<NetworkMode>,
    /// Runtime class, e.g. runsc; one that the server's configuration allows
    #[arg(long, value_name = "CLASS", value_parser = runtime_class)]
    runtime_class: Option<RuntimeClass>,
    /// Memory limit, e.g. 2GiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// CPU limit, e.g. 1.5
    #[arg(long, value_name = "CPUS", value_parser = cpu_millis)]
    cpu: Option<u32>,
    /// Limit of processes and threads
    #[arg(long, value_name = "COUNT")]
    pids: Option<u32>,
    /// End it after so long without a request, e.g. 15m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle_timeout: Option<Duration>,
    /// End it so long after its creation, e.g. 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    lifetime: Option<Duration>,
    /// Stop it, keeping its files, after so long without a request
    #[arg(long, value_name = "TIME", value_parser = duration)]
    stop_after_idle: Option<Duration>,
    /// Label to find it by
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = super::variable)]
    labels: Vec<(String, String)>,
}

fn network(text: &str) -> Result<NetworkMode, String> {
    text.parse().map_err(|error: sandbox::Error| error.message)
}

fn runtime_class(text: &str) -> Result<RuntimeClass, String> {
    text.parse().map_err(|error: sandbox::Error| error.message)
}

impl Spec {
    fn body(&self) -> Value {
        const MEBIBYTE: u64 = 1 << 20;
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        json!({
            "image": self.image,
            "env": super::variables(&self.env),
            "network": self.network.map(NetworkMode::as_str),
            "runtime_class": self.runtime_class.as_ref().map(RuntimeClass::as_str),
            "memory_mb": self.memory.map(|bytes| bytes.div_ceil(MEBIBYTE)),
            "cpu": self.cpu.map(|millis| f64::from(millis) / 1000.0),
            "pids": self.pids,
            "idle_timeout_s": seconds(self.idle_timeout),
            "lifetime_s": seconds(self.lifetime),
            "stop_after_idle_s": seconds(self.stop_after_idle),
            "labels": super::variables(&self.labels),
        })
    }
}

/// Makes a sandbox and returns what the server says of it.
pub(super) async fn create(
    client: &Client,
    name: Option<&Name>,
    spec: &Spec,
) -> Result<Value, Failure> {
    let body = json!({ "name": name.map(Name::as_str), "spec": spec.body() });
    client.sandboxes().post(&body).await
}

/// The name in a server's answer.
pub(super) fn name_of(sandbox: &Value) -> Result<Name, Failure> {
    sandbox["name"]
        .as_str()
        .and_then(|name| name.parse().ok())
        .ok_or_else(|| Failure::general("the server's answer has no name of a sandbox"))
}

pub(super) async fn main(context: &Context, arguments: &Create) -> Result<ExitCode, Failure> {
    let client = context.client()?;
    let sandbox = create(&client, arguments.name.as_ref(), &arguments.spec).await?;
    if context.output.json {
        context.output.json(&sandbox)?;
    } else {
        context.output.line(name_of(&sandbox)?.as_str())?;
    }
    Ok(ExitCode::Ok)
}
