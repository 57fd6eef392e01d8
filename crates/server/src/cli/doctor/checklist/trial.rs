//! A sandbox that is made, used and deleted, to see that it can be.

use std::time::Duration;

use reqwest::Method;
use sandbox::Name;
use serde_json::{Value, json};

use super::env_file::DaytonaSettings;
use crate::{
    cli::{client::Client, create::name_of},
    config::Secret,
    failure::Failure,
};

/// How long a whole trial may take.
const TRIAL_TIME_MAX: Duration = Duration::from_secs(180);
/// The sandbox ends by itself should this program not come to its end, seconds.
const LIFETIME_S: u64 = 600;
const FILE: &str = "/tmp/sandboxai-doctor";
/// Text that shells and shell quoting would change, without a newline at its end.
const CONTENT: &str = "doctor: $HOME 'quoted' \"twice\" \\ über";
/// The parts of a form are told apart by it.
const BOUNDARY: &str = "sandboxai-doctor-boundary";

/// A sandbox of the trial.
pub(super) struct Made {
    /// Its name.
    pub(super) name: Name,
    /// Its id.
    pub(super) id: String,
}

/// Makes a sandbox, does `work` with it, and deletes it whatever came of it.
pub(super) async fn with_sandbox<T>(
    client: &Client,
    work: impl AsyncFnOnce(&Made) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let trial = async {
        let body =
            json!({ "spec": { "lifetime_s": LIFETIME_S, "labels": { "purpose": "doctor" } } });
        let sandbox = client.sandboxes().post(&body).await?;
        let made = Made {
            name: name_of(&sandbox)?,
            id: sandbox["uid"].as_str().unwrap_or_default().to_owned(),
        };
        let result = work(&made).await;
        let deleted = match client.sandbox(&made.name, "").delete().await {
            // The trial was to delete it itself.
            Err(failure) if failure.code == crate::exit_code::ExitCode::NotFound => Ok(()),
            deleted => deleted,
        };
        let result = result?;
        deleted.map(|()| result)
    };
    let result = tokio::time::timeout(TRIAL_TIME_MAX, trial).await;
    result.map_err(|_| Failure::general(format!("the trial took more than {TRIAL_TIME_MAX:?}")))?
}

/// Over our own protocol: a cell, a shell command, a file there and back.
pub(super) async fn native(client: &Client) -> Result<(), Failure> {
    with_sandbox(client, async |made| {
        let tool = |name: &str| client.sandbox(&made.name, &format!("/tools:{name}"));
        let cell = json!({ "code": "x = 6\nprint(x * 7)", "split_output": true });
        let cell = tool("run_ipython_cell").post(&cell).await?;
        expect("a Python cell", &cell["stdout"], "42\n")?;
        let command = json!({ "command": "printf %s hello; exit 3" });
        let command = tool("run_shell_command").post(&command).await?;
        expect("a shell command", &command["output"], "hello")?;
        expect("its exit code", &command["exit_code"], 3)?;
        let file = || client.sandbox(&made.name, "/files").query("path", FILE);
        file().upload(Method::PUT, CONTENT.into()).await?;
        expect("a file", &file().text().await?.into(), CONTENT)
    })
    .await
}

/// Over Daytona's protocol, with the address and key that SUNA has, on a
/// sandbox of this very server: so it is also known where that address leads.
pub(super) async fn daytona(client: &Client, settings: &DaytonaSettings) -> Result<(), Failure> {
    let key = settings.key.as_deref().map(Secret::new);
    let theirs = Client::new(&settings.url, sandbox::Space::default(), key)?;
    with_sandbox(client, async |made| {
        let place = format!("/sandbox/{}", made.id);
        let found = theirs.path(&place).get().await.map_err(|failure| {
            let message = format!(
                "{} ({}) does not lead to this server, {}: {}",
                settings.variable,
                settings.url,
                client.base(),
                failure.message
            );
            Failure::new(failure.code, message)
        })?;
        expect("the sandbox's state", &found["state"], "started")?;
        let toolbox = |path: &str| theirs.path(&format!("/toolbox/{}/toolbox{path}", made.id));
        let command = json!({ "command": "sh -c 'printf %s hello; exit 3'" });
        let command = toolbox("/process/execute").post(&command).await?;
        expect("a command", &command["result"], "hello")?;
        expect("its exit code", &command["exitCode"], 3)?;
        let form = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"doctor\"\r\n\r\n{CONTENT}\r\n--{BOUNDARY}--\r\n"
        );
        let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
        let upload = toolbox("/files/upload").query("path", FILE);
        upload.post_as(&content_type, form).await?;
        let download = toolbox("/files/download").query("path", FILE);
        expect("a file", &download.text().await?.into(), CONTENT)?;
        theirs.path(&place).delete().await
    })
    .await
}

fn expect(what: &str, found: &Value, wanted: impl Into<Value>) -> Result<(), Failure> {
    let wanted = wanted.into();
    if *found == wanted {
        return Ok(());
    }
    Err(Failure::general(format!(
        "{what} gave {found}, not {wanted}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told() {
        assert!(expect("a file", &json!("x"), "x").is_ok());
        let failure = expect("a file", &Value::Null, "x").unwrap_err();
        assert_eq!(failure.message, "a file gave null, not \"x\"");
    }
}
