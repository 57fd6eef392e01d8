use std::{collections::HashMap, path::PathBuf};

use bollard::models::Runtime;
use sandbox::check::Status;

use super::*;
use crate::Guard;

/// The daemon.json of the plan that brought SUNA here.
const PLAN: &str = r#"{
  "log-driver": "json-file",
  "log-opts": { "max-size": "10m", "max-file": "3" },
  "storage-driver": "overlay2",
  "default-ulimits": { "nofile": { "Name": "nofile", "Hard": 64000, "Soft": 64000 } }
}"#;

fn info() -> SystemInfo {
    SystemInfo {
        server_version: Some("20.10.24+dfsg1".to_owned()),
        driver: Some("overlay2".to_owned()),
        logging_driver: Some("json-file".to_owned()),
        live_restore_enabled: Some(false),
        cgroup_version: Some(SystemInfoCgroupVersionEnum::_2),
        security_options: Some(vec!["name=seccomp,profile=default".to_owned()]),
        runtimes: Some(HashMap::from([("runc".to_owned(), Runtime::default())])),
        default_runtime: Some("runc".to_owned()),
        ..SystemInfo::default()
    }
}

fn config(oci_runtime: Option<&str>) -> Config {
    Config {
        host: "unix:///var/run/docker.sock".to_owned(),
        scope: "test".to_owned(),
        run_dir: PathBuf::new(),
        agent: &[],
        oci_runtime: oci_runtime.map(|name| name.parse().unwrap()),
        runtime_classes: vec!["runc".parse().unwrap()],
        guard: Guard::Off,
        seccomp_profile: None,
    }
}

fn file(text: &str) -> DaemonJson {
    DaemonJson::parse(text).unwrap()
}

fn told(info: &SystemInfo, file: &DaemonJson) -> Told {
    Told {
        info: info.clone(),
        file: file.clone(),
        open_files_max: Some(1 << 20),
    }
}

/// Names of what is not well.
fn not_well(info: &SystemInfo, file: &DaemonJson, oci_runtime: Option<&str>) -> Vec<String> {
    checks(&told(info, file), &config(oci_runtime))
        .into_iter()
        .filter(|check| check.status != Status::Pass)
        .map(|check| {
            assert!(check.fix.is_some(), "{check:?}");
            check.name
        })
        .collect()
}

fn changed(info: &SystemInfo, file: &DaemonJson) -> Option<(serde_json::Value, Vec<String>)> {
    let change = change(&told(info, file), Path::new("/etc/docker/daemon.json"))?;
    Some((
        serde_json::from_str(&change.content).unwrap(),
        change.commands,
    ))
}

#[test]
fn a_fresh_engine_lacks_what_the_plan_sets() {
    assert_eq!(
        not_well(&info(), &file(""), None),
        ["log rotation", "open files", "live restore", "user ids"]
    );
    let (content, commands) = changed(&info(), &file("{\"debug\": false}")).unwrap();
    assert_eq!(
        content,
        serde_json::json!({
            "debug": false,
            "log-driver": "json-file",
            "log-opts": { "max-size": "10m", "max-file": "3" },
            "default-ulimits": { "nofile": { "Name": "nofile", "Hard": 64000, "Soft": 64000 } },
            "live-restore": true,
        })
    );
    // First what lets containers outlive the second.
    assert_eq!(
        commands,
        ["systemctl reload docker", "systemctl restart docker"]
    );
}

#[test]
fn with_the_plans_file_only_live_restore_is_changed() {
    assert_eq!(
        not_well(&info(), &file(PLAN), None),
        ["live restore", "user ids"]
    );
    let (content, commands) = changed(&info(), &file(PLAN)).unwrap();
    assert_eq!(content["live-restore"], true);
    assert_eq!(content["storage-driver"], "overlay2");
    assert_eq!(commands, ["systemctl reload docker"]);
}

