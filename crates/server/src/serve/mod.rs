//! The server: from root and one thread to an unprivileged listener.
//!
//! The order matters. The spawner is started and the port is bound while the
//! process is root and single-threaded; then root is given up for good; only
//! then come threads, the store and the first byte from outside.

mod authentication;
mod connection;
mod forwarded;
mod held;
mod host;
mod log;
mod metrics;
mod privilege;
mod rollout;
mod runtime;
mod scope;
mod stop;

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, middleware, routing::get};
use control::Control;
use facade_daytona::preview::Gate;

use crate::{
    config::{Config, Environment},
    exit_code::ExitCode,
    failure::Failure,
    preview::{self, Previews},
};
pub(crate) use forwarded::Peer;
use runtime::Prepared;
pub use runtime::{docker_config, embedded_config};
use scope::Scope;
use stop::{ClientWatch, Stop};

/// The hidden subcommand whose process makes the namespaces.
pub const SPAWNER_COMMAND: &str = "__spawner";
/// Threads for requests at least: one slow call must not stop all others.
const WORKER_THREADS_MIN: usize = 2;
/// How long the runtime's last threads may take to end.
const RUNTIME_END_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs the server until it is told to stop.
///
/// # Errors
/// Why it could not start, or what failed at its end.
pub fn serve(config: &Config, environment: &Environment) -> Result<ExitCode, Failure> {
    log::start(&config.log, environment);
    privilege::require_root()?;
    let client = watch_client(config)?;
    let scope = Scope::prepare(&config.server)?;
    let runtime = Prepared::new(config)?;
    let store = scope.show(&config.server.run_dir)?;
    let listener = bind(config.listen_address())?;
    privilege::drop_to(config.server.user, &runtime.groups()?)?;
    let threads = std::thread::available_parallelism().map_or(WORKER_THREADS_MIN, |count| {
        count.get().max(WORKER_THREADS_MIN)
    });
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(Failure::to("cannot start the threads of the server"))?;
    let result = tokio.block_on(run(config, store, runtime, listener, client));
    tokio.shutdown_timeout(RUNTIME_END_TIMEOUT);
    if config.server.delete_on_shutdown && result.is_ok() {
        scope.remove();
    }
    result.map(|()| ExitCode::Ok)
}

/// Does `work` with sandboxes of its own, all gone at its end, without serving
/// anybody: for commands that build images. The process stays root.
///
/// # Errors
/// Why that could not be made ready, or what the work says.
pub fn without_listening<T>(
    config: &Config,
    work: impl AsyncFnOnce(Control) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut config = config.clone();
    config.server.scope = format!("command-{}", sandbox::Id::random()?);
    config.server.delete_on_shutdown = true;
    config.server.user = crate::config::User::Root;
    let scope = Scope::prepare(&config.server)?;
    let runtime = Prepared::new(&config)?;
    let store = scope.show(&config.server.run_dir)?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS_MIN)
        .enable_all()
        .build()
        .map_err(Failure::to("cannot start"))?;
    let result = tokio.block_on(async {
        let control = start(&config, store, runtime).await?;
        let result = work(control.clone()).await;
        control.shutdown(config.server.shutdown_grace).await?;
        result
    });
    tokio.shutdown_timeout(RUNTIME_END_TIMEOUT);
    scope.remove();
    result
}

/// The client to watch, when the server is to end with it.
fn watch_client(config: &Config) -> Result<Option<ClientWatch>, Failure> {
    if config.server.exit_with_client == Some(true) {
        return ClientWatch::of_process()
            .map(Some)
            .map_err(Failure::to("cannot watch the client"));
    }
    Ok(None)
}

async fn run(
    config: &Config,
    store: PathBuf,
    runtime: Prepared,
    listener: TcpListener,
    client: Option<ClientWatch>,
) -> Result<(), Failure> {
    let stop = Stop::listen(client).map_err(Failure::to("cannot listen for signals"))?;
    let sides = rollout::Sides::open(config, &store)?;
    let control = tokio::select! {
        control = start(config, store.clone(), runtime) => control?,
        // Whatever was begun is found by the next start.
        () = stop.requested() => return Ok(()),
    };
    let address = listener
        .local_addr()
        .map_err(Failure::to("cannot tell the port"))?;
    let router = router(control.clone(), config, &store, sides);
    announce(config, address);
    connection::serve(listener, router, &config.server, &stop)
        .await
        .map_err(Failure::to(format!("cannot serve {address}")))?;
    tokio::select! {
        result = control.shutdown(config.server.shutdown_grace) => result.map_err(Failure::from),
        () = stop.at_once() => {
            tracing::info!("stopped at once by a second signal");
            Ok(())
        }
    }
}

/// Takes over what is there and gets ready to make more.
async fn start(config: &Config, store: PathBuf, runtime: Prepared) -> Result<Control, Failure> {
    let runtime = runtime.start().await?;
    let clock = Arc::new(control::SystemClock);
    let config_of_control = control_config(config, store);
    let control = Control::start(config_of_control, runtime, clock).await?;
    Ok(match config.fetch_images {
        true => control.with_fetch(Arc::new(fetch(config)?)),
        false => control,
    })
}

