//! What the engine tells of itself, judged. Nothing here asks anything.

use std::path::Path;

use bollard::models::{SystemInfo, SystemInfoCgroupVersionEnum};
use sandbox::{RuntimeClass, check::Check};

use super::daemon_json::{Change, DaemonJson, OPEN_FILES_MIN};
use crate::Config;

/// The oldest engine that the tests run with.
const VERSION_MIN: (u32, u32) = (20, 10);
/// The first engine that checks a file without taking it.
const VERSION_VALIDATES: (u32, u32) = (23, 0);

/// Everything that was asked.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// What the engine says.
    pub(super) info: SystemInfo,
    /// What its file says.
    pub(super) file: DaemonJson,
    /// How many open files the engine can give a container; none when that is not known.
    pub(super) open_files_max: Option<i64>,
}

/// Everything that the engine and its file tell.
pub(super) fn checks(told: &Told, config: &Config) -> Vec<Check> {
    let Told { info, file, .. } = told;
    let mut checks = vec![
        version(info, &config.host),
        storage(info, file),
        logs(info, file),
        open_files(file, told.open_files_max),
        live_restore(info, file),
        user_ids(info),
        filter(info),
        control_groups(info),
    ];
    checks.extend(limits(info));
    let wanted: Vec<&str> = (config.oci_runtime.iter())
        .chain(&config.runtime_classes)
        .map(RuntimeClass::as_str)
        .collect();
    checks.push(runtimes(info, &wanted));
    checks
}

/// The file as it should be; none when it may stay as it is.
pub(super) fn change(told: &Told, path: &Path) -> Option<Change> {
    let Told { info, file, .. } = told;
    let mut wanted = file.clone();
    if !stores_in_overlays(info) {
        wanted.store_in_overlays();
    }
    if !rotates(info, file) {
        wanted.rotate_logs();
    }
    let can_raise = told.open_files_max.is_none_or(is_enough);
    if can_raise && file.open_files().is_none_or(|limit| !is_enough(limit)) {
        wanted.raise_open_files();
    }
    // The rest is taken at a start of the engine only, which containers outlive
    // when this was taken before.
    let needs_start = wanted != *file || !stores_in_overlays(info);
    let keeps = info.live_restore_enabled == Some(true);
    if !keeps {
        wanted.keep_containers();
    }
    if keeps && !needs_start {
        return None;
    }
    let mut commands = Vec::new();
    if parsed(info).is_some_and(|version| version >= VERSION_VALIDATES) {
        commands.push(format!(
            "dockerd --validate --config-file {}",
            path.display()
        ));
    }
    if !keeps {
        commands.push("systemctl reload docker".to_owned());
    }
    if needs_start {
        commands.push("systemctl restart docker".to_owned());
    }
    Some(Change {
        path: path.to_owned(),
        content: wanted.text(),
        commands,
    })
}

fn version(info: &SystemInfo, host: &str) -> Check {
    const NAME: &str = "engine";
    let version = info.server_version.as_deref().unwrap_or("unknown");
    let kernel = info.kernel_version.as_deref().unwrap_or("unknown");
    let found = format!("version {version} at {host}, kernel {kernel}");
    let (major, minor) = VERSION_MIN;
    match parsed(info) {
        Some(parsed) if parsed < VERSION_MIN => {
            Check::warn(NAME, found).fix(format!("use {major}.{minor} or newer, which is tested"))
        }
        _ => Check::pass(NAME, found),
    }
}

/// The first two numbers of the engine's version.
fn parsed(info: &SystemInfo) -> Option<(u32, u32)> {
    let mut numbers = info.server_version.as_deref()?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `overlayfs` is what engines call it that leave images to containerd.
fn stores_in_overlays(info: &SystemInfo) -> bool {
    matches!(info.driver.as_deref(), Some("overlay2" | "overlayfs"))
}

fn storage(info: &SystemInfo, file: &DaemonJson) -> Check {
    const NAME: &str = "storage driver";
    let driver = info.driver.as_deref().unwrap_or("unknown");
    if stores_in_overlays(info) {
        return Check::pass(NAME, driver);
    }
    let asked = match file.storage_driver() {
        Some("overlay2") => "; its file asks for overlay2, which it has not taken yet",
        _ => "",
    };
    let root = info.docker_root_dir.as_deref().unwrap_or("its folder");
    Check::warn(NAME, format!("{driver} is slow or takes much disk{asked}")).fix(format!(
        "set \"storage-driver\": \"overlay2\", which {root} must be on ext4 or xfs for; images and containers made with {driver} are not seen then: `docker save` what is needed before"
    ))
}

/// Whether the engine bounds the logs of containers.
fn rotates(info: &SystemInfo, file: &DaemonJson) -> bool {
    // All others rotate by themselves, or hand logs to somebody who does.
    if info.logging_driver.as_deref() != Some("json-file") {
        return true;
    }
    let is_bound = |value: &str| !value.is_empty() && value != "-1" && value != "0";
    file.log_option("max-size").is_some_and(is_bound) && file.log_option("max-file").is_some()
}

fn logs(info: &SystemInfo, file: &DaemonJson) -> Check {
    const NAME: &str = "log rotation";
    let driver = info.logging_driver.as_deref().unwrap_or("unknown");
    if !rotates(info, file) {
        return Check::warn(
            NAME,
            format!("logs of containers grow without bound: driver {driver} without max-size and max-file"),
        )
        .fix("set \"log-opts\" with \"max-size\" and \"max-file\"; containers that exist keep their logs as they are");
    }
    let options = ["max-size", "max-file"]
        .iter()
        .filter_map(|name| Some(format!(", {name} {}", file.log_option(name)?)))
        .collect::<String>();
    Check::pass(NAME, format!("driver {driver}{options}"))
}

fn is_enough(limit: i64) -> bool {
    // Below 0 it is none.
    !(0..OPEN_FILES_MIN).contains(&limit)
}

fn open_files(file: &DaemonJson, max: Option<i64>) -> Check {
    const NAME: &str = "open files";
    let more = "raise what the engine itself may have: `systemctl edit docker` with LimitNOFILE=1048576; in a container also CAP_SYS_RESOURCE";
    let asked = file.open_files();
    if let (Some(asked), Some(max)) = (asked, max)
        && (asked < 0 || asked > max)
    {
        let finding = format!(
            "no container starts: it is to have {asked}, and the engine can give {max} at most"
        );
        return Check::fail(NAME, finding).fix(more);
    }
    let finding = match (asked, max) {
        (Some(limit), _) if is_enough(limit) => {
            return Check::pass(NAME, format!("up to {limit} in each container"));
        }
        (_, Some(max)) if !is_enough(max) => {
            let finding = format!(
                "the engine can give containers {max} at most; with more in its file none would start"
            );
            return Check::warn(NAME, finding).fix(more);
        }
        (Some(limit), _) => format!("only {limit} in each container"),
        (None, _) => "containers have what the engine itself happens to have".to_owned(),
    };
    Check::warn(NAME, finding).fix(format!(
        "set \"default-ulimits\" with a \"nofile\" of at least {OPEN_FILES_MIN}"
    ))
}

fn live_restore(info: &SystemInfo, file: &DaemonJson) -> Check {
    const NAME: &str = "live restore";
    if info.live_restore_enabled == Some(true) {
        return Check::pass(NAME, "sandboxes outlive a restart of the engine");
    }
    let finding = "a restart or an upgrade of the engine ends all sandboxes";
    if file.live_restore() {
        Check::warn(
            NAME,
            format!("{finding}; its file has live-restore, which it has not taken yet"),
        )
        .fix("systemctl reload docker")
    } else {
        Check::warn(NAME, finding).fix("set \"live-restore\": true")
    }
}

fn security<'a>(info: &'a SystemInfo, name: &str) -> Option<&'a str> {
    let options = info.security_options.as_deref().unwrap_or_default();
    let wanted = format!("name={name}");
    options
        .iter()
        .find(|option| option.split(',').next() == Some(wanted.as_str()))
        .map(String::as_str)
}

