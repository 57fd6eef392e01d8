//! Who gets in: every way, and the same ways with something wrong.

use std::sync::Arc;

use axum::http::Request;
use control::Create;
use tempfile::TempDir;

use super::*;
use crate::testing;

const ORIGIN: &str = "http://3000-x.localhost:5266";
const KEY: &str = "a-key-of-this-server";
const BASE: &str = "http://localhost:5266";

/// A facade with one sandbox.
struct Bed {
    facade: Facade,
    sandbox: Sandbox,
    _folder: TempDir,
}

impl Bed {
    async fn new(is_public: bool) -> Self {
        let (control, folder) = testing::control().await;
        let annotations = BTreeMap::from([(PUBLIC.to_owned(), is_public.to_string())]);
        let create = Create {
            annotations,
            ..Create::default()
        };
        let sandbox = control.create(create).await.unwrap().sandbox;
        let config = FacadeConfig {
            accepts_key: Arc::new(|key| key == KEY.as_bytes()),
            has_keys: true,
            ..FacadeConfig::new("sandboxai/box".to_owned())
        };
        let facade = Facade::new(control, config);
        Self {
            facade,
            sandbox,
            _folder: folder,
        }
    }

    fn base() -> BaseUrl {
        BaseUrl(BASE.to_owned())
    }

    async fn link(&self, port: u16) -> Link {
        link(&self.facade, &Self::base(), self.sandbox.clone(), port)
            .await
            .unwrap()
    }

    /// Asks for `port` of what `key` stands for.
    fn admit_key(
        &self,
        key: &str,
        port: u16,
        uri: &str,
        headers: &[(&str, &str)],
    ) -> Result<Admitted, Denied> {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let gate = Gate::new(self.facade.control.clone(), &self.facade.config);
        gate.admit(&Visit {
            key,
            port,
            request: &parts,
            origin: ORIGIN,
            path: "/",
            is_secure: true,
        })
    }

    fn admit(&self, port: u16, uri: &str, headers: &[(&str, &str)]) -> Result<Admitted, Denied> {
        self.admit_key(self.sandbox.id.as_str(), port, uri, headers)
    }
}

/// What a browser sends back of a cookie that was set.
fn returned(admitted: &Admitted) -> String {
    let set = admitted.cookie.as_ref().unwrap().to_str().unwrap();
    set.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_public_sandbox_is_open_but_for_the_private_ports() {
    let bed = Bed::new(true).await;
    assert!(bed.admit(3000, "/", &[]).unwrap().is_shared);
    for port in PRIVATE_PORTS {
        assert_eq!(bed.admit(port, "/", &[]).unwrap_err(), Denied::NothingShown);
    }
    let quiet = [("x-daytona-disable-cors", "true")];
    assert!(!bed.admit(3000, "/", &quiet).unwrap().is_shared);
    assert_eq!(
        bed.admit_key(bed.sandbox.name.as_str(), 3000, "/", &[])
            .unwrap_err(),
        Denied::Unknown,
        "names can be guessed"
    );
}

#[tokio::test]
async fn a_private_one_takes_keys_and_the_token_of_the_port() {
    let bed = Bed::new(false).await;
    let token = bed.link(3000).await.token;
    let query = format!("/a?x=1&{TOKEN_PARAMETER}={token}&y");
    assert_eq!(bed.link(3000).await.token, token, "it stays the same");
    let bearer = format!("Bearer {KEY}");
    let token_bearer = format!("Bearer {token}");
    assert_eq!(bed.admit(3000, "/", &[]).unwrap_err(), Denied::NothingShown);
    for header in [
        ("authorization", bearer.as_str()),
        ("authorization", &token_bearer),
        ("x-daytona-preview-token", &token),
    ] {
        assert!(bed.admit(3000, "/", &[header]).is_ok(), "{header:?}");
    }
    assert!(bed.admit(3000, &query, &[]).unwrap().go_to.is_none());
    let browser = bed
        .admit(3000, &query, &[("sec-fetch-mode", "navigate")])
        .unwrap();
    assert_eq!(browser.go_to.as_deref(), Some("/a?x=1&y"));
    for wrong in ["", "x", &token[1..], &token.to_uppercase()] {
        let headers = [("x-daytona-preview-token", wrong), ("authorization", wrong)];
        assert!(bed.admit(3000, "/", &headers).is_err(), "{wrong}");
    }
    let header = [("x-daytona-preview-token", token.as_str())];
    assert!(bed.admit(8080, "/", &header).is_err(), "of another port");
    assert!(bed.admit(TOOLBOX_PORT, "/", &header).is_err());
    let own = bed.link(TOOLBOX_PORT).await.token;
    assert_eq!(bed.link(TOKEN_PORT).await.token, own);
    assert!(
        bed.admit(8080, "/", &[("x-daytona-preview-token", &own)])
            .is_ok()
    );
}

#[tokio::test]
async fn a_cookie_counts_for_its_own_page_alone() {
    let bed = Bed::new(false).await;
    let token = bed.link(3000).await.token;
    let admitted = bed
        .admit(3000, &format!("/?{TOKEN_PARAMETER}={token}"), &[])
        .unwrap();
    let cookie = returned(&admitted);
    let several = format!("daytona-sandbox-auth-{}=planted; {cookie}", bed.sandbox.id);
    let (cookie, several) = (("cookie", cookie.as_str()), ("cookie", several.as_str()));
    for headers in [
        &[cookie][..],
        &[several],
        &[cookie, ("origin", ORIGIN)],
        &[cookie, ("sec-fetch-site", "same-origin")],
        &[
            cookie,
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
        ],
    ] {
        assert!(
            !bed.admit(3000, "/", headers).unwrap().is_shared,
            "{headers:?}"
        );
    }
    for headers in [
        &[cookie, ("origin", "http://3001-x.localhost:5266")][..],
        &[cookie, ("origin", "null")],
        &[cookie, ("sec-fetch-site", "same-site")],
        &[
            cookie,
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "no-cors"),
        ],
    ] {
        let denied = bed.admit(3000, "/", headers).unwrap_err();
        assert_eq!(denied, Denied::ForeignPage, "{headers:?}");
    }
    assert!(bed.admit(3001, "/", &[cookie]).is_err());
}

