//! Section `rollout`.

use std::{fs, net::IpAddr, path::Path};

use facade_daytona::rollout::{Limits, Share};
use reqwest::Url;

use super::{
    super::{Origin, Rollout, Secret},
    Check, count64, duration, optional_path, read_private, switch,
};

const URL: &str = "rollout.upstream_url";
const KEY: &str = "rollout.upstream_key";
const KEY_FILE: &str = "rollout.upstream_key_file";
const SHARE: &str = "rollout.share";
/// Names that lead nowhere outside a private network.
const PRIVATE_DOMAINS: [&str; 4] = [".localhost", ".internal", ".local", ".lan"];

impl Check<'_> {
    /// The rollout, where there is an upstream.
    pub(super) fn rollout(&mut self) -> Option<Rollout> {
        let upstream_url = self.scalar(URL, upstream_url);
        let upstream_key = self.upstream_key();
        let share = self.scalar(SHARE, share);
        let rollout = Rollout {
            upstream_url: upstream_url.clone().unwrap_or_default(),
            upstream_key: upstream_key.clone().unwrap_or_else(|| Secret::new("")),
            ca_certificates: self.scalar("rollout.ca_certificates", |text| {
                let path = optional_path(text)?;
                if let Some(path) = &path {
                    fs::File::open(path).map_err(|error| format!("cannot read it: {error}"))?;
                }
                Ok(path)
            }),
            share,
            sticky_label: self.scalar("rollout.sticky_label", label),
            fallback: self.scalar("rollout.fallback", switch),
            window: self.scalar("rollout.window", duration),
            limits: Limits {
                error_rate_max: self.scalar("rollout.error_rate_max", fraction),
                requests_min: self.scalar("rollout.requests_min", count64),
                create_p95_max: self.scalar("rollout.create_p95_max", duration),
                creations_min: self.scalar("rollout.creations_min", count64),
            },
        };
        match (&upstream_url, &upstream_key) {
            (Some(url), Some(_)) => {
                self.not_itself(url);
                return Some(rollout);
            }
            (Some(_), None) if self.is_said(KEY_FILE) || self.is_said(KEY) => {}
            (Some(_), None) => self.conflict(
                URL,
                format!("the upstream needs a key; set `{KEY_FILE}` too"),
            ),
            // What is wrong with it has been told.
            (None, _) if self.is_said(URL) => {}
            (None, Some(_)) => {
                let key = if self.is_said(KEY) { KEY } else { KEY_FILE };
                self.conflict(key, format!("it is of no use without `{URL}`"));
            }
            (None, None) => {}
        }
        if upstream_url.is_none() && !self.is_said(URL) && share != Share::NONE {
            self.conflict(
                SHARE,
                format!("without an upstream there is nothing to share with; set `{URL}` and `{KEY_FILE}`, or leave `{SHARE}` out: then everything is made here"),
            );
        }
        None
    }

    fn is_said(&self, key: &str) -> bool {
        self.raw.get(key).origin != Origin::Default
    }

    fn upstream_key(&mut self) -> Option<Secret> {
        let own = self.scalar(KEY, |text| match text {
            "" => Ok(None),
            text => upstream_key(text).map(Some),
        });
        let path = self.scalar(KEY_FILE, optional_path);
        match (own, path) {
            (Some(_), Some(_)) => {
                self.conflict(KEY_FILE, format!("only one of this and `{KEY}` can be"));
                None
            }
            (Some(key), None) => Some(key),
            (None, Some(path)) => match read_key(&path) {
                Ok(key) => Some(key),
                Err(problem) => {
                    self.conflict(KEY_FILE, format!("{}: {problem}", path.display()));
                    None
                }
            },
            (None, None) => None,
        }
    }

    /// A server that passes requests to itself would do so for ever.
    fn not_itself(&mut self, url: &str) {
        let Ok(url) = Url::parse(url) else {
            return;
        };
        let mut ours = Vec::new();
        let mut quiet = Check {
            raw: self.raw,
            problems: &mut ours,
        };
        let (host, port) = (quiet.host(), quiet.port());
        let there: Option<IpAddr> = match url.host_str() {
            Some("localhost") => Some(IpAddr::from([127, 0, 0, 1])),
            Some(host) => host.trim_matches(['[', ']']).parse().ok(),
            None => None,
        };
        let same = there
            .is_some_and(|there| there == host || (host.is_unspecified() && there.is_loopback()));
        if same && url.port_or_known_default() == Some(port) {
            self.conflict(
                URL,
                "this is the address of this server itself; the upstream is another one".to_owned(),
            );
        }
    }
}

fn read_key(path: &Path) -> Result<Secret, String> {
    match read_private(path)?.trim() {
        "" => Err("it holds no key".to_owned()),
        key => upstream_key(key),
    }
}

fn upstream_key(text: &str) -> Result<Secret, String> {
    match text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(Secret::new(text)),
        false => Err("a key is one word of visible ASCII characters".to_owned()),
    }
}

/// The URL of an API that keys may be sent to, without a slash at its end.
fn upstream_url(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let url = Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or("not an http or https URL such as https://app.daytona.io/api")?;
    let host = url.host_str().ok_or("it has no host")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!(
            "no user name or password belongs in it; the key goes into `{KEY_FILE}`"
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it has a query or a fragment".to_owned());
    }
    if url.scheme() == "http" && !is_private(host) {
        return Err("keys would go over the network in the clear; use https".to_owned());
    }
    Ok(Some(text.trim_end_matches('/').to_owned()))
}

/// Whether the way to a host is most likely a private one.
fn is_private(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    match host.parse() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
        Err(_) => {
            !host.contains('.') || PRIVATE_DOMAINS.iter().any(|domain| host.ends_with(domain))
        }
    }
}

fn share(text: &str) -> Result<Share, String> {
    text.parse()
        .ok()
        .and_then(Share::new)
        .ok_or_else(|| "not a share".to_owned())
}

fn fraction(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|fraction| (0.0..=1.0).contains(fraction))
        .ok_or_else(|| "not a fraction; one in twenty is 0.05".to_owned())
}

fn label(text: &str) -> Result<String, String> {
    match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => Err("a label is one word of visible ASCII characters".to_owned()),
    }
}
