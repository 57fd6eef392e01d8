//! From texts to typed values, and what must hold between them.

mod rollout;

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use axum::http::uri::Authority;
use facade_daytona::preview_url::{LinkForm, Links};
use ipnet::IpNet;
use runtime_embedded::network::{AddressError, Ipv4Network, NetworkConfig};
use sandbox::{Image, Limits, RuntimeClass};

use super::{
    Config, DockerEngine, Environment, Log, Problem, Raw, RuntimeChoice, Secret, Server, User,
    Value,
    parse::{cpu_millis, duration, duration_or_never, size},
    table,
};
use crate::preview::PreviewConfig;

/// Shortest key accepted: anything shorter can be guessed.
const API_KEY_CHARS_MIN: usize = 16;
/// Longest scope: it becomes part of folder names.
const SCOPE_CHARS_MAX: usize = 63;

/// Checks all values. Where one is wrong the problem is added and its default
/// stands in, so that one run tells all problems.
pub(super) fn check(raw: &Raw, environment: &Environment, problems: &mut Vec<Problem>) -> Config {
    let mut check = Check { raw, problems };
    let config = Config {
        server: check.server(),
        runtime: check.runtime(),
        docker: check.docker(),
        defaults: check.defaults(),
        ca_certificates: check.ca_certificates(environment),
        limits_max: Limits {
            memory_bytes: check.scalar("limits.memory", size),
            cpu_millis: check.scalar("limits.cpu", cpu_millis),
            pids: check.scalar("limits.pids", count32),
        },
        sandboxes_max: check.scalar("limits.sandboxes", count),
        creations_at_once: check.scalar("limits.creations_at_once", count),
        create_timeout: check.scalar("limits.create_timeout", duration),
        tombstone_ttl: check.scalar("limits.tombstone_ttl", duration),
        output_bytes_max: check.scalar("limits.output", |text| {
            usize::try_from(size(text)?).map_err(|_| "too large".to_owned())
        }),
        image_aliases: check.value("images.aliases", aliases),
        fetch_images: check.scalar("images.fetch", switch),
        registry_credentials: check
            .items("images.credentials", credentials)
            .into_iter()
            .collect(),
        network: check.network(),
        links: check.links(),
        preview: PreviewConfig {
            auto_start: check.scalar("preview.auto_start", switch),
            connections_max: check.scalar("preview.connections_max", count),
            idle_timeout: check.scalar("preview.idle_timeout", duration),
        },
        rollout: check.rollout(),
        log: Log {
            json: check.scalar("log.format", |text| one_of(text, &["text", "json"])) == "json",
            level: check.scalar("log.level", log_level),
        },
    };
    check.together(&config);
    config
}

/// The address to listen on alone.
pub(super) fn address_of(raw: &Raw, problems: &mut Vec<Problem>) -> (IpAddr, u16) {
    let mut check = Check { raw, problems };
    (check.host(), check.port())
}

struct Check<'a> {
    raw: &'a Raw,
    problems: &'a mut Vec<Problem>,
}

