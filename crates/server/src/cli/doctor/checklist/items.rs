//! The lines of the four lists.

use std::{
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use sandbox::check::{Check, Status};
use tokio::{io::AsyncWriteExt as _, time::sleep};

use super::{
    Checklist, Confirmation, Evidence,
    env_file::EnvFile,
    metrics::Metrics,
    prometheus::{Prometheus, rules_delivered},
    rollout::Rollout,
    source::{self, Kind},
    trial,
};
use crate::{exit_code::ExitCode, failure::Failure};

/// Uses a workspace through the adapter.
const ADAPTER_TRIAL: &str = include_str!("adapter.py");
/// How long that may take.
const ADAPTER_TIME_MAX: Duration = Duration::from_secs(180);
/// How long a line may take to come into the log.
const LOG_DELAY_MAX: Duration = Duration::from_secs(3);
/// An id that no sandbox has, in the form of Daytona's.
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";
/// What is judged by `/metrics` where there is no rollout in the server: the
/// same limits that a rollout has when nothing is configured.
const ERROR_RATE_MAX: f64 = 0.05;
const OPERATIONS_MIN: f64 = 20.0;
const CREATE_P95_MAX_S: f64 = 10.0;
const CREATIONS_MIN: f64 = 10.0;
/// Where SUNA uses our server, in words for a fix.
const LEAD_HERE: &str = "name SUNA's environment by --env-file, with DAYTONA_SERVER_URL=http://THIS-SERVER:5266/api and one of the server's keys as DAYTONA_API_KEY";

/// A line that may stop at the first thing that is wrong.
type Decided = Result<Check, Failure>;

/// All lines of a list, in the order of the plan.
pub(super) async fn of(list: Checklist, e: &Evidence<'_>) -> Vec<Check> {
    match list {
        Checklist::BeforeMigration => vec![
            runtime(&e.runtime),
            tested(e).await,
            adapter(e).await,
            factory(e).await,
            monitoring(e).await,
            rollback_plan(e).await,
        ],
        Checklist::BeforeAb => vec![
            feature_flag(e).await,
            logging(e).await,
            collected(e).await,
            alerts(e).await,
        ],
        Checklist::BeforeFull => vec![
            stages(e).await,
            errors(e).await,
            speed(e).await,
            confirmed(e, "users content", Confirmation::Users),
        ],
        Checklist::After => vec![
            code_removed(e).await,
            dependencies(e).await,
            documentation(e),
            confirmed(e, "team trained", Confirmation::Team),
        ],
    }
}

/// A failure as the finding of a line, its hint as the fix.
fn decided(name: &str, fix: &str, result: Decided) -> Check {
    result.unwrap_or_else(|failure| {
        let fix = failure.hint.unwrap_or_else(|| fix.to_owned());
        Check::fail(name, failure.message).fix(fix)
    })
}

/// What is missing to decide a line.
fn not_named(name: &str, fix: &str) -> Check {
    Check::fail(name, "there is nothing to decide it by").fix(fix)
}

fn runtime(checks: &[Check]) -> Check {
    const NAME: &str = "Docker, or the embedded runtime, works";
    let of = |status| checks.iter().filter(move |check| check.status == status);
    let failed: Vec<_> = of(Status::Fail)
        .map(|check| format!("{}: {}", check.name, check.finding))
        .collect();
    if failed.is_empty() {
        let finding = match of(Status::Warn).count() {
            0 => "`sandboxai doctor` finds nothing wrong".to_owned(),
            count => format!("`sandboxai doctor` advises {count} changes"),
        };
        return Check::pass(NAME, finding);
    }
    Check::fail(NAME, failed.join("; "))
        .fix("`sandboxai doctor` tells what to change, with --runtime docker for Docker")
}

async fn tested(e: &Evidence<'_>) -> Check {
    const NAME: &str = "SandboxAI tested";
    let result = trial::native(&e.client).await.map(|()| {
        let finding = format!(
            "a sandbox at {} ran a cell and a command, and kept a file",
            e.client.base()
        );
        Check::pass(NAME, finding)
    });
    decided(
        NAME,
        "the server's log tells more, by the request id",
        result,
    )
}

/// The adapter over a real workspace; or, where SUNA keeps Daytona's SDK, the
/// wire that this SDK speaks.
async fn adapter(e: &Evidence<'_>) -> Check {
    const NAME: &str = "adapter tested";
    if let Some(python) = &e.options.python {
        let result = adapter_trial(e, python).await;
        let result = result.map(|()| {
            Check::pass(
                NAME,
                "a workspace of `sandboxai.suna` ran a cell and a command, and kept a file",
            )
        });
        return decided(
            NAME,
            "install it: `pip install` of the project's wheel; or correct --python",
            result,
        );
    }
    match leads_here(e).await {
        Some(Ok(url)) => Check::pass(
            NAME,
            format!("none is needed: a sandbox was used over Daytona's protocol at {url}"),
        ),
        Some(Err(failure)) => decided(NAME, LEAD_HERE, Err(failure)),
        None => not_named(
            NAME,
            &format!("{LEAD_HERE}; or a Python with the adapter by --python"),
        ),
    }
}

async fn adapter_trial(e: &Evidence<'_>, python: &std::path::Path) -> Result<(), Failure> {
    let shown = python.display();
    let mut child = tokio::process::Command::new(python)
        .arg("-")
        .env("SANDBOXAI_URL", e.client.base())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(Failure::to(format!("cannot run {shown}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        let written = stdin.write_all(ADAPTER_TRIAL.as_bytes()).await;
        written.map_err(Failure::to(format!("cannot write to {shown}")))?;
    }
    let ended = tokio::time::timeout(ADAPTER_TIME_MAX, child.wait_with_output()).await;
    let ended = ended
        .map_err(|_| Failure::general(format!("{shown} took more than {ADAPTER_TIME_MAX:?}")))?
        .map_err(Failure::to(format!("cannot wait for {shown}")))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let last = said.trim_end().lines().last().unwrap_or("it said nothing");
    Err(Failure::general(format!("{shown}: {last}")))
}

/// Whether SUNA's environment leads to this server, tried with a sandbox; none
/// when it was not named, or says nothing of Daytona.
async fn leads_here(e: &Evidence<'_>) -> Option<Result<String, Failure>> {
    let settings = e.env.as_ref().and_then(EnvFile::daytona)?;
    Some(
        trial::daytona(&e.client, &settings)
            .await
            .map(|()| settings.url),
    )
}

async fn factory(e: &Evidence<'_>) -> Check {
    const NAME: &str = "tools use the factory";
    const FIX: &str = "import `get_sandbox_client` of the factory in those files instead";
    match leads_here(e).await {
        Some(Ok(url)) => {
            return Check::pass(
                NAME,
                format!("no tool need change: Daytona's SDK in SUNA speaks to {url}, this server"),
            );
        }
        Some(Err(failure)) if e.options.backend.is_none() => {
            return decided(NAME, LEAD_HERE, Err(failure));
        }
        _ => {}
    }
    let Some(backend) = &e.options.backend else {
        return not_named(
            NAME,
            &format!("{LEAD_HERE}; or the backend's source by --backend"),
        );
    };
    let result = source::lines(backend, Kind::Code, source::imports_daytona).map(|lines| {
        let outside: Vec<_> = lines
            .into_iter()
            .filter(|line| !line.path.starts_with(&e.options.factory))
            .collect();
        if outside.is_empty() {
            let factory = e.options.factory.display();
            return Check::pass(
                NAME,
                format!("nothing outside of {factory} imports Daytona's SDK"),
            );
        }
        Check::fail(
            NAME,
            format!("Daytona's SDK is imported at {}", source::told(&outside)),
        )
        .fix(FIX)
    });
    decided(NAME, "correct --backend", result)
}

/// When this server was started, seconds since 1970.
async fn started(e: &Evidence<'_>) -> Result<f64, Failure> {
    let metrics = Metrics::read(&e.client).await?;
    let uptime = metrics.uptime().ok_or_else(|| {
        Failure::general(format!(
            "{} has no metrics of ours at /metrics",
            e.client.base()
        ))
    })?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(now.as_secs_f64() - uptime)
}

/// This server in the Prometheus that was named.
async fn scraped(e: &Evidence<'_>) -> Result<(Prometheus, String), Failure> {
    let start = started(e).await?;
    let url = e.options.prometheus.as_deref().ok_or_else(|| {
        Failure::general("/metrics answers, and no Prometheus was named").hint(
            "run Prometheus with deploy/prometheus/prometheus.yml, and name it by --prometheus http://HOST:9090",
        )
    })?;
    let prometheus = Prometheus::at(url)?;
    let instance = prometheus.instance_started_at(start).await?.ok_or_else(|| {
        Failure::general(format!("the Prometheus at {url} does not scrape this server")).hint(format!(
            "add it to scrape_configs, as in deploy/prometheus/prometheus.yml; {url}/targets tells what is wrong"
        ))
    })?;
    Ok((prometheus, instance))
}

const PROMETHEUS_FIX: &str = "correct --prometheus";

async fn monitoring(e: &Evidence<'_>) -> Check {
    const NAME: &str = "monitoring set up";
    let result = scraped(e).await.map(|(prometheus, instance)| {
        Check::pass(
            NAME,
            format!("{} scrapes this server as {instance}", prometheus.url()),
        )
    });
    decided(NAME, PROMETHEUS_FIX, result)
}

async fn collected(e: &Evidence<'_>) -> Check {
    const NAME: &str = "metrics collected";
    let result = async {
        let (prometheus, instance) = scraped(e).await?;
        let count = prometheus.operations(&instance).await?;
        if count < 1.0 {
            return Err(Failure::general("Prometheus has counted no operation of this server yet")
                .hint("make a sandbox, e.g. by the list before-migration, and wait for the next scrape"));
        }
        Ok(Check::pass(
            NAME,
            format!("Prometheus has counted {count} operations of this server"),
        ))
    };
    decided(NAME, PROMETHEUS_FIX, result.await)
}

async fn alerts(e: &Evidence<'_>) -> Check {
    const NAME: &str = "alerts set up";
    let result = async {
        let (prometheus, _) = scraped(e).await?;
        let missing = prometheus.missing_rules().await?;
        if !missing.is_empty() {
            return Err(Failure::general(format!(
                "Prometheus lacks the rules {}",
                missing.join(", ")
            ))
            .hint("add deploy/prometheus/alerts.yml to rule_files, and reload Prometheus"));
        }
        let told = match prometheus.has_alertmanager().await? {
            true => "an Alertmanager tells of them",
            false => "no Alertmanager is connected, so they are only seen in Prometheus",
        };
        Ok(Check::pass(
            NAME,
            format!("Prometheus has all {} rules; {told}", rules_delivered()),
        ))
    };
    decided(NAME, PROMETHEUS_FIX, result.await)
}

/// The upstream answers through the server, so that a rollback works; or the
/// old environment is there, and leads elsewhere.
async fn rollback_plan(e: &Evidence<'_>) -> Check {
    const NAME: &str = "rollback plan ready";
    const FIX: &str = "configure `rollout.upstream_url`; or keep SUNA's old environment, and name it by --old-env-file";
    let result = async {
        if let Some(rollout) = Rollout::read(&e.client).await? {
            return match e.client.path(&format!("/api/sandbox/{NOBODY}")).get().await {
                Err(failure) if failure.code == ExitCode::NotFound => Ok(Check::pass(
                    NAME,
                    format!(
                        "{} answers; `sandboxai rollout rollback` sends all new sandboxes there",
                        rollout.upstream
                    ),
                )),
                Err(failure) => Err(Failure::general(format!(
                    "{} does not answer as Daytona does: {}",
                    rollout.upstream, failure.message
                ))
                .hint("correct `rollout.upstream_url` and `rollout.upstream_key`")),
                Ok(_) => Err(Failure::general(format!(
                    "{} has a sandbox that cannot be",
                    rollout.upstream
                ))),
            };
        }
        let Some(old) = &e.options.old_env_file else {
            return Ok(not_named(NAME, FIX));
        };
        kept(NAME, &EnvFile::read(old)?, e)
    };
    decided(NAME, FIX, result.await)
}

/// Whether the old environment is whole, and leads to another place than the new one.
fn kept(name: &str, old: &EnvFile, e: &Evidence<'_>) -> Decided {
    let settings = old.daytona();
    let missing: Vec<&str> = [
        ("DAYTONA_SERVER_URL", settings.is_none()),
        (
            "DAYTONA_API_KEY",
            settings
                .as_ref()
                .is_none_or(|settings| settings.key.is_none()),
        ),
        (
            "DAYTONA_TARGET",
            settings
                .as_ref()
                .is_none_or(|settings| settings.target.is_none()),
        ),
    ]
    .into_iter()
    .filter_map(|(variable, missing)| missing.then_some(variable))
    .collect();
    if !missing.is_empty() {
        return Err(Failure::general(format!(
            "the old environment lacks {}",
            missing.join(", ")
        )));
    }
    let old = settings.map(|settings| settings.url).unwrap_or_default();
    let new = e
        .env
        .as_ref()
        .and_then(EnvFile::daytona)
        .map(|settings| settings.url);
    if new.as_deref() == Some(&old) || old == format!("{}/api", e.client.base()) {
        return Err(
            Failure::general(format!("the old environment leads here, to {old}"))
                .hint("name the one that SUNA had with Daytona by --old-env-file"),
        );
    }
    Ok(Check::pass(
        name,
        format!("the old environment leads to {old}"),
    ))
}

async fn feature_flag(e: &Evidence<'_>) -> Check {
    const NAME: &str = "feature flag";
    const FIX: &str = "configure `rollout.upstream_url` in the server; or set SANDBOX_AB_TEST=true for the adapter, and name SUNA's environment by --env-file";
    let result = async {
        if let Some(rollout) = Rollout::read(&e.client).await? {
            return Ok(Check::pass(
                NAME,
                format!(
                    "the server makes {} % here, the rest at {}",
                    rollout.share, rollout.upstream
                ),
            ));
        }
        match e.env.as_ref().map(EnvFile::share).transpose() {
            Ok(Some(Some(share))) => Ok(Check::pass(
                NAME,
                format!("the adapter has {share} % of the workspaces here"),
            )),
            Ok(Some(None)) => Err(Failure::general(
                "the server has no upstream, and SANDBOX_AB_TEST is off",
            )),
            Ok(None) => Err(Failure::general("the server has no upstream")),
            Err(problem) => Err(Failure::general(problem)),
        }
    };
    decided(NAME, FIX, result.await)
}

/// A sandbox's end is in the log.
async fn logging(e: &Evidence<'_>) -> Check {
    const NAME: &str = "logging set up";
    let log = e.options.log();
    let fix = format!(
        "the filter of this machine's configuration is `log.level = \"{}\"`, which must let INFO pass; name the log by --log-file or --log-unit",
        e.log_level
    );
    let result = async {
        let name = trial::with_sandbox(&e.client, async |made| Ok(made.name.to_string())).await?;
        let begun = tokio::time::Instant::now();
        loop {
            if let Some(line) = log.line_about(&name)? {
                return Ok(Check::pass(
                    NAME,
                    format!("{} has: {}", log.describe(), line.trim()),
                ));
            }
            if begun.elapsed() > LOG_DELAY_MAX {
                let finding = format!(
                    "{} says nothing of a sandbox that has just ended",
                    log.describe()
                );
                return Err(Failure::general(finding));
            }
            sleep(LOG_DELAY_MAX / 10).await;
        }
    };
    decided(NAME, &fix, result.await)
}

const NO_SERVER: &str = "start the server";

async fn stages(e: &Evidence<'_>) -> Check {
    const NAME: &str = "A/B test went 10 → 50 → 100";
    let result = Rollout::read(&e.client).await.map(|rollout| match rollout {
        Some(rollout) => rollout.stages(NAME, Timestamp::now()),
        None if e.options.confirm.contains(&Confirmation::Ab) => {
            Check::pass(NAME, "confirmed by --confirm ab: the server sees nothing of the adapter's percentage")
        }
        None => Check::fail(NAME, "the server has no upstream, and sees nothing of the adapter's percentage")
            .fix("when the adapter's SANDBOX_AB_PERCENTAGE went from 10 to 50 to 100, say so by --confirm ab"),
    });
    decided(NAME, NO_SERVER, result)
}

async fn errors(e: &Evidence<'_>) -> Check {
    const NAME: &str = "no critical errors";
    let result = async {
        if let Some(rollout) = Rollout::read(&e.client).await? {
            return Ok(rollout.errors(NAME));
        }
        let metrics = Metrics::read(&e.client).await?;
        Ok(error_rate(NAME, metrics.faults(), metrics.operations()))
    };
    decided(NAME, NO_SERVER, result.await)
}

fn error_rate(name: &str, faults: f64, operations: f64) -> Check {
    let finding = format!(
        "{faults} of {operations} operations since the start of the server failed for a fault of ours"
    );
    if operations < OPERATIONS_MIN {
        return Check::fail(name, format!("too few to judge: {finding}")).fix(format!(
            "run this after SUNA was used: it takes {OPERATIONS_MIN} operations"
        ));
    }
    if faults > operations * ERROR_RATE_MAX {
        return Check::fail(name, finding).fix(
            "the log names each with its request id: `journalctl -u sandboxai --grep 'WARN|ERROR'`",
        );
    }
    Check::pass(name, finding)
}

async fn speed(e: &Evidence<'_>) -> Check {
    const NAME: &str = "performance acceptable";
    let result = async {
        if let Some(rollout) = Rollout::read(&e.client).await? {
            return Ok(rollout.speed(NAME));
        }
        let (creations, p95) = Metrics::read(&e.client).await?.creations();
        Ok(creation_time(NAME, creations, p95))
    };
    decided(NAME, NO_SERVER, result.await)
}

fn creation_time(name: &str, creations: f64, p95: f64) -> Check {
    let finding = format!(
        "95 of 100 of {creations} creations since the start of the server took {p95} s at most"
    );
    if creations < CREATIONS_MIN {
        return Check::fail(name, format!("too few to judge: {finding}")).fix(format!(
            "run this after SUNA was used: it takes {CREATIONS_MIN} creations"
        ));
    }
    if p95 > CREATE_P95_MAX_S {
        return Check::fail(name, finding).fix(
            "`sandboxai_creation_phase_seconds` in /metrics tells which phase takes the time",
        );
    }
    Check::pass(name, finding)
}

fn confirmed(e: &Evidence<'_>, name: &str, what: Confirmation) -> Check {
    let word = match what {
        Confirmation::Users => "users",
        Confirmation::Team => "team",
        Confirmation::Ab => "ab",
    };
    if e.options.confirm.contains(&what) {
        return Check::pass(name, format!("confirmed by --confirm {word}"));
    }
    Check::fail(name, "only people can say this")
        .fix(format!("ask them, then add --confirm {word}"))
}

/// Nothing is left at Daytona, and nothing in SUNA leads there.
async fn code_removed(e: &Evidence<'_>) -> Check {
    const NAME: &str = "Daytona removed";
    let result = async {
        if let Some(rollout) = Rollout::read(&e.client).await? {
            let left = left_upstream(e).await?;
            return Err(Failure::general(format!("{left} sandboxes are at {}, which is still configured", rollout.upstream)).hint(
                "move or delete them (`scripts/move-from-daytona.py`), then remove the section `rollout` of the configuration and restart the server",
            ));
        }
        if let Some(leads) = leads_here(e).await {
            let url = leads?;
            return Ok(Check::pass(
                NAME,
                format!("the server has no upstream, and Daytona's SDK in SUNA speaks to {url}"),
            ));
        }
        let Some(backend) = &e.options.backend else {
            return Ok(not_named(
                NAME,
                &format!("{LEAD_HERE}; or the backend's source by --backend"),
            ));
        };
        let lines = source::lines(backend, Kind::Code, source::imports_daytona)?;
        if lines.is_empty() {
            return Ok(Check::pass(
                NAME,
                "the server has no upstream, and nothing imports Daytona's SDK",
            ));
        }
        Err(Failure::general(format!(
            "Daytona's SDK is imported at {}",
            source::told(&lines)
        ))
        .hint("remove what imports it"))
    };
    decided(NAME, LEAD_HERE, result.await)
}

/// How many sandboxes are in the merged list and not in ours.
async fn left_upstream(e: &Evidence<'_>) -> Result<usize, Failure> {
    let ours = e.client.sandboxes().get().await?;
    let ours: Vec<&str> = ours["sandboxes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|found| found["uid"].as_str())
        .collect();
    let merged = e.client.path("/api/sandbox").get().await?;
    let items = merged.as_array().or_else(|| merged["items"].as_array());
    let ids = items
        .into_iter()
        .flatten()
        .filter_map(|found| found["id"].as_str());
    Ok(ids.filter(|id| !ours.contains(id)).count())
}

async fn dependencies(e: &Evidence<'_>) -> Check {
    const NAME: &str = "dependencies updated";
    let result = async {
        if let Some(leads) = leads_here(e).await {
            let url = leads?;
            return Ok(Check::pass(
                NAME,
                format!("Daytona's SDK stays: it is SUNA's client of {url}"),
            ));
        }
        let Some(backend) = &e.options.backend else {
            return Ok(not_named(
                NAME,
                &format!("{LEAD_HERE}; or the backend's source by --backend"),
            ));
        };
        let theirs = source::lines(backend, Kind::Dependencies, source::names_daytona)?;
        if !theirs.is_empty() {
            return Err(Failure::general(format!(
                "Daytona's packages are named at {}",
                source::told(&theirs)
            ))
            .hint("remove those lines, and lock the dependencies again"));
        }
        let ours = source::lines(backend, Kind::Dependencies, source::names_ours)?;
        if ours.is_empty() {
            return Err(Failure::general("no list of dependencies names sandboxai")
                .hint("add it to the backend's dependencies"));
        }
        Ok(Check::pass(
            NAME,
            format!(
                "none of Daytona's packages; sandboxai at {}",
                source::told(&ours)
            ),
        ))
    };
    decided(NAME, LEAD_HERE, result.await)
}

fn documentation(e: &Evidence<'_>) -> Check {
    const NAME: &str = "documentation updated";
    let Some(docs) = &e.options.docs else {
        return not_named(NAME, "name the folder of SUNA's own documents by --docs");
    };
    let result = source::lines(docs, Kind::Document, source::leads_to_daytona).and_then(|theirs| {
        if !theirs.is_empty() {
            return Err(Failure::general(format!(
                "readers are led to Daytona at {}",
                source::told(&theirs)
            ))
            .hint("say there how SUNA is set up now"));
        }
        let ours = source::lines(docs, Kind::Document, source::speaks_of_us)?;
        if ours.is_empty() {
            return Err(Failure::general("no document speaks of SandboxAI")
                .hint("say where sandboxes come from, and how the server is run"));
        }
        Ok(Check::pass(
            NAME,
            format!("SandboxAI is told of at {}", source::told(&ours)),
        ))
    });
    decided(NAME, "correct --docs", result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_works_when_nothing_fails() {
        let pass = Check::pass("kernel", "6.1");
        assert_eq!(
            runtime(std::slice::from_ref(&pass)).finding,
            "`sandboxai doctor` finds nothing wrong"
        );
        let warn = Check::warn("clock", "wrong");
        assert_eq!(
            runtime(&[pass.clone(), warn]).finding,
            "`sandboxai doctor` advises 1 changes"
        );
        let failed = runtime(&[pass, Check::fail("engine", "gone")]);
        assert_eq!(
            (failed.status, failed.finding.as_str()),
            (Status::Fail, "engine: gone")
        );
    }

    #[test]
    fn metrics_are_judged_where_there_is_no_rollout() {
        assert_eq!(error_rate("n", 1.0, 20.0).status, Status::Pass);
        assert_eq!(error_rate("n", 2.0, 20.0).status, Status::Fail);
        assert_eq!(error_rate("n", 0.0, 19.0).status, Status::Fail);
        assert_eq!(creation_time("n", 10.0, 5.0).status, Status::Pass);
        assert_eq!(creation_time("n", 10.0, 15.0).status, Status::Fail);
        assert_eq!(creation_time("n", 9.0, 0.1).status, Status::Fail);
    }

    #[test]
    fn failures_become_findings_with_a_fix() {
        let check = decided("n", "do this", Err(Failure::general("wrong")));
        assert_eq!(check, Check::fail("n", "wrong").fix("do this"));
        let check = decided(
            "n",
            "do this",
            Err(Failure::general("wrong").hint("do that")),
        );
        assert_eq!(check.fix.as_deref(), Some("do that"));
    }
}
