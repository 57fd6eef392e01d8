//! Checks a request for a sandbox and completes it: pure, no I/O.

use std::{collections::BTreeMap, time::Duration};

use sandbox::{Capabilities, Error, Image, Lease, Limits, NetworkMode, Result, RuntimeClass, Spec};
use sha2::{Digest, Sha256};

use crate::{Config, Create, Resize, registry::Fingerprint};

/// Environment variables of one sandbox.
const ENV_ENTRIES_MAX: usize = 1024;
/// One environment variable with its value, bytes; the kernel's own limit is 128 KiB.
const ENV_ENTRY_BYTES_MAX: usize = 120 << 10;
/// The environment in all, bytes.
const ENV_BYTES_MAX: usize = 512 << 10;
/// Labels of one sandbox.
const LABELS_MAX: usize = 64;
/// One label with its value, bytes.
const LABEL_BYTES_MAX: usize = 4096;
/// Less memory than this does not even start a shell reliably.
const MEMORY_BYTES_MIN: u64 = 16 << 20;
/// Less CPU than this only looks broken.
const CPU_MILLIS_MIN: u32 = 10;
/// The agent, a shell and what it starts.
const PIDS_MIN: u32 = 8;
/// Characters of an idempotency key.
const KEY_CHARS_MAX: usize = 255;

/// A request that was checked: what to make.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) image_requested: String,
    pub(crate) spec: Spec,
}

/// Checks and completes a request.
///
/// # Errors
/// `InvalidRequest` naming the field and the fix.
pub(crate) fn plan(create: &Create, config: &Config, capabilities: &Capabilities) -> Result<Plan> {
    if let Some(key) = &create.idempotency_key {
        check_key(key)?;
    }
    check_env(&create.env)?;
    check_labels("labels", &create.labels)?;
    check_labels("annotations", &create.annotations)?;
    let defaults = &config.defaults;
    let image_requested = match &create.image {
        Some(image) => image.clone(),
        None => defaults.image.to_string(),
    };
    let spec = Spec {
        image: resolve(&config.image_aliases, &image_requested)?,
        env: create.env.clone(),
        limits: limits(create, config)?,
        network: network(create.network, defaults.network, capabilities)?,
        lease: check_lease(Lease {
            idle_timeout: create.idle_timeout.or(defaults.idle_timeout),
            lifetime_max: create.lifetime_max.or(defaults.lifetime_max),
            stop_after_idle: create.stop_after_idle,
            pause_after_idle: create.pause_after_idle,
            // Where nothing is archived it stays stopped, which keeps its files too.
            archive_after_stop: create
                .archive_after_stop
                .filter(|_| capabilities.archive.is_ok()),
            delete_after_stop: create.delete_after_stop,
        })?,
        runtime_class: runtime_class(create.runtime_class.as_ref(), capabilities)?,
    };
    Ok(Plan {
        image_requested,
        spec,
    })
}

/// The image that a name stands for: of the aliases that match, the longest.
pub(crate) fn resolve(aliases: &BTreeMap<String, Image>, name: &str) -> Result<Image> {
    let image: Image = name.parse()?;
    if let Some(target) = aliases.get(name) {
        return Ok(target.clone());
    }
    let longest = aliases
        .iter()
        .filter(|(pattern, _)| {
            pattern
                .strip_suffix('*')
                .is_some_and(|prefix| name.starts_with(prefix))
        })
        .max_by_key(|(pattern, _)| pattern.len());
    Ok(longest.map_or(image, |(_, target)| target.clone()))
}

fn check_key(key: &str) -> Result<()> {
    let printable = key
        .bytes()
        .all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if key.is_empty() || key.len() > KEY_CHARS_MAX || !printable {
        return Err(Error::invalid(format!(
            "the idempotency key must be 1 to {KEY_CHARS_MAX} printable ASCII characters"
        )));
    }
    Ok(())
}