#[test]
fn an_engine_as_it_should_be_needs_no_change() {
    let good = SystemInfo {
        live_restore_enabled: Some(true),
        security_options: Some(vec![
            "name=seccomp,profile=builtin".into(),
            "name=userns".into(),
        ]),
        ..info()
    };
    assert!(not_well(&good, &file(PLAN), Some("runc")).is_empty());
    assert_eq!(changed(&good, &file(PLAN)), None);
}

#[test]
fn what_the_engine_has_not_taken_yet_is_told() {
    let old = SystemInfo {
        driver: Some("vfs".to_owned()),
        server_version: Some("29.1.0".to_owned()),
        ..info()
    };
    let with_live_restore = file(&PLAN.replacen('{', "{\"live-restore\": true,", 1));
    let found = checks(&told(&old, &with_live_restore), &config(None));
    let of = |name: &str| {
        found
            .iter()
            .find(|check| check.name == name)
            .unwrap()
            .clone()
    };
    assert!(of("storage driver").finding.contains("not taken yet"));
    assert!(of("live restore").finding.contains("not taken yet"));
    assert_eq!(of("live restore").fix.unwrap(), "systemctl reload docker");
    let (_, commands) = changed(&old, &with_live_restore).unwrap();
    assert_eq!(
        commands,
        [
            "dockerd --validate --config-file /etc/docker/daemon.json",
            "systemctl reload docker",
            "systemctl restart docker",
        ]
    );
}

#[test]
fn a_runtime_that_is_not_there_makes_no_sandboxes() {
    let found = checks(&told(&info(), &file(PLAN)), &config(Some("runsc")));
    let runtime = found
        .iter()
        .find(|check| check.name == "OCI runtime")
        .unwrap();
    assert_eq!(runtime.status, Status::Fail);
    assert_eq!(
        runtime.finding,
        "the engine has no runtime runsc, only runc"
    );
}

#[test]
fn missing_walls_and_limits_are_told() {
    let weak = SystemInfo {
        server_version: Some("19.3.1".to_owned()),
        security_options: Some(vec!["name=seccomp,profile=unconfined".to_owned()]),
        pids_limit: Some(false),
        ..info()
    };
    let names = not_well(&weak, &file(PLAN), None);
    assert_eq!(
        names,
        [
            "engine",
            "live restore",
            "user ids",
            "system call filter",
            "limits"
        ]
    );
    assert_eq!(
        not_well(
            &SystemInfo {
                security_options: None,
                ..info()
            },
            &file(PLAN),
            None
        ),
        ["live restore", "user ids", "system call filter"]
    );
}

#[test]
fn other_log_drivers_need_no_rotation() {
    for driver in ["local", "journald", "none"] {
        let other = SystemInfo {
            logging_driver: Some(driver.to_owned()),
            ..info()
        };
        assert!(!not_well(&other, &file(""), None).contains(&"log rotation".to_owned()));
    }
    let unlimited = file(r#"{"log-opts": {"max-size": "-1", "max-file": "3"}}"#);
    assert!(not_well(&info(), &unlimited, None).contains(&"log rotation".to_owned()));
}

#[test]
fn an_engine_gives_no_more_files_than_it_may_have() {
    let small = |text: &str| Told {
        open_files_max: Some(20_000),
        ..told(&info(), &file(text))
    };
    let open_files = |told: &Told| {
        let found = checks(told, &config(None));
        found
            .into_iter()
            .find(|check| check.name == "open files")
            .unwrap()
    };
    let check = open_files(&small(PLAN));
    assert_eq!(check.status, Status::Fail);
    assert!(
        check.finding.starts_with("no container starts"),
        "{}",
        check.finding
    );
    let check = open_files(&small(""));
    assert_eq!(check.status, Status::Warn);
    assert!(check.finding.contains("20000 at most"), "{}", check.finding);
    let change = change(&small(""), Path::new("/f")).unwrap();
    assert!(!change.content.contains("nofile"), "{}", change.content);
}
