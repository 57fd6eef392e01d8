//! Which URL a port inside a sandbox has.
//!
//! By path, `{base}/preview/{id}/{port}`, it works wherever the server itself is
//! reached. By host, `{scheme}://{port}-{id}.{host}`, the application has an
//! origin of its own and may use absolute paths, but all names below the host
//! must lead to the server. Both kinds are always served; this module decides
//! which one is told. A URL depends on nothing that changes while the sandbox
//! lives: not on its state, and not on when the server was started.

use std::net::IpAddr;

use axum::http::uri::Authority;
use control::Sandbox;

use crate::{Facade, base_url::BaseUrl};

/// The port that means the toolbox and not a port inside: SDKs from 0.101 to
/// 0.112 ask for its URL, and open websockets below it.
pub const TOOLBOX_PORT: u16 = 2280;

/// Which of the two kinds of URL callers are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkForm {
    /// By host where names below it are known to lead here, else by path.
    #[default]
    Auto,
    /// By host, except where the host is an address that has no names below it.
    Host,
    /// By path.
    Path,
}

/// How URLs of ports are made; validated by `server::config`.
#[derive(Clone, Debug, Default)]
pub struct Links {
    /// Which kind.
    pub form: LinkForm,
    /// `scheme://host[:port]` to make them from; `None` takes the URL that the
    /// request came to.
    pub base: Option<String>,
    /// Hosts of which all names below lead to this server, in lower case.
    pub wildcard_hosts: Vec<String>,
}

/// The URL of a port of a sandbox, without a trailing slash.
pub(crate) fn url(facade: &Facade, base: &BaseUrl, sandbox: &Sandbox, port: u16) -> String {
    if port == TOOLBOX_PORT {
        return format!("{}/toolbox/{}", base.0, sandbox.id);
    }
    link(&facade.config.links, &base.0, sandbox.id.as_str(), port)
}

/// The URL of a port by `key`, which is the id of a sandbox or a token that stands for it.
pub(crate) fn link(links: &Links, base: &str, key: &str, port: u16) -> String {
    let base = links.base.as_deref().unwrap_or(base);
    match by_host(links, base) {
        Some((scheme, host)) => format!("{scheme}://{port}-{key}.{host}"),
        None => format!("{base}/preview/{key}/{port}"),
    }
}

/// Scheme and host with its port to make a URL by host from, if that is wanted and possible.
fn by_host<'a>(links: &Links, base: &'a str) -> Option<(&'a str, String)> {
    let (scheme, authority) = base.split_once("://")?;
    let parsed: Authority = authority.parse().ok()?;
    let host = parsed.host().to_ascii_lowercase();
    let wanted = match links.form {
        LinkForm::Path => false,
        LinkForm::Host => true,
        LinkForm::Auto => links.wildcard_hosts.iter().any(|parent| {
            let above = host.strip_suffix(parent.as_str());
            above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
        }),
    };
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let host = match address {
        None => host,
        // An address has no names below it, but this one has a name.
        Some(address) if address.is_loopback() => "localhost".to_owned(),
        Some(_) => return None,
    };
    let port = parsed.port().map(|port| format!(":{port}"));
    wanted.then(|| (scheme, host + &port.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(form: LinkForm, base: &str) -> String {
        let links = Links {
            form,
            base: None,
            wildcard_hosts: vec!["apps.example.com".to_owned()],
        };
        link(&links, base, "id", 3000)
    }

    #[test]
    fn by_path_unless_names_below_the_host_lead_here() {
        for base in [
            "http://127.0.0.1:5266",
            "http://localhost:5266",
            "http://host.docker.internal:5266",
            "https://box.example.com",
            "https://xapps.example.com",
        ] {
            assert_eq!(of(LinkForm::Auto, base), format!("{base}/preview/id/3000"));
        }
        assert_eq!(
            of(LinkForm::Auto, "https://apps.example.com:8443"),
            "https://3000-id.apps.example.com:8443"
        );
        assert_eq!(
            of(LinkForm::Auto, "https://api.apps.example.com"),
            "https://3000-id.api.apps.example.com"
        );
        assert_eq!(
            of(LinkForm::Path, "https://apps.example.com"),
            "https://apps.example.com/preview/id/3000"
        );
    }

    #[test]
    fn by_host_where_it_is_asked_for_and_possible() {
        for (base, expected) in [
            ("http://localhost:5266", "http://3000-id.localhost:5266"),
            ("http://127.0.0.1:5266", "http://3000-id.localhost:5266"),
            ("http://[::1]:5266", "http://3000-id.localhost:5266"),
            ("https://Box.Example.com", "https://3000-id.box.example.com"),
            (
                "http://192.168.1.5:5266",
                "http://192.168.1.5:5266/preview/id/3000",
            ),
        ] {
            assert_eq!(of(LinkForm::Host, base), expected);
        }
    }

    #[test]
    fn a_configured_base_replaces_the_one_of_the_request() {
        let mut links = Links {
            base: Some("https://box.example.com".to_owned()),
            ..Links::default()
        };
        let asked = "http://sandboxai:5266";
        assert_eq!(
            link(&links, asked, "id", 1),
            "https://box.example.com/preview/id/1"
        );
        links.form = LinkForm::Host;
        assert_eq!(link(&links, asked, "id", 1), "https://1-id.box.example.com");
    }
}