fn check_env(env: &BTreeMap<String, String>) -> Result<()> {
    if env.len() > ENV_ENTRIES_MAX {
        return Err(Error::invalid(format!(
            "field `env`: {} variables are too many; give at most {ENV_ENTRIES_MAX}",
            env.len()
        )));
    }
    for (name, value) in env {
        let shown: String = name.chars().take(80).collect();
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Error::invalid(format!(
                "field `env`: {shown:?} is not a name of a variable; it must not be empty and must not contain '=' or NUL"
            )));
        }
        if value.contains('\0') {
            return Err(Error::invalid(format!(
                "field `env`: the value of {shown:?} contains a NUL byte; write larger or binary data to a file"
            )));
        }
        let bytes = name.len() + value.len();
        if bytes > ENV_ENTRY_BYTES_MAX {
            return Err(Error::invalid(format!(
                "field `env`: {shown:?} has {bytes} bytes with its value; at most {ENV_ENTRY_BYTES_MAX} are possible, write larger data to a file"
            )));
        }
    }
    let bytes: usize = env
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > ENV_BYTES_MAX {
        return Err(Error::invalid(format!(
            "field `env`: {bytes} bytes in all are too many; at most {ENV_BYTES_MAX} are possible, write larger data to a file"
        )));
    }
    Ok(())
}

/// Checks labels, or what a facade remembers; `field` names them in the error.
///
/// # Errors
/// `InvalidRequest`.
pub(crate) fn check_labels(field: &str, labels: &BTreeMap<String, String>) -> Result<()> {
    if labels.len() > LABELS_MAX {
        return Err(Error::invalid(format!(
            "field `{field}`: {} are too many; give at most {LABELS_MAX}",
            labels.len()
        )));
    }
    for (name, value) in labels {
        if name.is_empty() {
            return Err(Error::invalid(format!(
                "field `{field}`: a name is empty; give each a name"
            )));
        }
        if name.len() + value.len() > LABEL_BYTES_MAX {
            let shown: String = name.chars().take(80).collect();
            return Err(Error::invalid(format!(
                "field `{field}`: {shown:?} has {} bytes with its value; at most {LABEL_BYTES_MAX} are possible",
                name.len() + value.len()
            )));
        }
    }
    Ok(())
}

fn limits(create: &Create, config: &Config) -> Result<Limits> {
    let (defaults, max) = (&config.defaults.limits, &config.limits_max);
    Ok(Limits {
        memory_bytes: bounded(
            "memory_bytes",
            create.memory_bytes,
            defaults.memory_bytes,
            MEMORY_BYTES_MIN,
            max.memory_bytes,
        )?,
        cpu_millis: bounded(
            "cpu_millis",
            create.cpu_millis,
            defaults.cpu_millis,
            CPU_MILLIS_MIN,
            max.cpu_millis,
        )?,
        pids: bounded("pids", create.pids, defaults.pids, PIDS_MIN, max.pids)?,
    })
}

/// The wanted value if it is within the bounds; the default, cut to them, if none is wanted.
fn bounded<T: Copy + Ord + std::fmt::Display>(
    field: &str,
    wanted: Option<T>,
    default: T,
    min: T,
    max: T,
) -> Result<T> {
    match wanted {
        None => Ok(default.min(max)),
        Some(value) if value < min => Err(Error::invalid(format!(
            "field `{field}`: {value} is too little; the least is {min}"
        ))),
        Some(value) if value > max => Err(Error::invalid(format!(
            "field `{field}`: {value} is too much; the most that is configured is {max}"
        ))),
        Some(value) => Ok(value),
    }
}

/// The network that is wanted; the default only if it works on this host.
fn network(
    wanted: Option<NetworkMode>,
    default: NetworkMode,
    capabilities: &Capabilities,
) -> Result<NetworkMode> {
    match (wanted, &capabilities.network_open) {
        (Some(NetworkMode::Open), Err(why)) => Err(Error::invalid(format!(
            "field `network`: \"open\" does not work on this host ({why}); use \"none\""
        ))),
        (None, Err(_)) => Ok(NetworkMode::None),
        (wanted, _) => Ok(wanted.unwrap_or(default)),
    }
}

/// The runtime class that is wanted, if it may be chosen.
fn runtime_class(
    wanted: Option<&RuntimeClass>,
    capabilities: &Capabilities,
) -> Result<Option<RuntimeClass>> {
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    let classes = match &capabilities.runtime_classes {
        Ok(classes) => classes,
        Err(why) => {
            return Err(Error::invalid(format!(
                "field `runtime_class`: {why}; leave it out"
            )));
        }
    };
    if classes.contains(wanted) {
        return Ok(Some(wanted.clone()));
    }
    let classes: Vec<&str> = classes.iter().map(RuntimeClass::as_str).collect();
    Err(Error::invalid(format!(
        "field `runtime_class`: \"{wanted}\" may not be chosen; use one of these, or leave it out: {}",
        classes.join(", ")
    )))
}

