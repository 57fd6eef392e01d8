use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::*;

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn flag(key: &str, value: &str) -> FlagValue {
    FlagValue {
        key: key.to_owned(),
        flag: "--set".to_owned(),
        value: value.to_owned(),
    }
}

fn with_file(text: &str, test: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::write(&path, text).unwrap();
    test(&path);
}

fn problems(sources: &Sources) -> Vec<String> {
    Config::load(sources)
        .map(|_| ())
        .map_err(|problems| problems.0.iter().map(ToString::to_string).collect())
        .err()
        .unwrap_or_default()
}

#[test]
fn the_defaults_are_valid_and_every_key_is_used() {
    let (config, raw) = Config::load(&Sources::default()).unwrap();
    assert_eq!(config.listen_address().to_string(), "127.0.0.1:5266");
    assert_eq!(config.defaults.limits, Limits::default());
    assert_eq!(explain::explain(&raw).len(), table::KEYS.len());
    // A wrong value of any key is noticed, so every key is read by the check.
    for key in table::KEYS {
        if matches!(key.form, table::Form::List) && key.name == "server.allowed_hosts" {
            continue; // any text is a host name
        }
        let sources = Sources {
            flags: vec![flag(key.name, "§ wrong §")],
            ..Sources::default()
        };
        assert!(!problems(&sources).is_empty(), "{}", key.name);
    }
}

#[test]
fn flags_beat_the_environment_beats_the_file() {
    with_file(
        "[server]\nport = 1000\nscope = \"file\"\nhost = \"::1\"\n",
        |path| {
            let (config, raw) = Config::load(&Sources {
                file: Some(path.to_owned()),
                environment: environment(&[
                    ("SANDBOXAI_SERVER_PORT", "2000"),
                    ("SANDBOXAID_PORT", "3000"),
                    ("SANDBOXAI_SERVER_SCOPE", "environment"),
                ]),
                flags: vec![flag("server.scope", "flag")],
                ..Sources::default()
            })
            .unwrap();
            assert_eq!(config.server.port, 2000);
            assert_eq!(config.server.scope, "flag");
            assert_eq!(config.server.host.to_string(), "::1");
            let origin = |key: &str| raw.get(key).origin.to_string();
            assert_eq!(origin("server.port"), "environment SANDBOXAI_SERVER_PORT");
            assert_eq!(origin("server.scope"), "flag --set");
            assert_eq!(origin("server.host"), format!("{}:4", path.display()));
            assert_eq!(origin("server.user"), "default");
        },
    );
}

#[test]
fn the_variables_of_the_original_server_work() {
    let (config, _) = Config::load(&Sources {
        environment: environment(&[
            ("SANDBOXAID_HOST", "127.0.0.2"),
            ("SANDBOXAID_PORT", "0"),
            ("SANDBOXAID_SCOPE", "abc"),
            ("SANDBOXAID_DELETE_ON_SHUTDOWN", "true"),
        ]),
        ..Sources::default()
    })
    .unwrap();
    assert_eq!(config.listen_address().to_string(), "127.0.0.2:0");
    assert_eq!(config.server.scope, "abc");
    assert!(config.server.delete_on_shutdown);
}

#[test]
fn unknown_names_are_errors_with_line_and_suggestion() {
    with_file(
        "[server]\nport = 1\n\nprot = 2\n[sever]\nhost = 1\n",
        |path| {
            let found = problems(&Sources {
                file: Some(path.to_owned()),
                environment: environment(&[
                    ("SANDBOXAI_SERVER_PRT", "1"),
                    ("SANDBOXAI_TEST_PYTHON", "not ours"),
                ]),
                ..Sources::default()
            });
            let shown = path.display();
            assert_eq!(
            found,
            [
                format!("{shown}:4: unknown configuration key `server.prot`; did you mean `server.port`?"),
                format!("{shown}:5: unknown configuration key `sever`; did you mean `server`?"),
                "environment SANDBOXAI_SERVER_PRT: unknown configuration key `SANDBOXAI_SERVER_PRT`; did you mean `SANDBOXAI_SERVER_PORT`?".to_owned(),
            ]
        );
        },
    );
}

#[test]
fn a_wrong_value_names_key_origin_and_fix() {
    with_file(
        "[sandbox]\nmemory = 2048\nidle_timeout = \"15\"\n",
        |path| {
            let found = problems(&Sources {
                file: Some(path.to_owned()),
                ..Sources::default()
            });
            assert_eq!(found.len(), 2, "{found:?}");
            assert!(
                found[0].contains("config.toml:2: `sandbox.memory` = \"2048\"")
                    && found[0].contains("no unit"),
                "{}",
                found[0]
            );
        },
    );
}

