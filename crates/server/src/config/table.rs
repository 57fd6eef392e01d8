//! Every configuration key, once: its form, its default and what it is for.
//!
//! Reading, checking, `config --explain` and `docs/configuration.md` all work from [`KEYS`].

use super::raw::Value;

/// One configuration key.
#[derive(Debug)]
pub struct Key {
    /// `section.name`.
    pub name: &'static str,
    /// Another variable that sets it: the original server's, or a short one. Weaker than the regular one.
    pub other_variable: Option<&'static str>,
    /// How its value is written.
    pub form: Form,
    /// The default as it would be written in the environment; empty for "not set".
    pub default: &'static str,
    /// What it is for.
    pub doc: &'static str,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Any text.
    Text,
    /// An IP address or `localhost`.
    Address,
    /// 0 to 65535.
    Port,
    /// `true` or `false`.
    Switch,
    /// A number with a unit, e.g. `15m`.
    Duration,
    /// A duration, or `never`.
    DurationOrNever,
    /// A number with a unit, e.g. `2GiB`.
    Size,
    /// CPUs as a decimal number, or thousandths as `500m`.
    Cpu,
    /// A whole number of at least 1.
    Count,
    /// An absolute path.
    Path,
    /// A number, or `root`.
    User,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list; separated by commas in the environment.
    List,
    /// A list that must not be shown.
    Secrets,
    /// A text that must not be shown.
    Secret,
    /// A number from 0 to 100.
    Percent,
    /// A number from 0 to 1.
    Fraction,
    /// Pairs; `left=right`, separated by commas, in the environment.
    Map,
}

impl Form {
    /// The form for people.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Address => "an IP address or `localhost`".into(),
            Self::Port => "a port, 0 to 65535".into(),
            Self::Switch => "`true` or `false`".into(),
            Self::Duration => "a duration: `90s`, `15m`, `1h30m`, `2d`".into(),
            Self::DurationOrNever => "a duration (`90s`, `15m`, `2d`) or `never`".into(),
            Self::Size => "a size: `512MiB`, `2GiB`, `500MB`".into(),
            Self::Cpu => "CPUs: `2`, `0.5`, `500m`".into(),
            Self::Count => "a whole number from 1".into(),
            Self::Path => "an absolute path".into(),
            Self::User => "a numeric user id, or `root`".into(),
            Self::Choice(words) => words
                .iter()
                .map(|word| format!("`{word}`"))
                .collect::<Vec<_>>()
                .join(" or "),
            Self::List => "a list of texts".into(),
            Self::Secrets => "a list of secrets".into(),
            Self::Secret => "a secret".into(),
            Self::Percent => "a number from 0 to 100".into(),
            Self::Fraction => "a number from 0 to 1".into(),
            Self::Map => "a table of texts".into(),
        }
    }

    /// Whether values must not be shown.
    #[must_use]
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::Secrets)
    }
}

impl Key {
    /// The environment variable that sets it, e.g. `SANDBOXAI_SERVER_PORT`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("SANDBOXAI_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// Section and name.
    #[must_use]
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.name
            .split_once('.')
            .expect("every name in the table has a section: tested")
    }

    /// The default as a value.
    #[must_use]
    pub fn default_value(&self) -> Value {
        Value::from_text(self.form, self.default)
    }
}

/// The key called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

const fn key(name: &'static str, form: Form, default: &'static str, doc: &'static str) -> Key {
    Key {
        name,
        other_variable: None,
        form,
        default,
        doc,
    }
}

const fn with_variable(
    name: &'static str,
    variable: &'static str,
    form: Form,
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key {
        name,
        other_variable: Some(variable),
        form,
        default,
        doc,
    }
}

