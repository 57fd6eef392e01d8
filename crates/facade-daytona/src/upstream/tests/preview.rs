//! Ports of the upstream's sandboxes.

use std::time::Duration;

use super::*;
use crate::upstream::PortVisit;

/// A recorder that has one sandbox, `theirs`.
async fn with_ports() -> Recorded {
    Recorded::new(|arrived| {
        let host = arrived.headers[header::HOST].to_str().unwrap();
        let answer = match arrived.target.as_str() {
            "/api/config" => json!({
                "proxyTemplateUrl": format!("http://{host}/at/{{{{PORT}}}}-{{{{sandboxId}}}}"),
            }),
            "/api/sandbox/theirs/ports/80/preview-url" => {
                json!({"url": format!("http://{host}/told/"), "token": "tok"})
            }
            target if target.starts_with("/api/") => {
                return (StatusCode::NOT_FOUND, axum::Json(json!({"message": "no"})))
                    .into_response();
            }
            target => json!({"at": target}),
        };
        axum::Json(answer).into_response()
    })
    .await
}

async fn visit(
    recorded: &Recorded,
    key: &str,
    has_key: bool,
    path: &str,
) -> Result<String, StatusCode> {
    let visit = PortVisit {
        key,
        port: 80,
        own_origin: Some("http://80-theirs.front.test"),
        has_key,
        idle_timeout: Duration::from_secs(60),
    };
    let request = Request::builder()
        .uri(path)
        .header(header::COOKIE, "daytona-sandbox-auth-theirs=c")
        .header(header::ORIGIN, "http://80-theirs.front.test")
        .body(())
        .unwrap();
    let (parts, ()) = request.into_parts();
    let visited = upstream(recorded.address)
        .visit(&visit, parts, Body::empty(), ())
        .await;
    let visited = visited.map_err(|error| error.status)?;
    assert_eq!(visited.response.extensions().get(), Some(&Side::Daytona));
    Ok(visited.base)
}

#[tokio::test]
async fn a_visitor_is_passed_with_what_it_has() {
    let recorded = with_ports().await;
    let base = visit(&recorded, "theirs", false, "/a?b=c").await.unwrap();
    assert_eq!(base, format!("http://{}/at/80-theirs", recorded.address));
    let arrived = recorded.arrived();
    let last = arrived.last().unwrap();
    assert_eq!(last.target, "/at/80-theirs/a?b=c");
    assert_eq!(
        last.headers[header::COOKIE],
        "daytona-sandbox-auth-theirs=c"
    );
    assert_eq!(
        last.headers[header::ORIGIN],
        format!("http://{}", recorded.address)
    );
    assert!(!last.headers.contains_key(header::AUTHORIZATION));
}

#[tokio::test]
async fn who_has_a_key_of_ours_gets_the_ports_token_and_no_key_goes_there() {
    let recorded = with_ports().await;
    let base = visit(&recorded, "theirs", true, "/").await.unwrap();
    assert_eq!(base, format!("http://{}/told", recorded.address));
    let arrived = recorded.arrived();
    let last = arrived.last().unwrap();
    assert_eq!(
        (
            last.target.as_str(),
            &last.headers["x-daytona-preview-token"]
        ),
        ("/told/", &"tok".parse().unwrap())
    );
    assert!(!last.headers.contains_key(header::AUTHORIZATION));
    assert!(!format!("{:?}", last.headers).contains(THEIRS));
    // A signed token is no sandbox; the upstream decides about it.
    visit(&recorded, "abcdefghij012345", true, "/")
        .await
        .unwrap();
    let last = recorded.arrived().last().unwrap().target.clone();
    assert_eq!(last, "/at/80-abcdefghij012345/");
}

#[tokio::test]
async fn paths_inside_do_not_climb_out_of_the_port() {
    let recorded = with_ports().await;
    for path in ["/../../api/sandbox", "/%2e%2e/%2e%2e/api", "/a%5c..%5c.."] {
        let refused = visit(&recorded, "theirs", false, path).await;
        assert_eq!(refused, Err(StatusCode::BAD_REQUEST), "{path}");
    }
    assert!(recorded.arrived().is_empty());
}