#[test]
fn broken_toml_names_the_line() {
    with_file("[server]\nport = = 1\n", |path| {
        let found = problems(&Sources {
            file: Some(path.to_owned()),
            ..Sources::default()
        });
        assert!(
            found[0].contains("config.toml:2: not valid TOML"),
            "{found:?}"
        );
    });
}

#[test]
fn a_named_file_must_exist_but_the_default_one_need_not() {
    let missing = PathBuf::from("/nonexistent/config.toml");
    assert!(
        problems(&Sources {
            default_file: Some(missing.clone()),
            ..Sources::default()
        })
        .is_empty()
    );
    assert_eq!(
        problems(&Sources {
            file: Some(missing),
            ..Sources::default()
        })
        .len(),
        1
    );
}

#[test]
fn an_open_address_needs_keys_or_consent() {
    let open = |more: Vec<FlagValue>| {
        let mut flags = vec![flag("server.host", "0.0.0.0")];
        flags.extend(more);
        problems(&Sources {
            flags,
            ..Sources::default()
        })
    };
    let refused = open(vec![]);
    assert!(
        refused[0].contains("server.allow_unauthenticated"),
        "{refused:?}"
    );
    assert!(open(vec![flag("server.allow_unauthenticated", "true")]).is_empty());
    assert!(open(vec![flag("server.api_keys", "0123456789abcdef")]).is_empty());
}

#[test]
fn keys_are_never_shown() {
    let secret = "0123456789abcdef-secret";
    let sources = Sources {
        flags: vec![flag("server.api_keys", secret)],
        ..Sources::default()
    };
    let (config, raw) = Config::load(&sources).unwrap();
    let shown = format!(
        "{config:?} {}",
        serde_json::to_string(&explain::explain(&raw)).unwrap()
    );
    assert!(
        !shown.contains(secret) && shown.contains("(1 hidden)"),
        "{shown}"
    );
    let short = problems(&Sources {
        flags: vec![flag("server.api_keys", "hunter2")],
        ..Sources::default()
    });
    assert!(
        short.len() == 1 && !short[0].contains("hunter2"),
        "{short:?}"
    );
}

#[test]
fn the_key_file_must_be_private_and_hold_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let load = || {
        Config::load(&Sources {
            flags: vec![flag("server.api_keys_file", path.to_str().unwrap())],
            ..Sources::default()
        })
    };
    fs::write(&path, "# comment\n\n0123456789abcdef\nfedcba9876543210\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(load().unwrap_err().to_string().contains("chmod"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(load().unwrap().0.server.api_keys.len(), 2);
    fs::write(&path, "# none\n").unwrap();
    assert!(load().unwrap_err().to_string().contains("holds no key"));
}

#[test]
fn defaults_must_fit_the_limits() {
    let found = problems(&Sources {
        flags: vec![flag("limits.memory", "1GiB")],
        ..Sources::default()
    });
    assert!(
        found[0].contains("`sandbox.memory`: it is more than `limits.memory`"),
        "{found:?}"
    );
}

#[test]
fn the_document_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let text = explain::document();
    if std::env::vars_os().any(|(name, _)| name == "UPDATE") {
        fs::write(&path, &text).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == text,
        "docs/configuration.md is out of date; run `UPDATE=1 cargo test -p sandboxai-server` and look at the difference"
    );
}

#[test]
fn credentials_of_registries_are_read_and_never_shown() {
    let key = "SANDBOXAI_IMAGES_CREDENTIALS";
    let given = |text: &str| Sources {
        environment: environment(&[(key, text)]),
        ..Sources::default()
    };
    let (config, _) = Config::load(&given("ghcr.io=me:to:ken,localhost:5000=you:x")).unwrap();
    let (username, password) = &config.registry_credentials["ghcr.io"];
    assert_eq!((username.as_str(), password.reveal()), ("me", "to:ken"));
    assert!(config.registry_credentials.contains_key("localhost:5000"));
    let problems = Config::load(&given("ghcr.io=secret"))
        .unwrap_err()
        .to_string();
    assert!(problems.contains("HOST=USERNAME:PASSWORD"), "{problems}");
    assert!(
        !problems.contains("secret`") && !problems.contains("\"ghcr"),
        "{problems}"
    );
}

