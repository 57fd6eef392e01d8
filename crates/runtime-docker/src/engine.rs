//! The runtime: asks the engine.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bollard::{
    API_DEFAULT_VERSION,
    exec::StartExecResults,
    models::{
        ContainerStateStatusEnum, ContainerSummary, ContainerSummaryStateEnum, ContainerUpdateBody,
        ExecConfig, NetworkCreateRequest,
    },
    query_parameters::{
        CreateContainerOptionsBuilder, InspectContainerOptions, KillContainerOptionsBuilder,
        ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, RenameContainerOptionsBuilder,
        StartContainerOptions, StatsOptionsBuilder, WaitContainerOptionsBuilder,
    },
};
use futures_util::StreamExt as _;
use sandbox::{
    AgentStream, Capabilities, Condition, Created, Ended, Error, Found, Id, Images, Leftovers,
    Limits, Result, Runtime, RuntimeClass, Spec, StepTime, Usage,
};
use tokio::{
    sync::OwnedMutexGuard,
    time::{sleep, timeout},
};

use crate::{
    Config, Guard,
    container::{
        self, AGENT, BRIDGE, ID_LABEL, OPEN_NETWORK, SCOPE_LABEL, SOCKET, running_name,
        stopped_name,
    },
    error::{failed, is_conflict, is_missing},
    stream::ExecStream,
};

/// How long one request to the engine may take; making a container on a busy
/// machine takes seconds.
const REQUEST_TIME_MAX_S: u64 = 120;
/// How long a stream to the agent may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// How often an agent that does not listen yet is asked again.
const CONNECT_AGAIN: Duration = Duration::from_millis(10);
/// How often an engine that does not answer is asked whether a sandbox has ended.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// How long a container that is being removed by somebody else may take.
const REMOVAL_TIME_MAX: Duration = Duration::from_secs(30);
/// Why nothing is archived.
const NO_ARCHIVE: &str =
    "the docker runtime does not archive; leave the sandbox stopped, or make an image of it";
/// The option of a network that names its bridge.
const BRIDGE_OPTION: &str = "com.docker.network.bridge.name";
/// What names of shims begin with.
const CONTAINERD_SHIM: &str = "io.containerd.";
/// Where commands start in an image that does not say.
const WORKDIR: &str = "/workspace";

/// A client of the engine at `host`, in the version of its API that both know.
///
/// # Errors
/// `Unavailable` when the engine does not answer.
pub(crate) async fn connect(host: &str) -> Result<bollard::Docker> {
    let engine = match host.strip_prefix("unix://") {
        Some(path) => {
            bollard::Docker::connect_with_unix(path, REQUEST_TIME_MAX_S, API_DEFAULT_VERSION)
        }
        None => bollard::Docker::connect_with_host(host),
    };
    engine
        .map_err(|error| failed(&format!("use the engine at {host}"), error))?
        .negotiate_version()
        .await
        .map_err(|error| failed(&format!("reach the engine at {host}"), error))
}

/// Sandboxes as containers.
#[derive(Debug)]
pub struct Docker {
    pub(crate) engine: bollard::Docker,
    pub(crate) config: Config,
    /// The agent's program on the host.
    agent: String,
    seccomp: Option<String>,
    capabilities: Capabilities,
    /// Creations under way. The engine goes on with one whose caller has gone, so
    /// a removal waits for it.
    turns: Mutex<HashMap<Id, Arc<Turn>>>,
}

type Turn = tokio::sync::Mutex<()>;