/// What gets images from registries.
///
/// # Errors
/// When the configured certificates cannot be used.
pub fn fetch(config: &Config) -> Result<image_pull::HttpFetch, Failure> {
    let ca_certificates = match &config.ca_certificates {
        Some(path) => {
            std::fs::read(path).map_err(Failure::to(format!("cannot read {}", path.display())))?
        }
        None => Vec::new(),
    };
    let credentials = config.registry_credentials.iter();
    let credentials = credentials.map(|(host, (username, password))| {
        let credentials = image_pull::Credentials {
            username: username.clone(),
            password: password.reveal().to_owned(),
        };
        (host.clone(), credentials)
    });
    Ok(image_pull::HttpFetch::new(image_pull::FetchConfig {
        credentials: credentials.collect(),
        ca_certificates,
        ..image_pull::FetchConfig::default()
    })?)
}

/// The facades behind the doors that every request passes.
fn router(
    control: Control,
    config: &Config,
    store: &Path,
    sides: Option<rollout::Sides>,
) -> Router {
    let keys = authentication::Keys::new(&config.server.api_keys);
    let native = facade_sandboxai::FacadeConfig {
        output_bytes_max: config.output_bytes_max,
        ..facade_sandboxai::FacadeConfig::default()
    };
    let native = facade_sandboxai::router(control.clone(), native).layer(
        middleware::from_fn_with_state(keys.clone(), authentication::check),
    );
    let (upstream, rollout) = sides.map(|sides| (sides.upstream, sides.rollout)).unzip();
    let daytona = facade_daytona::FacadeConfig {
        contexts_dir: store.with_file_name("contexts"),
        upstream,
        rollout: rollout.clone(),
        ..daytona_config(config, keys.clone())
    };
    let previews = previews(&control, &daytona, config);
    let metrics =
        metrics::Metrics::new(control.clone(), store.with_file_name(""), rollout.as_ref());
    let own = Router::new()
        .route("/metrics", get(metrics::page))
        .with_state(metrics.clone())
        .merge(rollout::routes(rollout))
        .route_layer(middleware::from_fn_with_state(
            keys.clone(),
            authentication::check,
        ));
    let facades = native
        .merge(facade_daytona::router(control, daytona))
        .merge(own)
        .layer(middleware::from_fn_with_state(
            host::Allowed::new(&config.server.allowed_hosts, keys),
            host::check,
        ))
        .layer(middleware::from_fn_with_state(metrics, metrics::count));
    // Before the check of the host, since who knows an address of a preview
    // means it; and before the choice of a route, since some lead to the toolbox.
    Router::new()
        .fallback_service(facades)
        .layer(middleware::from_fn_with_state(previews, preview::serve))
        .layer(middleware::from_fn_with_state(
            forwarded::Trusted::new(&config.server.trusted_proxies),
            forwarded::scrub,
        ))
}

/// The way to ports inside sandboxes.
fn previews(
    control: &Control,
    daytona: &facade_daytona::FacadeConfig,
    config: &Config,
) -> Previews {
    Previews::new(
        control.clone(),
        Gate::new(control.clone(), daytona),
        config.links.clone(),
        config.preview.clone(),
    )
}

/// Daytona's SDKs always send a key; where none is configured any will do.
fn daytona_config(config: &Config, keys: authentication::Keys) -> facade_daytona::FacadeConfig {
    facade_daytona::FacadeConfig {
        has_keys: keys.are_needed(),
        accepts_key: Arc::new(move |given| match keys.are_needed() {
            true => keys.contain(given),
            false => !given.is_empty(),
        }),
        output_bytes_max: config.output_bytes_max,
        links: config.links.clone(),
        ..facade_daytona::FacadeConfig::new(config.defaults.image.to_string())
    }
}

fn control_config(config: &Config, store: PathBuf) -> control::Config {
    control::Config {
        store,
        delete_on_shutdown: config.server.delete_on_shutdown,
        defaults: config.defaults.clone(),
        limits_max: config.limits_max,
        sandboxes_max: config.sandboxes_max,
        creations_at_once: config.creations_at_once,
        create_timeout: config.create_timeout,
        tombstone_ttl: config.tombstone_ttl,
        image_aliases: config.image_aliases.clone(),
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).map_err(|error| {
        let failure = Failure::general(format!("cannot listen on {address}: {error}"));
        match error.kind() {
            io::ErrorKind::AddrInUse => failure.hint(
                "another program has the port, perhaps another `sandboxai serve`; stop it, or choose another port with --port",
            ),
            io::ErrorKind::AddrNotAvailable => {
                failure.hint("this machine has no such address; choose another one with --host")
            }
            _ => failure,
        }
    })
}

/// Tells where the server is: for people in the log, for programs that asked
/// for any free port as the first line of standard output.
fn announce(config: &Config, address: SocketAddr) {
    if config.server.port == 0 {
        let line = format!(
            "{{\"host\":\"{}\",\"port\":{}}}\n",
            address.ip(),
            address.port()
        );
        let mut stdout = io::stdout().lock();
        if let Err(error) = stdout
            .write_all(line.as_bytes())
            .and_then(|()| stdout.flush())
        {
            tracing::warn!(%error, "nobody reads the port on standard output");
        }
    }
    tracing::info!(
        url = format!("http://{address}"),
        scope = config.server.scope,
        version = env!("CARGO_PKG_VERSION"),
        "ready"
    );
}