/// All keys, by section.
pub const KEYS: &[Key] = &[
    with_variable(
        "server.host",
        "SANDBOXAID_HOST",
        Form::Address,
        "127.0.0.1",
        "Address to listen on. Anything but a loopback address needs `server.api_keys`, or `server.allow_unauthenticated`.",
    ),
    with_variable(
        "server.port",
        "SANDBOXAID_PORT",
        Form::Port,
        "5266",
        "Port to listen on. `0` takes any free port; the first line on standard output is then `{\"host\":\"127.0.0.1\",\"port\":N}`.",
    ),
    key(
        "server.runtime",
        Form::Choice(&["embedded", "docker"]),
        "embedded",
        "What makes the sandboxes: `embedded` from namespaces of this machine, `docker` from a Docker-compatible engine.",
    ),
    with_variable(
        "server.scope",
        "SANDBOXAID_SCOPE",
        Form::Text,
        "default",
        "Which sandboxes this server owns. Servers with different scopes share a machine and its images without seeing each other's sandboxes.",
    ),
    with_variable(
        "server.delete_on_shutdown",
        "SANDBOXAID_DELETE_ON_SHUTDOWN",
        Form::Switch,
        "false",
        "Sandboxes of the scope end with the server, also when it is killed. Otherwise they run on and the next server takes them over.",
    ),
    key(
        "server.exit_with_client",
        Form::Switch,
        "false",
        "Shut down when the client that started the server is gone: when nobody reads standard output any more, if that is a pipe; else when standard input ends, if that is one; else when the parent process is gone. Under the name `sandboxaid`, with port 0 and delete on shutdown, it is on unless set.",
    ),
    key(
        "server.user",
        Form::User,
        "75266",
        "User id that the server runs as after its start; only the small spawner process keeps root. `root` keeps root for the server too.",
    ),
    with_variable(
        "server.state_dir",
        "SANDBOXAI_STATE_DIR",
        Form::Path,
        "/var/lib/sandboxai",
        "Images, sandboxes and the store. Must be on a disk file system that overlayfs accepts (ext4, xfs, btrfs).",
    ),
    with_variable(
        "server.run_dir",
        "SANDBOXAI_RUN_DIR",
        Form::Path,
        "/run/sandboxai",
        "Sockets, locks and slots; shared by all servers of the machine, emptied by a restart of the machine.",
    ),
    key(
        "server.api_keys",
        Form::Secrets,
        "",
        "Keys that requests must carry, as `Authorization: Bearer KEY` or `X-API-Key: KEY`; at least 16 characters each. Prefer `server.api_keys_file`.",
    ),
    key(
        "server.api_keys_file",
        Form::Path,
        "",
        "File with one key per line; empty lines and lines beginning with `#` do not count. Must not be readable by others.",
    ),
    key(
        "server.allow_unauthenticated",
        Form::Switch,
        "false",
        "Listen on an address other than loopback without any key. Whoever reaches the port can then run code in sandboxes.",
    ),
    key(
        "server.allowed_hosts",
        Form::List,
        "",
        "Host names under which the server is reached besides `localhost` and plain IP addresses; `*.example.com` matches every name below. Others are refused, which stops DNS rebinding.",
    ),
    key(
        "server.trusted_proxies",
        Form::List,
        "127.0.0.0/8,::1",
        "Addresses and networks of reverse proxies. What they say in `X-Forwarded-Proto` and `X-Forwarded-Host` is used for URLs in answers; from others it is ignored.",
    ),
    key(
        "server.connections_max",
        Form::Count,
        "1024",
        "Connections served at once; more wait.",
    ),
    key(
        "server.header_timeout",
        Form::Duration,
        "60s",
        "How long a connection may take to send the head of its next request.",
    ),
    key(
        "server.shutdown_grace",
        Form::Duration,
        "30s",
        "How long running requests may go on after SIGTERM or SIGINT. A second signal ends the server at once.",
    ),
    key(
        "sandbox.image",
        Form::Text,
        "sandboxai/box",
        "Image of a sandbox whose request names none.",
    ),
    key(
        "sandbox.memory",
        Form::Size,
        "2GiB",
        "Memory of a sandbox whose request does not say.",
    ),
    key(
        "sandbox.cpu",
        Form::Cpu,
        "2",
        "CPU time of a sandbox whose request does not say.",
    ),
    key(
        "sandbox.pids",
        Form::Count,
        "1024",
        "Processes and threads of a sandbox whose request does not say.",
    ),
    key(
        "sandbox.network",
        Form::Choice(&["open", "none"]),
        "open",
        "Network of a sandbox whose request does not say: `open` reaches the public internet and never the host, private ranges or other sandboxes; `none` has loopback only.",
    ),
    key(
        "sandbox.idle_timeout",
        Form::DurationOrNever,
        "never",
        "End a sandbox after so long without an operation on it, when its request does not say.",
    ),
    key(
        "sandbox.lifetime_max",
        Form::DurationOrNever,
        "never",
        "End a sandbox so long after its creation, when its request does not say.",
    ),
    with_variable(
        "sandbox.ca_certificates",
        "SANDBOXAI_CA_CERTIFICATES",
        Form::Text,
        "",
        "File of CA certificates (PEM) that sandboxes and image builds trust instead of their own, for networks with a proxy that opens TLS; `host` takes the host's own bundle; empty leaves the image's.",
    ),
    key(
        "limits.memory",
        Form::Size,
        "64GiB",
        "Most memory that a request may ask for.",
    ),
    key(
        "limits.cpu",
        Form::Cpu,
        "64",
        "Most CPU time that a request may ask for.",
    ),
    key(
        "limits.pids",
        Form::Count,
        "32768",
        "Most processes and threads that a request may ask for.",
    ),
    key(
        "limits.sandboxes",
        Form::Count,
        "1000",
        "Sandboxes that may have processes at once. Stopped and archived ones do not count; with them there may be eleven times as many.",
    ),
    key(
        "limits.creations_at_once",
        Form::Count,
        "8",
        "Sandboxes made at the same time; more wait, because more only adds latency.",
    ),
    key(
        "limits.create_timeout",
        Form::Duration,
        "30s",
        "How long a creation may take.",
    ),
    key(
        "limits.output",
        Form::Size,
        "32MiB",
        "Most output of one command or cell in an answer that is not streamed; of more, the beginning and the end are kept.",
    ),
    key(
        "limits.tombstone_ttl",
        Form::Duration,
        "24h",
        "How long a sandbox that ended still answers with why it ended.",
    ),
    key(
        "images.aliases",
        Form::Map,
        "substratusai/sandboxai-box:*=sandboxai/box,substratusai/sandboxai-box=sandboxai/box",
        "Other names of images: the left resolves to the right. A `*` at the end matches any rest. Setting it replaces the default.",
    ),
    key(
        "images.fetch",
        Form::Switch,
        "true",
        "Whether images that are not on this machine are pulled from their registries, and builds may `ADD` files by URL.",
    ),
    key(
        "images.credentials",
        Form::Secrets,
        "",
        "Who to be at registries, as `HOST=USERNAME:PASSWORD`, e.g. `ghcr.io=me:TOKEN`; Docker Hub is `docker.io`.",
    ),
    key(
        "network.pool",
        Form::Text,
        "10.231.0.0/16",
        "Addresses of the links to sandboxes; two for each sandbox. Must not be in use on the host or its networks.",
    ),
    key(
        "network.never",
        Form::List,
        "",
        "Networks that no sandbox reaches, besides the built-in list (private, link-local, metadata, loopback and multicast ranges, and the pool).",
    ),
    key(
        "network.resolvers",
        Form::List,
        "",
        "DNS servers that names inside sandboxes are resolved by, as `ADDRESS` or `ADDRESS:PORT`; empty takes the host's.",
    ),
    key(
        "network.connections_max",
        Form::Count,
        "512",
        "Connections that one sandbox may have open at once.",
    ),
    key(
        "preview.links",
        Form::Choice(&["auto", "host", "path"]),
        "auto",
        "Which URL of a port callers are told. `path`: `BASE/preview/ID/PORT`, which works wherever the server is reached. `host`: `PORT-ID.HOST`, for which all names below the host must lead to the server. `auto`: by host below names of the form `*.HOST` in `server.allowed_hosts`, else by path. Both are always served.",
    ),
    key(
        "preview.base_url",
        Form::Text,
        "",
        "`http://HOST` or `https://HOST`, with a port if need be, that URLs of ports are made from; empty takes the one under which the caller reached the server.",
    ),
    key(
        "preview.auto_start",
        Form::Switch,
        "false",
        "Start a stopped, archived or paused sandbox when somebody visits one of its ports.",
    ),
    key(
        "preview.connections_max",
        Form::Count,
        "256",
        "Connections to the ports of one sandbox at once; more are refused with 503.",
    ),
    key(
        "preview.idle_timeout",
        Form::Duration,
        "1h",
        "End connections to ports on which nothing moved for so long; otherwise requests may take as long as they need.",
    ),
    key(
        "rollout.upstream_url",
        Form::Text,
        "",
        "URL of the API of a real Daytona, e.g. `https://app.daytona.io/api`, that this server stands in front of: sandboxes that are not here are there, and a share of new ones is made there. `http` only where the way is private, since keys pass it.",
    ),
    key(
        "rollout.upstream_key",
        Form::Secret,
        "",
        "Key at the upstream. Prefer `rollout.upstream_key_file`.",
    ),
    key(
        "rollout.upstream_key_file",
        Form::Path,
        "",
        "File with nothing but the key at the upstream. Must not be readable by others.",
    ),
    key(
        "rollout.ca_certificates",
        Form::Path,
        "",
        "File of CA certificates (PEM) that the upstream may have besides those that this machine trusts.",
    ),
    key(
        "rollout.share",
        Form::Percent,
        "0",
        "Share of new sandboxes of Daytona's protocol that is made here, percent; the rest is made at the upstream. Counts until `sandboxai rollout set` or a rollback changes it: that is remembered across restarts.",
    ),
    key(
        "rollout.sticky_label",
        Form::Text,
        "id",
        "Label by whose value new sandboxes are divided: the same value goes to the same side, and a higher share only moves values here. SUNA has its project in `id`. Sandboxes without it are spread evenly.",
    ),
    key(
        "rollout.fallback",
        Form::Switch,
        "true",
        "A new sandbox that cannot be made here for a fault of this server is made at the upstream instead, so that the caller sees no failure. It counts as one.",
    ),
    key(
        "rollout.window",
        Form::Duration,
        "5m",
        "How far back failures and durations of creations count.",
    ),
    key(
        "rollout.error_rate_max",
        Form::Fraction,
        "0.05",
        "When more of this server's requests, or of its creations alone, fail in the window, the share becomes 0. What is the caller's fault does not count.",
    ),
    key(
        "rollout.requests_min",
        Form::Count,
        "20",
        "Requests in the window without which their error rate does not count.",
    ),
    key(
        "rollout.create_p95_max",
        Form::Duration,
        "10s",
        "When 5 of 100 creations on this server take longer in the window, the share becomes 0.",
    ),
    key(
        "rollout.creations_min",
        Form::Count,
        "10",
        "Creations in the window without which neither their error rate nor their durations count.",
    ),
    key(
        "docker.host",
        Form::Text,
        "unix:///var/run/docker.sock",
        "Where the engine listens, for `server.runtime = \"docker\"`. The server keeps the group of the socket when it gives up root.",
    ),
    key(
        "docker.oci_runtime",
        Form::Text,
        "",
        "OCI runtime of the containers as the engine knows it, e.g. `runsc` or `kata`; the engine's default when empty.",
    ),
    key(
        "docker.runtime_classes",
        Form::List,
        "",
        "OCI runtimes of the engine that a request may choose for its sandbox as `runtime_class`, besides the default one. Each stands for other walls: list only those that any caller may have.",
    ),
    key(
        "docker.seccomp_profile",
        Form::Path,
        "",
        "Seccomp profile in the engine's JSON format for the containers; the engine's own when empty.",
    ),
    key(
        "docker.network_guard",
        Form::Switch,
        "true",
        "Limit what sandboxes with an open network reach, by rules of this host's firewall for the engine's bridge: the public internet and the resolvers, never the host nor `network.never`. Without it the engine's network decides, as it must where the engine is not on this host.",
    ),
    key(
        "log.format",
        Form::Choice(&["text", "json"]),
        "text",
        "Form of log lines on standard error.",
    ),
    key(
        "log.level",
        Form::Text,
        "info",
        "What is logged: `error`, `warn`, `info`, `debug` or `trace`, also by part, e.g. `info,control=debug`.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_have_a_section() {
        let names: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), KEYS.len());
        let variables: BTreeSet<_> = KEYS.iter().map(Key::variable).collect();
        assert_eq!(variables.len(), KEYS.len());
        for key in KEYS {
            assert!(!key.parts().1.is_empty(), "{}", key.name);
            assert!(key.doc.ends_with('.'), "{}", key.name);
        }
    }
}