impl Check<'_> {
    /// The value of `key` as `parse` understands it.
    fn value<T>(&mut self, key: &'static str, parse: impl Fn(&Value) -> Result<T, String>) -> T {
        let given = self.raw.get(key);
        parse(&given.value).unwrap_or_else(|problem| {
            let entry = table::find(key).expect("checked keys are in the table");
            self.problems.push(Problem::Invalid {
                key: entry.name,
                value: if entry.form.is_secret() {
                    String::new()
                } else {
                    given.value.to_string()
                },
                origin: given.origin.clone(),
                problem,
                form: entry.form.describe(),
            });
            parse(&entry.default_value()).expect("the defaults of the table are valid: tested")
        })
    }

    fn scalar<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        self.value(key, |value| match value {
            Value::Scalar(text) => parse(text),
            Value::List(_) => Err("a list is not expected here".to_owned()),
            Value::Map(_) => Err("a table is not expected here".to_owned()),
        })
    }

    fn list(&mut self, key: &'static str) -> Vec<String> {
        self.items(key, |text| Ok(text.to_owned()))
    }

    fn items<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        self.value(key, |value| match value {
            Value::List(items) => items.iter().map(|item| parse(item)).collect(),
            Value::Scalar(text) if text.is_empty() => Ok(Vec::new()),
            Value::Scalar(text) => Ok(vec![parse(text)?]),
            Value::Map(_) => Err("a table is not expected here".to_owned()),
        })
    }

    fn conflict(&mut self, key: &'static str, problem: String) {
        self.problems.push(Problem::Conflict {
            key,
            origin: self.raw.get(key).origin.clone(),
            problem,
        });
    }

    fn host(&mut self) -> IpAddr {
        self.scalar("server.host", address)
    }

    fn port(&mut self) -> u16 {
        self.scalar("server.port", |text| {
            text.parse().map_err(|_| "not a port".to_owned())
        })
    }

    fn server(&mut self) -> Server {
        let exit_with_client = self.scalar("server.exit_with_client", switch);
        let exit_said = self.raw.get("server.exit_with_client").origin != super::Origin::Default;
        let mut api_keys = self.items("server.api_keys", api_key);
        if let Some(path) = self.scalar("server.api_keys_file", optional_path) {
            api_keys.extend(self.api_keys_file(&path));
        }
        Server {
            host: self.host(),
            port: self.port(),
            scope: self.scalar("server.scope", scope),
            delete_on_shutdown: self.scalar("server.delete_on_shutdown", switch),
            exit_with_client: exit_said.then_some(exit_with_client),
            user: self.scalar("server.user", user),
            state_dir: self.scalar("server.state_dir", absolute_path),
            run_dir: self.scalar("server.run_dir", absolute_path),
            api_keys,
            allowed_hosts: self
                .list("server.allowed_hosts")
                .into_iter()
                .map(|host| host.to_ascii_lowercase())
                .collect(),
            trusted_proxies: self.items("server.trusted_proxies", ip_network),
            connections_max: self.scalar("server.connections_max", count),
            header_timeout: self.scalar("server.header_timeout", duration),
            shutdown_grace: self.scalar("server.shutdown_grace", duration),
        }
    }

    fn runtime(&mut self) -> RuntimeChoice {
        self.scalar("server.runtime", |text| {
            let choice = one_of(text, &["embedded", "docker"])?;
            Ok(match choice {
                "docker" => RuntimeChoice::Docker,
                _ => RuntimeChoice::Embedded,
            })
        })
    }

    fn docker(&mut self) -> DockerEngine {
        DockerEngine {
            host: self.scalar("docker.host", engine_address),
            oci_runtime: self.scalar("docker.oci_runtime", oci_runtime),
            runtime_classes: self.items("docker.runtime_classes", runtime_class),
            seccomp_profile: self.scalar("docker.seccomp_profile", optional_path),
            network_guard: self.scalar("docker.network_guard", switch),
        }
    }

    fn defaults(&mut self) -> control::Defaults {
        control::Defaults {
            image: self.scalar("sandbox.image", image),
            limits: Limits {
                memory_bytes: self.scalar("sandbox.memory", size),
                cpu_millis: self.scalar("sandbox.cpu", cpu_millis),
                pids: self.scalar("sandbox.pids", count32),
            },
            network: self.scalar("sandbox.network", |text| {
                text.parse().map_err(|_| "not a network mode".to_owned())
            }),
            idle_timeout: self.scalar("sandbox.idle_timeout", duration_or_never),
            lifetime_max: self.scalar("sandbox.lifetime_max", duration_or_never),
        }
    }

    fn ca_certificates(&mut self, environment: &Environment) -> Option<PathBuf> {
        self.scalar("sandbox.ca_certificates", |text| match text {
            "" => Ok(None),
            "host" => environment
                .host_ca_certificates()
                .map(Some)
                .ok_or_else(|| "the host has no bundle in the usual places".to_owned()),
            path => {
                let path = absolute_path(path)?;
                fs::File::open(&path).map_err(|error| format!("cannot read it: {error}"))?;
                Ok(Some(path))
            }
        })
    }

    fn network(&mut self) -> NetworkConfig {
        let mut network = NetworkConfig {
            pool: self.scalar("network.pool", ipv4_network),
            connections_max: self.scalar("network.connections_max", count32),
            resolvers: self.items("network.resolvers", resolver),
            ..NetworkConfig::default()
        };
        let never = self.items("network.never", ipv4_network);
        network.never.extend(never);
        network
    }

    fn links(&mut self) -> Links {
        let form = self.scalar("preview.links", |text| {
            Ok(match one_of(text, &["auto", "host", "path"])? {
                "host" => LinkForm::Host,
                "path" => LinkForm::Path,
                _ => LinkForm::Auto,
            })
        });
        let hosts = self.list("server.allowed_hosts");
        let parents = hosts.iter().filter_map(|host| host.strip_prefix("*."));
        Links {
            form,
            base: self.scalar("preview.base_url", base_url),
            wildcard_hosts: parents.map(str::to_ascii_lowercase).collect(),
        }
    }

    /// The keys in a file that others may not read.
    fn api_keys_file(&mut self, path: &Path) -> Vec<Secret> {
        match read_api_keys(path) {
            Ok(keys) => keys,
            Err(problem) => {
                self.conflict(
                    "server.api_keys_file",
                    format!("{}: {problem}", path.display()),
                );
                Vec::new()
            }
        }
    }

    /// What must hold between several values.
    fn together(&mut self, config: &Config) {
        let (default, max) = (config.defaults.limits, config.limits_max);
        let pairs = [
            (
                "sandbox.memory",
                "limits.memory",
                default.memory_bytes > max.memory_bytes,
            ),
            (
                "sandbox.cpu",
                "limits.cpu",
                default.cpu_millis > max.cpu_millis,
            ),
            ("sandbox.pids", "limits.pids", default.pids > max.pids),
        ];
        for (key, limit, exceeds) in pairs {
            if exceeds {
                self.conflict(
                    key,
                    format!("it is more than `{limit}`; lower it or raise `{limit}`"),
                );
            }
        }
        let open = self.scalar("server.allow_unauthenticated", switch);
        let server = &config.server;
        if !server.host.is_loopback() && server.api_keys.is_empty() && !open {
            self.conflict(
                "server.host",
                format!(
                    "listening on {} without API keys would let everyone who reaches the port run code; set `server.api_keys_file`, or `server.allow_unauthenticated = true` if the network is trusted",
                    server.host
                ),
            );
        }
    }
}