fn user_ids(info: &SystemInfo) -> Check {
    const NAME: &str = "user ids";
    if security(info, "userns").is_some() {
        return Check::pass(NAME, "root of a container is nobody outside (userns-remap)");
    }
    if security(info, "rootless").is_some() {
        return Check::pass(NAME, "the engine runs without root");
    }
    Check::warn(
        NAME,
        "root of a sandbox is the host's root, held back by capabilities and seccomp alone",
    )
    .fix("set \"userns-remap\": \"default\" by hand: the engine then begins with a folder of its own, without the images and containers that it has now")
}

fn filter(info: &SystemInfo) -> Check {
    const NAME: &str = "system call filter";
    match security(info, "seccomp") {
        None => Check::warn(NAME, "the engine has no seccomp")
            .fix("use an engine built with seccomp, on a kernel with CONFIG_SECCOMP_FILTER"),
        Some(option) if option.contains("profile=unconfined") => {
            Check::warn(NAME, "seccomp is there, and not used (profile unconfined)")
                .fix("remove \"seccomp-profile\": \"unconfined\", or set `docker.seccomp_profile`")
        }
        Some(_) => Check::pass(NAME, "seccomp filters work"),
    }
}

fn control_groups(info: &SystemInfo) -> Check {
    const NAME: &str = "control groups";
    let driver = info
        .cgroup_driver
        .map_or_else(|| "unknown".to_owned(), |driver| driver.to_string());
    let version = match info.cgroup_version {
        Some(SystemInfoCgroupVersionEnum::_2) => "v2",
        Some(SystemInfoCgroupVersionEnum::_1) => "v1",
        _ => "of unknown version",
    };
    Check::pass(NAME, format!("cgroup {version}, driver {driver}"))
}

/// Limits that the engine cannot set.
fn limits(info: &SystemInfo) -> Option<Check> {
    let missing: Vec<_> = [
        ("memory", info.memory_limit),
        ("swap", info.swap_limit),
        ("CPU", info.cpu_cfs_quota),
        ("processes", info.pids_limit),
    ]
    .into_iter()
    .filter_map(|(name, works)| (works == Some(false)).then_some(name))
    .collect();
    (!missing.is_empty()).then(|| {
        Check::warn("limits", format!("not limited in sandboxes: {}", missing.join(", "))).fix(
            "enable the controllers at boot: `cgroup_enable=memory swapaccount=1` on the kernel's command line",
        )
    })
}

/// Whether the engine has all OCI runtimes that sandboxes may be made with.
fn runtimes(info: &SystemInfo, wanted: &[&str]) -> Check {
    const NAME: &str = "OCI runtime";
    let known = info.runtimes.clone().unwrap_or_default();
    let mut names: Vec<_> = known.keys().map(String::as_str).collect();
    names.sort_unstable();
    let default = info.default_runtime.as_deref().unwrap_or("unknown");
    let names_told = names.join(", ");
    let missing: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|name| !names.contains(name))
        .collect();
    if missing.is_empty() {
        let found = format!("the engine has {names_told}; {default} unless told otherwise");
        return Check::pass(NAME, found);
    }
    let missing = missing.join(", ");
    Check::fail(NAME, format!("the engine has no runtime {missing}, only {names_told}")).fix(
        "install it and name it in \"runtimes\" of the engine's file, then `systemctl reload docker`; or correct `docker.oci_runtime` and `docker.runtime_classes`",
    )
}

#[cfg(test)]
mod tests;
