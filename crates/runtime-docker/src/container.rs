//! What one sandbox is as a container, computed without asking the engine.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig};
use sandbox::{Id, Limits, NetworkMode, Spec};

use crate::Config;

/// Which scope a container belongs to.
pub(crate) const SCOPE_LABEL: &str = "dev.sandboxai.scope";
/// Which sandbox a container is.
pub(crate) const ID_LABEL: &str = "dev.sandboxai.id";
/// The network of sandboxes that may reach the internet.
pub(crate) const OPEN_NETWORK: &str = "sandboxai";
/// The bridge of that network on the host.
pub const BRIDGE: &str = "sandboxai0";
/// Where the agent's program is inside.
pub(crate) const AGENT: &str = "/.sandboxai/agent";
/// The name of the agent's socket, in the abstract namespace of its network.
pub(crate) const SOCKET: &str = "sandboxai-agent";
/// Room for shared memory, bytes: browsers need it.
const SHARED_MEMORY_BYTES: i64 = 1 << 30;
/// What root inside may do, the same as in the embedded runtime: what package
/// managers need.
const CAPABILITIES: [&str; 10] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
];

/// The name of a sandbox's container while it runs, or should.
pub(crate) fn running_name(id: &Id) -> String {
    format!("sandboxai-{id}")
}

/// The name of a sandbox's container while it is stopped on purpose: labels
/// cannot change, names can, in one step that survives every crash.
pub(crate) fn stopped_name(id: &Id) -> String {
    format!("sandboxai-{id}-stopped")
}

/// The container of a sandbox.
pub(crate) fn body(
    config: &Config,
    id: &Id,
    spec: &Spec,
    agent: &str,
    workdir: &str,
    seccomp: Option<&str>,
) -> ContainerCreateBody {
    let mut security = vec!["no-new-privileges".to_owned()];
    security.extend(seccomp.map(|profile| format!("seccomp={profile}")));
    let network = match spec.network {
        NetworkMode::None => "none",
        NetworkMode::Open => OPEN_NETWORK,
    };
    ContainerCreateBody {
        image: Some(spec.image.to_string()),
        hostname: Some(id.as_str().chars().take(12).collect()),
        entrypoint: Some(vec![AGENT.to_owned()]),
        cmd: Some(
            ["--listen-socket", SOCKET, "--direct", "--workdir", workdir]
                .map(str::to_owned)
                .to_vec(),
        ),
        user: Some("0:0".to_owned()),
        env: Some(
            spec.env
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
        ),
        labels: Some(HashMap::from([
            (SCOPE_LABEL.to_owned(), config.scope.clone()),
            (ID_LABEL.to_owned(), id.to_string()),
        ])),
        host_config: Some(HostConfig {
            binds: Some(vec![format!("{agent}:{AGENT}:ro")]),
            network_mode: Some(network.to_owned()),
            memory: Some(whole(spec.limits.memory_bytes)),
            // The same as the memory: no swap.
            memory_swap: Some(whole(spec.limits.memory_bytes)),
            nano_cpus: Some(nano_cpus(&spec.limits)),
            pids_limit: Some(i64::from(spec.limits.pids)),
            shm_size: Some(SHARED_MEMORY_BYTES.min(whole(spec.limits.memory_bytes / 2))),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
            security_opt: Some(security),
            // The agent says nothing there; commands' output never goes there.
            log_config: Some(HostConfigLogConfig {
                typ: Some("none".to_owned()),
                config: None,
            }),
            runtime: spec
                .runtime_class
                .as_ref()
                .or(config.oci_runtime.as_ref())
                .map(ToString::to_string),
            publish_all_ports: Some(false),
            privileged: Some(false),
            init: Some(false),
            auto_remove: Some(false),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// A limit of CPU as the engine counts it.
pub(crate) fn nano_cpus(limits: &Limits) -> i64 {
    i64::from(limits.cpu_millis) * 1_000_000
}

/// A number of bytes for the engine; what does not fit is as good as endless.
pub(crate) fn whole(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use sandbox::Lease;

    fn wanted(network: NetworkMode, class: Option<&str>) -> ContainerCreateBody {
        let config = Config {
            host: String::new(),
            scope: "test".to_owned(),
            run_dir: "/run".into(),
            agent: b"",
            oci_runtime: Some("runsc".parse().unwrap()),
            runtime_classes: Vec::new(),
            seccomp_profile: None,
            guard: crate::Guard::Set,
        };
        let spec = Spec {
            image: "sandboxai/box".parse().unwrap(),
            env: BTreeMap::from([("A".to_owned(), "b c".to_owned())]),
            limits: Limits::default(),
            network,
            lease: Lease::default(),
            runtime_class: class.map(|class| class.parse().unwrap()),
        };
        let id = "abcdefghijkmnpqrstuvwxyz23".parse().unwrap();
        body(&config, &id, &spec, "/run/agent", "/workspace", Some("{}"))
    }

    #[test]
    fn the_walls_are_in_the_request() {
        let host = wanted(NetworkMode::None, None).host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(
            host.security_opt,
            Some(vec![
                "no-new-privileges".to_owned(),
                "seccomp={}".to_owned()
            ])
        );
        assert_eq!(
            (host.memory, host.memory_swap),
            (Some(2 << 30), Some(2 << 30))
        );
        assert_eq!(
            (host.nano_cpus, host.pids_limit),
            (Some(2_000_000_000), Some(1024))
        );
        assert_eq!(
            (host.privileged, host.publish_all_ports),
            (Some(false), Some(false))
        );
        assert_eq!(
            host.binds,
            Some(vec!["/run/agent:/.sandboxai/agent:ro".to_owned()])
        );
        assert_eq!(host.runtime.as_deref(), Some("runsc"));
        assert_eq!(host.port_bindings, None);
    }

    #[test]
    fn the_agent_is_the_first_process_and_the_environment_goes_as_it_is() {
        let body = wanted(NetworkMode::Open, Some("kata"));
        assert_eq!(body.entrypoint, Some(vec![AGENT.to_owned()]));
        assert_eq!(body.env, Some(vec!["A=b c".to_owned()]));
        let host = body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some(OPEN_NETWORK));
        assert_eq!(host.runtime.as_deref(), Some("kata"));
    }
}