/// Checks a lease; only ending may come at once after stopping.
///
/// # Errors
/// `InvalidRequest` naming the field.
pub(crate) fn check_lease(lease: Lease) -> Result<Lease> {
    for (field, time) in [
        ("idle_timeout", lease.idle_timeout),
        ("lifetime_max", lease.lifetime_max),
        ("stop_after_idle", lease.stop_after_idle),
        ("pause_after_idle", lease.pause_after_idle),
        ("archive_after_stop", lease.archive_after_stop),
    ] {
        if time == Some(Duration::ZERO) {
            return Err(Error::invalid(format!(
                "field `{field}`: it cannot come after no time at all; leave it out for never"
            )));
        }
    }
    Ok(lease)
}

/// The limits of a sandbox after a change of some of them.
///
/// # Errors
/// `InvalidRequest` naming the field.
pub(crate) fn resized(present: Limits, resize: &Resize, max: &Limits) -> Result<Limits> {
    // What stays as it is need not fit a maximum that was lowered meanwhile.
    let bytes = |wanted| {
        bounded(
            "memory_bytes",
            wanted,
            0,
            MEMORY_BYTES_MIN,
            max.memory_bytes,
        )
    };
    let millis = |wanted| bounded("cpu_millis", wanted, 0, CPU_MILLIS_MIN, max.cpu_millis);
    let pids = |wanted| bounded("pids", wanted, 0, PIDS_MIN, max.pids);
    let (memory, cpu) = (resize.memory_bytes, resize.cpu_millis);
    Ok(Limits {
        memory_bytes: memory.map_or(Ok(present.memory_bytes), |wanted| bytes(Some(wanted)))?,
        cpu_millis: cpu.map_or(Ok(present.cpu_millis), |wanted| millis(Some(wanted)))?,
        pids: resize
            .pids
            .map_or(Ok(present.pids), |wanted| pids(Some(wanted)))?,
    })
}