impl Docker {
    /// Connects to the engine and sees to what all sandboxes share, the network.
    ///
    /// # Errors
    /// `Unavailable` when the engine does not answer, or the failed step.
    pub async fn start(config: Config) -> Result<Self> {
        let engine = connect(&config.host).await?;
        let agent = agent_path(&config).display().to_string();
        let seccomp = config
            .seccomp_profile
            .as_ref()
            .map(|path| {
                fs::read_to_string(path).map_err(|error| {
                    Error::invalid(format!(
                        "docker.seccomp_profile: {}: {error}",
                        path.display()
                    ))
                })
            })
            .transpose()?;
        let network_open = match &config.guard {
            Guard::Failed(reason) => Err(reason.clone()),
            guard => open_network(&engine, guard).await,
        };
        if let Err(reason) = &network_open {
            tracing::warn!(reason, "sandboxes have no network");
        }
        sweep(&engine, &config.scope).await?;
        let runtime_classes = runtime_classes(&engine, &config).await?;
        Ok(Self {
            engine,
            config,
            agent,
            seccomp,
            turns: Mutex::default(),
            capabilities: Capabilities {
                runtime: "docker",
                network_open,
                limits: Ok(()),
                pause: Ok(()),
                archive: Err(NO_ARCHIVE.to_owned()),
                runtime_classes: Ok(runtime_classes),
            },
        })
    }

    /// What the engine knows of a sandbox's container, by either of its names.
    async fn inspect(&self, id: &Id) -> Result<Option<Inspected>> {
        for (name, stopped) in [(running_name(id), false), (stopped_name(id), true)] {
            let inspected = self
                .engine
                .inspect_container(&name, None::<InspectContainerOptions>);
            match inspected.await {
                Ok(found) => {
                    let state = found.state.unwrap_or_default();
                    return Ok(Some(Inspected {
                        name,
                        stopped,
                        alive: state.running.unwrap_or(false),
                        paused: state.status == Some(ContainerStateStatusEnum::PAUSED),
                        out_of_memory: state.oom_killed.unwrap_or(false),
                        exit_code: state.exit_code.unwrap_or(-1),
                    }));
                }
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(failed("look at the container", error)),
            }
        }
        Ok(None)
    }

    async fn must_find(&self, id: &Id) -> Result<Inspected> {
        let found = self.inspect(id).await?;
        found.ok_or_else(|| Error::not_found(format!("there is no sandbox {id}")))
    }

    async fn workdir(&self, spec: &Spec) -> Result<String> {
        let image = spec.image.to_string();
        match self.engine.inspect_image(&image).await {
            Ok(found) => Ok(found
                .config
                .and_then(|config| config.working_dir)
                .filter(|workdir| workdir.starts_with('/'))
                .unwrap_or_else(|| WORKDIR.to_owned())),
            Err(error) if is_missing(&error) => Err(Error::invalid(format!(
                "field `image`: the engine has no image {image}; get it with `docker pull` or `docker load`, `docker image ls` lists what is there"
            ))),
            Err(error) => Err(failed("look at the image", error)),
        }
    }

