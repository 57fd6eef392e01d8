//! What proxies say about a request counts only from those that are trusted.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{HeaderName, header},
    middleware::Next,
    response::Response,
};
use ipnet::IpNet;

/// What facades and applications read of a proxy's word.
const HEADERS: [HeaderName; 4] = [
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
];

/// The other end of the connection that a request came by; an extension of the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// The proxies.
#[derive(Clone, Debug)]
pub(super) struct Trusted(Arc<[IpNet]>);

impl Trusted {
    /// These.
    pub(super) fn new(networks: &[IpNet]) -> Self {
        Self(networks.into())
    }

    fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// The layer: removes what others than trusted proxies say.
pub(super) async fn scrub(
    State(trusted): State<Trusted>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>();
    if !peer.is_some_and(|peer| trusted.contains(peer.0.ip())) {
        for header in &HEADERS {
            request.headers_mut().remove(header);
        }
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_trusted_in_both_writings() {
        let trusted = Trusted::new(&["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        for address in ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"] {
            assert!(trusted.contains(address.parse().unwrap()), "{address}");
        }
        for address in ["10.0.0.1", "::2", "::ffff:10.0.0.1"] {
            assert!(!trusted.contains(address.parse().unwrap()), "{address}");
        }
    }
}