/// The content of a file that others may not read.
fn read_private(path: &Path) -> Result<String, String> {
    let read = |error| format!("cannot read it: {error}");
    let mode = fs::metadata(path).map_err(read)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err("other users can read it; run `chmod o-rwx` on it".to_owned());
    }
    fs::read_to_string(path).map_err(read)
}

fn read_api_keys(path: &Path) -> Result<Vec<Secret>, String> {
    let keys = read_private(path)?
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(api_key)
        .collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() {
        return Err("it holds no key".to_owned());
    }
    Ok(keys)
}

fn api_key(text: &str) -> Result<Secret, String> {
    if text.len() < API_KEY_CHARS_MIN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "a key needs at least {API_KEY_CHARS_MIN} visible ASCII characters; make one with `openssl rand -hex 32`"
        ));
    }
    Ok(Secret::new(text))
}

/// Registry, user and password.
fn credentials(text: &str) -> Result<(String, (String, Secret)), String> {
    text.split_once('=')
        .and_then(|(host, pair)| Some((host, pair.split_once(':')?)))
        .filter(|(host, (username, _))| !host.is_empty() && !username.is_empty())
        .map(|(host, (username, password))| {
            let password = Secret::new(password);
            (host.to_owned(), (username.to_owned(), password))
        })
        .ok_or_else(|| "an entry is not of the form HOST=USERNAME:PASSWORD".to_owned())
}

fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" | "" => Ok(false),
        _ => Err("not a switch".to_owned()),
    }
}

fn count(text: &str) -> Result<usize, String> {
    count32(text).and_then(|number| {
        usize::try_from(number).map_err(|_| "the number is too large".to_owned())
    })
}

fn count32(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("not a whole number".to_owned()),
    }
}

fn count64(text: &str) -> Result<u64, String> {
    count32(text).map(u64::from)
}

fn one_of(text: &str, words: &[&'static str]) -> Result<&'static str, String> {
    words
        .iter()
        .find(|word| **word == text)
        .copied()
        .ok_or_else(|| "not one of the words".to_owned())
}

fn address(text: &str) -> Result<IpAddr, String> {
    if text == "localhost" {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    text.parse().map_err(|_| "not an IP address".to_owned())
}

fn scope(text: &str) -> Result<String, String> {
    let fits = text.len() <= SCOPE_CHARS_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "use 1 to {SCOPE_CHARS_MAX} letters, digits, '-', '_' or '.', beginning with a letter or digit"
        ))
    }
}

fn user(text: &str) -> Result<User, String> {
    match text {
        "root" | "0" => Ok(User::Root),
        _ => text
            .parse()
            .ok()
            .filter(|id| *id != u32::MAX)
            .map(User::Id)
            .ok_or_else(|| "not a user id; `id -u NAME` tells the number of a user".to_owned()),
    }
}

fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("not an absolute path".to_owned())
    }
}

/// Where an engine listens; this program speaks to it over a Unix socket.
fn engine_address(text: &str) -> Result<String, String> {
    match text.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(text.to_owned()),
        _ => Err("not the address of a Unix socket: unix:///PATH".to_owned()),
    }
}

/// The name of an OCI runtime, or nothing.
fn runtime_class(text: &str) -> Result<RuntimeClass, String> {
    text.parse()
        .map_err(|_| "not the name of a runtime: letters, digits, '-', '_' and '.'".to_owned())
}

fn oci_runtime(text: &str) -> Result<Option<RuntimeClass>, String> {
    match text {
        "" => Ok(None),
        name => runtime_class(name).map(Some),
    }
}

fn optional_path(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() {
        Ok(None)
    } else {
        absolute_path(text).map(Some)
    }
}

/// `scheme://host[:port]`, or nothing.
fn base_url(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let text = text.strip_suffix('/').unwrap_or(text);
    let authority = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))
        .and_then(|authority| authority.parse::<Authority>().ok())
        .filter(|authority| !authority.as_str().contains('@'));
    match authority {
        Some(_) => Ok(Some(text.to_owned())),
        None => Err("not `http://HOST` or `https://HOST`, with a port if need be".to_owned()),
    }
}

fn image(text: &str) -> Result<Image, String> {
    text.parse().map_err(|error: sandbox::Error| error.message)
}

fn aliases(value: &Value) -> Result<BTreeMap<String, Image>, String> {
    match value {
        Value::Map(pairs) => pairs
            .iter()
            .map(|(alias, name)| Ok((alias.clone(), image(name)?)))
            .collect(),
        Value::Scalar(text) if text.is_empty() => Ok(BTreeMap::new()),
        _ => Err("a table is expected here".to_owned()),
    }
}

fn ipv4_network(text: &str) -> Result<Ipv4Network, String> {
    text.parse()
        .map_err(|error: AddressError| error.to_string())
}

/// A network, or one address.
fn ip_network(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse().map(|address: IpAddr| IpNet::from(address)))
        .map_err(|_| format!("{text:?} is neither an address nor a network such as 10.0.0.0/8"))
}

fn resolver(text: &str) -> Result<SocketAddr, String> {
    /// Where DNS servers listen.
    const DNS_PORT: u16 = 53;
    text.parse::<SocketAddr>()
        .or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, DNS_PORT)))
        .map_err(|_| format!("{text:?} is not an address"))
}

fn log_level(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::builder()
        .parse(text)
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}