    /// Who may make or remove the container of a sandbox; one at a time.
    async fn turn(&self, id: &Id) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds any more.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(id.clone()).or_default())
        };
        turn.lock_owned().await
    }

    async fn start_container(&self, id: &Id) -> Result<()> {
        self.engine
            .start_container(&running_name(id), None::<StartContainerOptions>)
            .await
            .map_err(|error| failed("start the container", error))
    }

    /// One relay to the agent; `Unavailable` when the agent does not listen yet.
    async fn relay(&self, id: &Id) -> Result<ExecStream> {
        let config = ExecConfig {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            user: Some("0:0".to_owned()),
            cmd: Some([AGENT, "--relay", SOCKET].map(str::to_owned).to_vec()),
            ..ExecConfig::default()
        };
        let exec = self.engine.create_exec(&running_name(id), config).await;
        let exec = exec.map_err(|error| match is_missing(&error) || is_conflict(&error) {
            true => Error::lost(format!("sandbox {id} is not running")).with_source(error),
            false => failed("connect to the agent", error),
        })?;
        let started = self.engine.start_exec(&exec.id, None).await;
        match started.map_err(|error| failed("connect to the agent", error))? {
            StartExecResults::Attached { output, input } => {
                let relay = ExecStream::new(output, input).ready().await;
                // The container ended meanwhile, or its agent does not listen yet.
                relay.map_err(|error| {
                    Error::unavailable(format!("the relay to the agent of {id}: {error}"))
                        .with_source(error)
                })
            }
            StartExecResults::Detached => Err(Error::internal("the engine detached the relay")),
        }
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let options = RenameContainerOptionsBuilder::default().name(to).build();
        match self.engine.rename_container(from, options).await {
            Err(error) if !is_missing(&error) => Err(failed("rename the container", error)),
            _ => Ok(()),
        }
    }

    /// Waits until the engine has forgotten a container that is being removed.
    async fn forgotten(&self, id: &Id) -> Result<()> {
        let end = Instant::now() + REMOVAL_TIME_MAX;
        while self.inspect(id).await?.is_some() {
            if Instant::now() > end {
                return Err(Error::timeout(format!(
                    "the engine has not removed the container of {id} within {REMOVAL_TIME_MAX:?}"
                )));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// A container as the engine tells it.
struct Inspected {
    name: String,
    stopped: bool,
    alive: bool,
    paused: bool,
    out_of_memory: bool,
    exit_code: i64,
}

/// Where the agent's program is on the host: under a name of its content, so
/// that running sandboxes keep theirs.
fn agent_path(config: &Config) -> PathBuf {
    let name = format!("agent-{:016x}", fingerprint(config.agent));
    config.run_dir.join("docker").join(name)
}

/// Puts the agent's program where the engine can mount it from; to be called
/// before [`Docker::start`], with the rights to write there.
///
/// # Errors
/// When it cannot be written.
pub fn put_agent(config: &Config) -> Result<()> {
    let folder = config.run_dir.join("docker");
    let path = agent_path(config);
    let put = || -> io::Result<()> {
        if path.exists() {
            return Ok(());
        }
        fs::create_dir_all(&folder)?;
        let draft = folder.join(format!("agent.{}", std::process::id()));
        fs::write(&draft, config.agent)?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
        fs::rename(&draft, &path)
    };
    put().map_err(|error| {
        Error::internal(format!(
            "cannot put the agent at {}: {error}",
            path.display()
        ))
        .with_source(error)
    })
}

/// FNV-1a: tells versions of the agent apart, protects against nothing.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Sees to the network of sandboxes that may reach the internet.
///
/// # Errors
/// Why there is none, or none that is limited as it should be; for people.
async fn open_network(engine: &bollard::Docker, guard: &Guard) -> std::result::Result<(), String> {
    make_network(engine).await.map_err(|error| error.message)?;
    if *guard == Guard::Off {
        return Ok(());
    }
    let options = None::<bollard::query_parameters::InspectNetworkOptions>;
    let network = engine.inspect_network(OPEN_NETWORK, options).await;
    let network = network.map_err(|error| failed("look at the network", error).message)?;
    let options = network.options.unwrap_or_default();
    if options.get(BRIDGE_OPTION).map(String::as_str) != Some(BRIDGE) {
        return Err(format!(
            "the engine's network `{OPEN_NETWORK}` is not on the bridge {BRIDGE}; remove it with `docker network rm {OPEN_NETWORK}` and start again"
        ));
    }
    // Engines in a namespace or on a machine of their own have it there.
    match Path::new("/sys/class/net").join(BRIDGE).exists() {
        true => Ok(()),
        false => Err(format!(
            "the engine's bridge {BRIDGE} is not on this host, so what sandboxes reach cannot be limited here; with `docker.network_guard = false` the engine's network decides"
        )),
    }
}

/// The runtime classes that may be chosen: the default one and those that are configured.
///
/// # Errors
/// `InvalidRequest` when the engine does not have one of them.
async fn runtime_classes(engine: &bollard::Docker, config: &Config) -> Result<Vec<RuntimeClass>> {
    let told = engine
        .info()
        .await
        .map_err(|error| failed("ask the engine for its runtimes", error))?;
    let has: BTreeSet<String> = told.runtimes.unwrap_or_default().into_keys().collect();
    let wanted = config
        .oci_runtime
        .iter()
        .map(|class| ("oci_runtime", class));
    let more = config.runtime_classes.iter();
    for (key, class) in wanted.chain(more.map(|class| ("runtime_classes", class))) {
        // The engine finds shims of containerd by their names, without telling them.
        if !has.contains(class.as_str()) && !class.as_str().starts_with(CONTAINERD_SHIM) {
            return Err(Error::invalid(format!(
                "docker.{key}: the engine has no runtime `{class}`, it has {}; add it to `runtimes` in its daemon.json",
                Vec::from_iter(has).join(", ")
            )));
        }
    }
    let default = config.oci_runtime.clone();
    let default = default.or_else(|| told.default_runtime?.parse().ok());
    let all = default.into_iter().chain(config.runtime_classes.clone());
    let mut classes = Vec::new();
    for class in all {
        if !classes.contains(&class) {
            classes.push(class);
        }
    }
    Ok(classes)
}

/// The network of sandboxes that may reach the internet; they cannot reach each other.
async fn make_network(engine: &bollard::Docker) -> Result<()> {
    let request = NetworkCreateRequest {
        name: OPEN_NETWORK.to_owned(),
        driver: Some("bridge".to_owned()),
        options: Some(HashMap::from([
            (BRIDGE_OPTION.to_owned(), BRIDGE.to_owned()),
            (
                "com.docker.network.bridge.enable_icc".to_owned(),
                "false".to_owned(),
            ),
        ])),
        ..NetworkCreateRequest::default()
    };
    let found = engine.inspect_network(
        OPEN_NETWORK,
        None::<bollard::query_parameters::InspectNetworkOptions>,
    );
    match found.await {
        Ok(_) => Ok(()),
        Err(error) if is_missing(&error) => match engine.create_network(request).await {
            Err(error) if !is_conflict(&error) => Err(failed("make the network", error)),
            _ => Ok(()),
        },
        Err(error) => Err(failed("look at the network", error)),
    }
}

/// Measures consecutive steps.
struct Steps(Vec<StepTime>, Instant);

impl Steps {
    fn end(&mut self, step: &str) {
        let now = Instant::now();
        self.0.push(StepTime {
            step: step.to_owned(),
            duration: now - self.1,
        });
        self.1 = now;
    }
}

/// The containers of a scope.
async fn containers(engine: &bollard::Docker, scope: &str) -> Result<Vec<ContainerSummary>> {
    let label = format!("{SCOPE_LABEL}={scope}");
    let options = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(&HashMap::from([("label", vec![label])]))
        .build();
    let containers = engine.list_containers(Some(options)).await;
    containers.map_err(|error| failed("list the containers", error))
}

/// The ids of containers of a scope that are no sandboxes: those that images are
/// derived by.
async fn nobodys(engine: &bollard::Docker, scope: &str) -> Result<Vec<String>> {
    let containers = containers(engine, scope).await?.into_iter();
    let nobodys = containers.filter_map(|container| {
        let id = container.id.clone();
        id.filter(|_| found(container).is_none())
    });
    Ok(nobodys.collect())
}

/// Removes what a server left that was killed while it derived an image.
async fn sweep(engine: &bollard::Docker, scope: &str) -> Result<()> {
    for container in nobodys(engine, scope).await? {
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        match engine.remove_container(&container, Some(options)).await {
            Err(error) if !is_missing(&error) && !is_conflict(&error) => {
                return Err(failed("remove a container that is nobody's", error));
            }
            _ => tracing::info!(container, "removed what is nobody's"),
        }
    }
    Ok(())
}

/// A sandbox of a list; `None` for what is no sandbox of ours.
fn found(summary: ContainerSummary) -> Option<Found> {
    let labels = summary.labels.unwrap_or_default();
    let id: Id = labels.get(ID_LABEL)?.parse().ok()?;
    let stopped = format!("/{}", stopped_name(&id));
    let is_stopped = summary.names.iter().flatten().any(|name| *name == stopped);
    let alive = matches!(
        summary.state,
        Some(ContainerSummaryStateEnum::RUNNING | ContainerSummaryStateEnum::PAUSED)
    );
    Some(Found {
        id,
        condition: match (alive, is_stopped) {
            (true, false) => Condition::Alive,
            (false, true) => Condition::Stopped,
            (false, false) | (true, true) => Condition::Dead,
        },
        host_restarted: false,
    })
}

#[async_trait]
impl Runtime for Docker {
    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    async fn check(&self, spec: &Spec) -> Result<()> {
        self.workdir(spec).await.map(drop)
    }

    async fn create(&self, id: &Id, spec: &Spec) -> Result<Created> {
        let workdir = self.workdir(spec).await?;
        let seccomp = self.seccomp.as_deref();
        let body = container::body(&self.config, id, spec, &self.agent, &workdir, seccomp);
        let name = running_name(id);
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let turn = self.turn(id).await;
        let engine = self.engine.clone();
        // A task of its own, since the caller may go away.
        let making = tokio::spawn(async move {
            let _turn = turn;
            let mut steps = Steps(Vec::new(), Instant::now());
            let made = engine.create_container(Some(options), body).await;
            made.map_err(|error| failed("make the container", error))?;
            steps.end("container");
            let started = engine.start_container(&name, None::<StartContainerOptions>);
            started
                .await
                .map_err(|error| failed("start the container", error))?;
            steps.end("start");
            Ok(Created { steps: steps.0 })
        });
        making
            .await
            .map_err(|error| Error::internal("making a container").with_source(error))?
    }

    async fn connect(&self, id: &Id) -> Result<AgentStream> {
        let connect = async {
            loop {
                let found = self.inspect(id).await?;
                let Some(found) = found.filter(|found| found.alive && !found.stopped) else {
                    return Err(Error::lost(format!("sandbox {id} is not running")));
                };
                if found.paused {
                    return Err(Error::conflict(format!("sandbox {id} is paused")));
                }
                match self.relay(id).await {
                    Ok(stream) => return Ok(Box::new(stream) as AgentStream),
                    Err(error) if error.kind == sandbox::Kind::Unavailable => {
                        sleep(CONNECT_AGAIN).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        timeout(CONNECT_TIME_MAX, connect).await.map_err(|_| {
            Error::timeout(format!(
                "the agent of sandbox {id} does not accept connections"
            ))
        })?
    }

    async fn ended(&self, id: &Id) -> Result<Ended> {
        loop {
            let options = WaitContainerOptionsBuilder::default()
                .condition("not-running")
                .build();
            let mut waiting = self.engine.wait_container(&running_name(id), Some(options));
            // Its end, the engine's end, or a container that is not there: look.
            let _told = waiting.next().await;
            match self.inspect(id).await {
                Ok(None) => return Err(Error::not_found(format!("there is no sandbox {id}"))),
                Ok(Some(found)) if !found.alive => {
                    return Ok(Ended {
                        out_of_memory: found.out_of_memory,
                        detail: format!("it exited with status {}", found.exit_code),
                    });
                }
                // Still alive, or the engine is being restarted underneath it.
                Ok(Some(_)) | Err(_) => sleep(ASK_AGAIN).await,
            }
        }
    }

    async fn pause(&self, id: &Id) -> Result<()> {
        match self.engine.pause_container(&running_name(id)).await {
            Err(error) if is_conflict(&error) && self.must_find(id).await?.paused => Ok(()),
            paused => paused.map_err(|error| failed("pause the container", error)),
        }
    }

    async fn resume(&self, id: &Id) -> Result<()> {
        match self.engine.unpause_container(&running_name(id)).await {
            Err(error) if !self.must_find(id).await?.paused => {
                drop(error);
                Ok(())
            }
            resumed => resumed.map_err(|error| failed("resume the container", error)),
        }
    }

    async fn stop(&self, id: &Id) -> Result<()> {
        let found = self.must_find(id).await?;
        if found.paused {
            self.resume(id).await?;
        }
        if found.alive {
            let options = KillContainerOptionsBuilder::default()
                .signal("SIGKILL")
                .build();
            let killed = self.engine.kill_container(&found.name, Some(options)).await;
            if let Err(error) = killed
                && !is_conflict(&error)
            {
                return Err(failed("stop the container", error));
            }
            let options = WaitContainerOptionsBuilder::default()
                .condition("not-running")
                .build();
            let mut waiting = self.engine.wait_container(&found.name, Some(options));
            let _ended = timeout(REMOVAL_TIME_MAX, waiting.next()).await;
            if self.must_find(id).await?.alive {
                return Err(Error::timeout(format!(
                    "the container of {id} does not stop"
                )));
            }
        }
        match found.stopped {
            true => Ok(()),
            false => self.rename(&found.name, &stopped_name(id)).await,
        }
    }

    async fn start(&self, id: &Id, spec: &Spec) -> Result<Created> {
        let mut steps = Steps(Vec::new(), Instant::now());
        let found = self.must_find(id).await?;
        if !found.stopped {
            return Err(Error::conflict(format!("sandbox {id} is not stopped")));
        }
        let update = self
            .engine
            .update_container(&found.name, limits(&spec.limits));
        update
            .await
            .map_err(|error| failed("set the limits of the container", error))?;
        self.rename(&found.name, &running_name(id)).await?;
        steps.end("limits");
        self.start_container(id).await?;
        steps.end("start");
        Ok(Created { steps: steps.0 })
    }

    async fn archive(&self, id: &Id) -> Result<()> {
        self.must_find(id).await?;
        Err(Error::conflict(NO_ARCHIVE))
    }

    async fn restore(&self, id: &Id) -> Result<()> {
        match self.must_find(id).await?.stopped {
            true => Ok(()),
            false => Err(Error::conflict(format!("sandbox {id} is not archived"))),
        }
    }

    async fn resize(&self, id: &Id, wanted: &Limits) -> Result<()> {
        let found = self.must_find(id).await?;
        if found.stopped {
            return Err(Error::conflict(format!("sandbox {id} is stopped")));
        }
        self.engine
            .update_container(&found.name, limits(wanted))
            .await
            .map_err(|error| failed("set the limits of the container", error))
    }

    async fn destroy(&self, id: &Id) -> Result<()> {
        let _turn = self.turn(id).await;
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        for name in [running_name(id), stopped_name(id)] {
            match self
                .engine
                .remove_container(&name, Some(options.clone()))
                .await
            {
                Ok(()) => {}
                Err(error) if is_missing(&error) => {}
                // Somebody else removes it just now.
                Err(error) if is_conflict(&error) => self.forgotten(id).await?,
                Err(error) => return Err(failed("remove the container", error)),
            }
        }
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Found>> {
        let containers = containers(&self.engine, &self.config.scope).await?;
        Ok(containers.into_iter().filter_map(found).collect())
    }

    async fn usage(&self, id: &Id) -> Result<Usage> {
        let options = StatsOptionsBuilder::default()
            .stream(false)
            .one_shot(true)
            .build();
        let name = running_name(id);
        let mut stats = self.engine.stats(&name, Some(options));
        let stats = match stats.next().await {
            Some(Ok(stats)) => stats,
            Some(Err(error)) => return Err(failed("measure the container", error)),
            None => return Err(Error::not_found(format!("there is no sandbox {id}"))),
        };
        let cpu_ns = stats
            .cpu_stats
            .and_then(|cpu| cpu.cpu_usage)
            .and_then(|usage| usage.total_usage);
        Ok(Usage {
            memory_bytes: stats
                .memory_stats
                .and_then(|memory| memory.usage)
                .unwrap_or(0),
            cpu_us: cpu_ns.unwrap_or(0) / 1000,
            pids: stats
                .pids_stats
                .and_then(|pids| pids.current)
                .and_then(|count| u32::try_from(count).ok())
                .unwrap_or(0),
            oom_kills: 0,
        })
    }

    async fn leftovers(&self) -> Result<Vec<Leftovers>> {
        let nobodys = nobodys(&self.engine, &self.config.scope).await?;
        Ok(vec![Leftovers {
            kind: "container".to_owned(),
            objects: nobodys,
        }])
    }

    fn images(&self) -> Option<&dyn Images> {
        Some(self)
    }
}

fn limits(limits: &Limits) -> ContainerUpdateBody {
    ContainerUpdateBody {
        memory: Some(container::whole(limits.memory_bytes)),
        memory_swap: Some(container::whole(limits.memory_bytes)),
        nano_cpus: Some(container::nano_cpus(limits)),
        pids_limit: Some(i64::from(limits.pids)),
        ..ContainerUpdateBody::default()
    }
}
