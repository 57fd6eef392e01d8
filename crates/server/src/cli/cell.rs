//! `sandboxai cell`

use std::{io::Read as _, time::Duration};

use sandbox::Name;
use serde_json::{Value, json};

use super::{Context, output, signal::Interrupts, stream};
use crate::{config::parse::duration, exit_code::ExitCode, failure::Failure};

/// Arguments of `cell`.
#[derive(Debug, clap::Args)]
pub(super) struct Cell {
    /// The sandbox
    #[arg(value_parser = super::name)]
    name: Name,
    /// The code, with IPython's syntax; `-` reads it from standard input
    #[arg(allow_hyphen_values = true)]
    code: String,
    /// Interrupt it after so long, e.g. 90s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// Which kernel; each has a state of its own
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

pub(super) async fn main(context: &Context, cell: Cell) -> Result<ExitCode, Failure> {
    let client = context.client()?;
    let mut interrupts = Interrupts::catch()?;
    let code = match cell.code.as_str() {
        "-" => read_code()?,
        _ => cell.code,
    };
    let body = json!({
        "code": code,
        "timeout_s": cell.timeout.map(|timeout| timeout.as_secs_f64()),
        "context": cell.context,
        "split_output": true,
    });
    let to = context.output;
    let running = async {
        if to.json {
            let result = client
                .sandbox(&cell.name, "/tools:run_ipython_cell")
                .post(&body)
                .await?;
            to.json(&result)?;
            return Ok(result);
        }
        let target = client.sandbox(&cell.name, "/tools:stream_ipython_cell");
        let events = target.events(Some(&body)).await?;
        if to.color {
            stream::print(events, to).await
        } else {
            stream::print_plain(events, to).await
        }
    };
    tokio::select! {
        result = running => Ok(code_of(&result?, to.json)),
        // Dropping the request makes the server interrupt the cell.
        code = interrupts.next() => Ok(code),
    }
}

fn read_code() -> Result<String, Failure> {
    let mut code = String::new();
    std::io::stdin()
        .lock()
        .read_to_string(&mut code)
        .map_err(Failure::to("cannot read the code from standard input"))?;
    Ok(code)
}

/// 0 for a cell without an exception. The traceback of one was printed by IPython.
fn code_of(result: &Value, told: bool) -> ExitCode {
    let status = result["status"].as_str().unwrap_or_default();
    if status == "ok" {
        return ExitCode::Ok;
    }
    if !told && status != "error" {
        let why = result["error"]["value"].as_str().unwrap_or(status);
        output::notice(&format!("error: {why}"));
    }
    ExitCode::Failure
}
