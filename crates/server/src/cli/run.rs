//! `sandboxai run`: a sandbox for one command.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Context,
    client::Client,
    create::{self, Spec},
    embedded::EmbeddedServer,
    exec::{self, Work},
    output,
    signal::Interrupts,
};
use crate::{config::client_url, exit_code::ExitCode, failure::Failure};

/// How long the removal of the sandbox may take.
const DELETE_TIMEOUT: Duration = Duration::from_secs(30);

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    #[command(flatten)]
    spec: Spec,
    #[command(flatten)]
    work: Work,
}

pub(super) async fn main(context: &Context, run: Run) -> Result<ExitCode, Failure> {
    let mut interrupts = Interrupts::catch()?;
    let (client, embedded) = server(context).await?;
    let code = one_off(context, &client, &run, &mut interrupts).await;
    if let Some(embedded) = embedded {
        embedded.stop().await?;
    }
    code
}

/// The server that was named, or this machine's, or one of our own for this command.
async fn server(context: &Context) -> Result<(Client, Option<EmbeddedServer>), Failure> {
    if context.named_server().is_some() {
        return Ok((context.client()?, None));
    }
    let usual = context.client_of(&client_url(&context.sources(Vec::new()))?)?;
    if usual.is_healthy().await {
        return Ok((usual, None));
    }
    let embedded = EmbeddedServer::start(context).await?;
    Ok((embedded.client(), Some(embedded)))
}

async fn one_off(
    context: &Context,
    client: &Client,
    run: &Run,
    interrupts: &mut Interrupts,
) -> Result<ExitCode, Failure> {
    // A request that is dropped makes the server remove what it was making.
    let sandbox: Value = tokio::select! {
        sandbox = create::create(client, None, &run.spec) => sandbox?,
        code = interrupts.next() => return Ok(code),
    };
    let name = create::name_of(&sandbox)?;
    let code = exec::execute(
        client,
        &name,
        &run.work,
        json!({}),
        context.output,
        interrupts,
    )
    .await;
    let delete = client.sandbox(&name, "").delete();
    let deleted = match tokio::time::timeout(DELETE_TIMEOUT, delete).await {
        Ok(deleted) => deleted,
        Err(_) => Err(Failure::general("it took too long")),
    };
    if let Err(failure) = deleted {
        output::notice(&format!(
            "warning: sandbox {name} was not deleted: {}",
            failure.message
        ));
    }
    code
}
