//! Ports of sandboxes that the upstream has.

use axum::{
    extract::Request,
    http::{HeaderValue, header},
    response::Response,
};
use facade_daytona::upstream::{PortVisit, Upstream};

use super::{
    Asked, NotShared, Previews,
    address::{Address, Form},
    hygiene, inner_uri,
    refusal::Refusal,
};

impl Previews {
    /// The upstream, if it has the sandbox of an address.
    pub(super) fn upstream_of(&self, address: &Address) -> Option<&Upstream> {
        let upstream = self.gate.upstream_of(&address.key);
        upstream.filter(|_| address.may_be_daytonas())
    }

    /// Passes a visit on. Who may use the port, and which pages may read the
    /// answer, the upstream decides.
    pub(super) async fn visit_upstream(
        &self,
        upstream: &Upstream,
        asked: &Asked,
        request: Request,
    ) -> Result<Response, Refusal> {
        let Asked { arrival, address } = asked;
        let slot = self.take_slot(&address.key)?;
        let (mut parts, body) = request.into_parts();
        parts.uri = inner_uri(address)?;
        let has_key = self.gate.take_keys(&mut parts);
        let origin = arrival.origin();
        let visit = PortVisit {
            key: &address.key,
            port: address.port,
            own_origin: matches!(address.form, Form::Host(_)).then_some(origin.as_str()),
            has_key,
            idle_timeout: self.config.idle_timeout,
        };
        let visited = upstream
            .visit(&visit, parts, body, slot)
            .await
            .map_err(|error| Refusal::new(error.status, error.message))?;
        let mut response = visited.response;
        hygiene::from_upstream(response.headers_mut(), arrival, address, &visited.base);
        response.extensions_mut().insert(NotShared);
        if address.is_secret() {
            let policy = HeaderValue::from_static("same-origin");
            let headers = response.headers_mut();
            headers.entry(header::REFERRER_POLICY).or_insert(policy);
        }
        Ok(response)
    }
}