/// The digest of everything that a request asks for, its key not counted.
pub(crate) fn fingerprint(create: &Create) -> Fingerprint {
    let mut digest = Sha256::new();
    // Each text with its length before it, so that no two requests look alike.
    let mut text = |text: Option<&str>| match text {
        Some(text) => {
            digest.update([1]);
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        }
        None => digest.update([0]),
    };
    text(create.name.as_ref().map(sandbox::Name::as_str));
    text(create.image.as_deref());
    text(create.network.map(NetworkMode::as_str));
    text(Some(&create.env.len().to_string()));
    for (name, value) in &create.env {
        text(Some(name));
        text(Some(value));
    }
    let millis = |time: Option<Duration>| time.map(|time| time.as_millis().to_string());
    for number in [
        create.memory_bytes.map(|bytes| bytes.to_string()),
        create.cpu_millis.map(|millis| millis.to_string()),
        create.pids.map(|pids| pids.to_string()),
        millis(create.idle_timeout),
        millis(create.lifetime_max),
    ] {
        text(number.as_deref());
    }
    // What came later is only digested where it is used, so that keys that were
    // stored before it existed still fit. Annotations are not of the request:
    // facades make them up anew each time.
    let has_more = create.id.is_some()
        || !create.labels.is_empty()
        || create.stop_after_idle.is_some()
        || create.pause_after_idle.is_some()
        || create.archive_after_stop.is_some()
        || create.delete_after_stop.is_some();
    if has_more {
        text(create.id.as_ref().map(sandbox::Id::as_str));
        text(Some(&create.labels.len().to_string()));
        for (name, value) in &create.labels {
            text(Some(name));
            text(Some(value));
        }
        for time in [
            create.stop_after_idle,
            create.pause_after_idle,
            create.archive_after_stop,
            create.delete_after_stop,
        ] {
            text(millis(time).as_deref());
        }
    }
    if let Some(class) = &create.runtime_class {
        text(Some("runtime_class"));
        text(Some(class.as_str()));
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config() -> Config {
        crate::testing::config("/nowhere".into())
    }

    fn capabilities() -> Capabilities {
        Capabilities {
            runtime: "fake",
            network_open: Err("no nftables".to_owned()),
            limits: Ok(()),
            pause: Ok(()),
            archive: Ok(()),
            runtime_classes: Ok(vec!["runc".parse().unwrap(), "runsc".parse().unwrap()]),
        }
    }

    fn refused(create: &Create) -> String {
        let error = plan(create, &config(), &capabilities()).unwrap_err();
        assert_eq!(error.kind, sandbox::Kind::InvalidRequest);
        error.message
    }

    #[test]
    fn an_empty_request_gets_the_defaults_and_the_network_that_works() {
        let plan = plan(&Create::default(), &config(), &capabilities()).unwrap();
        assert_eq!(plan.spec.limits, config().defaults.limits);
        assert_eq!(plan.spec.network, NetworkMode::None);
        assert_eq!(plan.image_requested, "sandboxai/box");
    }

    #[test]
    fn what_is_wrong_is_told_with_the_field() {
        let env = |name: &str, value: &str| Create {
            env: BTreeMap::from([(name.to_owned(), value.to_owned())]),
            ..Create::default()
        };
        for bad in [
            env("", "x"),
            env("A=B", "x"),
            env("A", "\0"),
            env("A", &"x".repeat(1 << 20)),
        ] {
            assert!(refused(&bad).contains("`env`"), "{bad:?}");
        }
        let memory = |bytes| Create {
            memory_bytes: Some(bytes),
            ..Create::default()
        };
        assert!(refused(&memory(1)).contains("the least is 16777216"));
        assert!(refused(&memory(u64::MAX)).contains("`memory_bytes`"));
        let open = Create {
            network: Some(NetworkMode::Open),
            ..Create::default()
        };
        assert!(refused(&open).contains("no nftables"));
        let ends_at_once = Create {
            idle_timeout: Some(Duration::ZERO),
            ..Create::default()
        };
        assert!(refused(&ends_at_once).contains("`idle_timeout`"));
        let key = Create {
            idempotency_key: Some("a\nb".to_owned()),
            ..Create::default()
        };
        assert!(refused(&key).contains("idempotency key"));
    }

    #[test]
    fn only_what_is_on_the_list_may_be_chosen_as_runtime_class() {
        let of = |class: &str| Create {
            runtime_class: Some(class.parse().unwrap()),
            ..Create::default()
        };
        let chosen = plan(&of("runsc"), &config(), &capabilities()).unwrap();
        let class = chosen.spec.runtime_class.unwrap();
        assert_eq!(class.as_str(), "runsc");
        let told = refused(&of("kata"));
        assert!(told.contains("field `runtime_class`: \"kata\""), "{told}");
        assert!(told.contains("runc, runsc"), "{told}");
        let none = Capabilities {
            runtime_classes: Err("all sandboxes are alike here".to_owned()),
            ..capabilities()
        };
        let error = plan(&of("runsc"), &config(), &none).unwrap_err();
        assert_eq!(error.kind, sandbox::Kind::InvalidRequest);
        assert!(error.message.contains("alike here; leave it out"));
        assert!(plan(&Create::default(), &config(), &none).is_ok());
        assert_ne!(fingerprint(&of("runsc")), fingerprint(&of("runc")));
        assert_ne!(fingerprint(&of("runsc")), fingerprint(&Create::default()));
    }

    #[test]
    fn the_longest_alias_wins_and_stays_visible() {
        let image = |text: &str| text.parse::<Image>().unwrap();
        let mut config = config();
        config.image_aliases = BTreeMap::from([
            ("substratusai/*".to_owned(), image("other")),
            (
                "substratusai/sandboxai-box:*".to_owned(),
                image("sandboxai/box"),
            ),
            ("box".to_owned(), image("sandboxai/box")),
        ]);
        let resolved = |name: &str| resolve(&config.image_aliases, name).unwrap();
        assert_eq!(resolved("box"), image("sandboxai/box"));
        assert_eq!(resolved("boxes"), image("boxes"));
        assert_eq!(resolved("substratusai/x"), image("other"));
        let create = Create {
            image: Some("substratusai/sandboxai-box:v1".to_owned()),
            ..Create::default()
        };
        let plan = plan(&create, &config, &capabilities()).unwrap();
        assert_eq!(plan.spec.image, image("sandboxai/box"));
        assert_eq!(plan.image_requested, "substratusai/sandboxai-box:v1");
    }

    proptest! {
        #[test]
        fn different_environments_have_different_fingerprints(
            first in prop::collection::btree_map("[ab]{0,3}", "[ab]{0,3}", 0..4),
            second in prop::collection::btree_map("[ab]{0,3}", "[ab]{0,3}", 0..4),
        ) {
            let digest = |env: &BTreeMap<String, String>| {
                fingerprint(&Create { env: env.clone(), ..Create::default() })
            };
            prop_assert_eq!(digest(&first) == digest(&second), first == second);
        }
    }
}