/// A configuration with these keys of the section `rollout`.
fn rollout(pairs: &[(&str, &str)]) -> Sources {
    let flags = pairs
        .iter()
        .map(|(key, value)| flag(&format!("rollout.{key}"), value));
    Sources {
        flags: flags.collect(),
        ..Sources::default()
    }
}

#[test]
fn a_rollout_needs_an_upstream_and_a_key_of_it() {
    let url = ("upstream_url", "https://daytona.test/api");
    let key = ("upstream_key", "dtn_0123");
    assert!(
        Config::load(&Sources::default())
            .unwrap()
            .0
            .rollout
            .is_none()
    );
    let (config, _) = Config::load(&rollout(&[url, key, ("share", "12.5")])).unwrap();
    let found = config.rollout.unwrap();
    assert_eq!(found.upstream_url, "https://daytona.test/api");
    assert_eq!(found.upstream_key.reveal(), "dtn_0123");
    assert!((found.share.percent() - 12.5).abs() < 1e-12);
    assert_eq!(found.limits, facade_daytona::rollout::Limits::default());
    for (given, key, told) in [
        (
            &[("share", "10")][..],
            "`rollout.share`",
            "`rollout.upstream_url`",
        ),
        (&[key], "`rollout.upstream_key`", "`rollout.upstream_url`"),
        (
            &[url],
            "`rollout.upstream_url`",
            "`rollout.upstream_key_file`",
        ),
    ] {
        let found = problems(&rollout(given));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].contains(key) && found[0].contains(told),
            "{found:?}"
        );
    }
}

#[test]
fn an_upstream_is_one_that_keys_may_be_sent_to() {
    let load = |url: &str| {
        Config::load(&rollout(&[("upstream_url", url), ("upstream_key", "k")]))
            .map(|(config, _)| config.rollout.unwrap().upstream_url)
            .map_err(|problems| problems.to_string())
    };
    for fine in [
        "https://app.daytona.io/api",
        "http://127.0.0.1:3000/api",
        "http://[::1]:3000/api",
        "http://localhost:3000/api",
        "http://10.1.2.3/api",
        "http://daytona-api:3000/api",
        "http://daytona.internal/api",
    ] {
        assert_eq!(load(fine).unwrap(), fine);
    }
    assert_eq!(load("https://a.test/api/").unwrap(), "https://a.test/api");
    for (bad, told) in [
        ("http://app.daytona.io/api", "in the clear"),
        ("http://93.184.216.34/api", "in the clear"),
        ("app.daytona.io/api", "not an http or https URL"),
        ("ftp://app.daytona.io/api", "not an http or https URL"),
        ("https://key@app.daytona.io/api", "user name"),
        ("https://app.daytona.io/api?a=b", "query"),
        ("http://127.0.0.1:5266/api", "this server itself"),
    ] {
        let problem = load(bad).unwrap_err();
        assert!(problem.contains(told), "{bad}: {problem}");
    }
}

#[test]
fn the_key_of_the_upstream_is_never_shown() {
    let secret = "dtn_correct_horse";
    let url = ("upstream_url", "https://daytona.test/api");
    let (config, raw) = Config::load(&rollout(&[url, ("upstream_key", secret)])).unwrap();
    let explained = serde_json::to_string(&explain::explain(&raw)).unwrap();
    let shown = format!("{config:?} {explained}");
    assert!(!shown.contains(secret) && shown.contains("(hidden)"));
    let bad = problems(&rollout(&[url, ("upstream_key", "correct horse")]));
    assert!(bad.len() == 1 && !bad[0].contains("correct"), "{bad:?}");
}

#[test]
fn the_file_with_the_key_of_the_upstream_must_be_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let url = ("upstream_url", "https://daytona.test/api");
    let file = ("upstream_key_file", path.to_str().unwrap());
    let load = |more: &[(&str, &str)]| {
        Config::load(&rollout(&[&[url, file], more].concat()))
            .map(|(config, _)| config.rollout.unwrap().upstream_key.reveal().to_owned())
            .map_err(|problems| problems.to_string())
    };
    fs::write(&path, "dtn_0123\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(load(&[]).unwrap_err().contains("chmod"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(load(&[]).unwrap(), "dtn_0123");
    assert!(
        load(&[("upstream_key", "x")])
            .unwrap_err()
            .contains("only one")
    );
    fs::write(&path, "\n").unwrap();
    assert!(load(&[]).unwrap_err().contains("holds no key"));
}