#[tokio::test]
async fn a_signed_url_opens_its_port_until_it_expires_or_is_revoked() {
    let bed = Bed::new(false).await;
    let sign = async |port, seconds| {
        let base = Bed::base();
        sign(&bed.facade, &base, bed.sandbox.clone(), port, seconds).await
    };
    for (port, seconds) in [(3000, Some(0)), (3000, Some(86_401)), (TOOLBOX_PORT, None)] {
        assert!(sign(port, seconds).await.is_err());
    }
    let signed = sign(3000, None).await.unwrap();
    assert_eq!(signed.url, format!("{BASE}/preview/{}/3000", signed.token));
    let admitted = bed.admit_key(&signed.token, 3000, "/", &[]).unwrap();
    assert!(admitted.is_secret_url && admitted.is_shared);
    let cookie = returned(&admitted);
    assert_eq!(
        bed.admit_key(&signed.token, 3001, "/", &[]).unwrap_err(),
        Denied::Unknown
    );

    // Made as if a minute ago.
    let own = bed.link(TOOLBOX_PORT).await.token;
    let now = Timestamp::now().as_second();
    let old = Seal::signed(&own, 3000, now - 1);
    let old_token = format!("{}{old}", bed.sandbox.id);
    assert_eq!(
        bed.admit_key(&old_token, 3000, "/", &[]).unwrap_err(),
        Denied::Expired
    );
    let header = [("cookie", cookie.as_str())];
    assert_eq!(
        bed.admit_key(&old_token, 3000, "/", &header).unwrap_err(),
        Denied::Expired,
        "the cookie of another signed URL"
    );
    let pass = Seal::pass(&own, 3000, now + 9, &old.mac);
    let kept = format!("daytona-sandbox-auth-{}={pass}", bed.sandbox.id);
    assert!(
        bed.admit_key(&old_token, 3000, "/", &[("cookie", &kept)])
            .is_ok()
    );

    let found = |bed: &Bed| {
        bed.facade
            .control
            .find(&bed.sandbox.space, bed.sandbox.id.as_str())
    };
    let sandbox = found(&bed).unwrap();
    assert!(
        revoke(&bed.facade, &sandbox, 3001, &signed.token)
            .await
            .is_err()
    );
    revoke(&bed.facade, &sandbox, 3000, &signed.token)
        .await
        .unwrap();
    assert_eq!(
        bed.admit_key(&signed.token, 3000, "/", &header)
            .unwrap_err(),
        Denied::Expired
    );
}

#[tokio::test]
async fn nothing_of_the_gate_reaches_the_application() {
    let bed = Bed::new(false).await;
    let token = bed.link(3000).await.token;
    let cookies = format!("a=1; daytona-sandbox-auth-{}=x; b=2", bed.sandbox.id);
    let request = Request::get(format!("/p?{TOKEN_PARAMETER}={token}&q=1"))
        .header("x-daytona-preview-token", &token)
        .header("authorization", format!("Bearer {KEY}"))
        .header("x-api-key", KEY)
        .header("cookie", cookies)
        .header("cookie", "c=3");
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    let gate = Gate::new(bed.facade.control.clone(), &bed.facade.config);
    let header = [("x-daytona-preview-token", token.as_str())];
    let admitted = bed.admit(3000, "/", &header).unwrap();
    gate.strip(&admitted, &mut parts);
    assert_eq!(parts.uri, "/p?q=1");
    assert_eq!(parts.headers.len(), 1, "{:?}", parts.headers);
    assert_eq!(parts.headers["cookie"], "a=1; b=2; c=3");

    let request = Request::get("/").header("authorization", "Bearer the application's own");
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    gate.strip(&admitted, &mut parts);
    assert!(parts.headers.contains_key("authorization"));
}
