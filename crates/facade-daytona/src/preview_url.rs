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
    let by_host = Host::of(base).and_then(|(scheme, host)| {
        let is_wanted = match links.form {
            LinkForm::Path => false,
            LinkForm::Host => true,
            LinkForm::Auto => links.is_wildcard(&host.name),
        };
        is_wanted.then(|| host.url(scheme, key, port))?
    });
    by_host.unwrap_or_else(|| format!("{base}/preview/{key}/{port}"))
}

impl Links {
    /// The URL of a port by host, for browsers that came by path to `base`
    /// (`scheme://host[:port]`): where names below its host are known to lead
    /// here, an application gets an origin of its own. Browsers, unlike other
    /// programs, take all names below `localhost` for the machine that they
    /// run on.
    #[must_use]
    pub fn by_host(&self, base: &str, key: &str, port: u16) -> Option<String> {
        let (scheme, host) = Host::of(base)?;
        let leads_here = match self.form {
            LinkForm::Path => false,
            LinkForm::Host => true,
            LinkForm::Auto => host.is_loopback || self.is_wildcard(&host.name),
        };
        leads_here.then(|| host.url(scheme, key, port))?
    }

    fn is_wildcard(&self, host: &str) -> bool {
        self.wildcard_hosts.iter().any(|parent| {
            let above = host.strip_suffix(parent.as_str());
            above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
        })
    }
}

/// The host of a base URL.
struct Host {
    name: String,
    port: String,
    is_address: bool,
    is_loopback: bool,
}

impl Host {
    /// The scheme and the host of `scheme://host[:port]`.
    fn of(base: &str) -> Option<(&str, Self)> {
        let (scheme, authority) = base.split_once("://")?;
        let authority: Authority = authority.parse().ok()?;
        let name = authority.host().to_ascii_lowercase();
        let address: Option<IpAddr> = name.trim_matches(['[', ']']).parse().ok();
        let is_loopback = match address {
            Some(address) => address.is_loopback(),
            None => name == "localhost" || name.ends_with(".localhost"),
        };
        let port = authority.port().map(|port| format!(":{port}"));
        Some((
            scheme,
            Self {
                is_address: address.is_some(),
                is_loopback,
                name,
                port: port.unwrap_or_default(),
            },
        ))
    }

    fn url(&self, scheme: &str, key: &str, port: u16) -> Option<String> {
        let name = match (self.is_address, self.is_loopback) {
            (false, _) => &self.name,
            // An address has no names below it, but this one has a name.
            (true, true) => "localhost",
            (true, false) => return None,
        };
        Some(format!("{scheme}://{port}-{key}.{name}{}", self.port))
    }
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
    fn browsers_on_this_machine_are_led_to_a_host_of_its_own() {
        let mut links = Links::default();
        for base in ["http://localhost:5266", "http://127.0.0.1:5266"] {
            let led = links.by_host(base, "id", 3000);
            assert_eq!(led.as_deref(), Some("http://3000-id.localhost:5266"));
        }
        for base in [
            "http://192.168.1.5",
            "http://host.docker.internal",
            "http://box.example.com",
        ] {
            assert_eq!(links.by_host(base, "id", 3000), None, "{base}");
        }
        links.form = LinkForm::Path;
        assert_eq!(links.by_host("http://localhost", "id", 3000), None);
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
