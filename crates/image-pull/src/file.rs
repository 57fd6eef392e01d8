//! Files by URL, from public addresses only: the server may reach what sandboxes
//! and their builds may not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};
use sandbox::{Error, Kind, Result, Sink};
use tokio::io::AsyncWriteExt as _;

use crate::{REDIRECTS_MAX, error::chain};

/// Writes what the URL gives.
pub(crate) async fn get(
    client: &Client,
    url: &str,
    bytes_max: u64,
    private_addresses: bool,
    sink: Sink<'_>,
) -> Result<()> {
    let parsed = Url::parse(url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| Error::invalid(format!("{url:?} is not a URL of http or https")))?;
    if !private_addresses && is_private(&parsed) {
        return Err(forbidden(url));
    }
    let failed = |error: reqwest::Error| {
        let causes = chain(&error);
        if causes.contains(NotPublic::TEXT) {
            return forbidden(url);
        }
        Error::unavailable(format!("cannot get {url}: {causes}"))
    };
    let mut response = client.get(parsed).send().await.map_err(failed)?;
    let status = response.status();
    if !status.is_success() {
        let kind = match status.as_u16() {
            404 | 410 => Kind::NotFound,
            401 | 403 => Kind::Unauthenticated,
            _ => Kind::Unavailable,
        };
        return Err(Error::new(kind, format!("cannot get {url}: {status}")));
    }
    let mut done = 0;
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        done += piece.len() as u64;
        if done > bytes_max {
            return Err(Error::limit(format!(
                "{url} has more than the {bytes_max} bytes that are taken"
            )));
        }
        sink.write_all(&piece)
            .await
            .map_err(|error| Error::internal(format!("keep {url}: {error}")))?;
    }
    sink.flush()
        .await
        .map_err(|error| Error::internal(format!("keep {url}: {error}")))
}

fn forbidden(url: &str) -> Error {
    Error::new(
        Kind::Forbidden,
        format!("{url} leads to an address that is not public; files come from the internet only"),
    )
}

/// An address that is not public was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{}", Self::TEXT)]
struct NotPublic;

impl NotPublic {
    const TEXT: &str = "not a public address";
}

/// Follows redirections, but not to where the first URL could not lead either.
pub(crate) fn redirects(private_addresses: bool) -> Policy {
    Policy::custom(move |attempt| {
        if attempt.previous().len() > REDIRECTS_MAX {
            return attempt.error("too many redirections");
        }
        if !private_addresses && is_private(attempt.url()) {
            return attempt.error(NotPublic);
        }
        attempt.follow()
    })
}

/// Whether the URL names an address that is not public. Names are checked when
/// they are resolved.
fn is_private(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse().is_ok_and(|ip: IpAddr| !is_public(ip))
}

/// Resolves names to their public addresses.
pub(crate) struct PublicAddresses;

impl Resolve for PublicAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(NotPublic.into());
            }
            let addresses: Addrs = Box::new(public.into_iter());
            Ok(addresses)
        })
    }
}

fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => match ip.to_ipv4() {
            // Also `::1`, which reads as 0.0.0.1.
            Some(inner) => is_public_v4(inner),
            None => is_public_v6(ip),
        },
    }
}

/// The ranges that sandboxes with a network cannot reach either.
fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, d] = ip.octets();
    !(a == 0
        || a == 10
        || a == 127
        || a >= 224
        || (a == 100 && (64..128).contains(&b))
        || (a == 169 && b == 254)
        || (a == 172 && (16..32).contains(&b))
        || (a == 192 && b == 168)
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b))
        || [a, b, c, d] == [168, 63, 129, 16])
}

/// Global unicast, without the tunnels that lead to addresses of version 4.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    (0x2000..0x4000).contains(&first) && first != 0x2002 && !(first == 0x2001 && second == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_reached() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "::1",
            "::",
            "::ffff:10.0.0.1",
            "fe80::1",
            "fd00::1",
            "2002:0a00:0001::",
            "64:ff9b::a00:1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["1.1.1.1", "172.32.0.1", "2606:4700::1111"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[tokio::test]
    async fn urls_of_this_machine_are_forbidden_by_address_and_by_name() {
        let fetch = crate::HttpFetch::new(crate::FetchConfig::default()).unwrap();
        for (url, kind) in [
            ("http://127.0.0.1:1/x", Kind::Forbidden),
            ("http://localhost:1/x", Kind::Forbidden),
            ("http://[::1]/", Kind::Forbidden),
            ("file:///etc/passwd", Kind::InvalidRequest),
        ] {
            let error = sandbox::Fetch::file(&fetch, url, 10, &mut tokio::io::sink()).await;
            assert_eq!(error.unwrap_err().kind, kind, "{url}");
        }
    }
}
