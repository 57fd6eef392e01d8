//! Sandboxes of the upstream, by the control plane.

use super::*;

#[tokio::test]
async fn a_sandbox_that_is_not_known_here_is_the_upstreams() {
    let pair = Pair::new().await;
    let theirs = pair.made_behind(json!({"name": "theirs"})).await;
    for asked in [theirs["id"].as_str().unwrap(), "theirs"] {
        let answer = pair.get(&format!("/api/sandbox/{asked}")).await.expect(200);
        assert_eq!(answer.side, Some(Side::Daytona));
        let found = answer.json();
        assert_eq!(found["id"], theirs["id"]);
        assert_eq!(found["toolboxProxyUrl"], format!("http://{HOST}/toolbox"));
    }
    pair.ask(
        Method::PUT,
        "/api/sandbox/theirs/labels",
        r#"{"labels":{"a":"b"}}"#,
    )
    .await
    .expect(200);
    let found = pair.get("/api/sandbox/theirs").await.json();
    assert_eq!(found["labels"], json!({"a": "b"}));
    pair.ask(Method::DELETE, "/api/sandbox/theirs", "")
        .await
        .expect(200);
    let gone = pair.get("/api/sandbox/theirs").await.expect(404);
    assert_eq!(gone.side, Some(Side::Daytona));
}

#[tokio::test]
async fn a_sandbox_of_this_server_stays_here_also_when_it_has_ended() {
    let pair = Pair::new().await;
    let ours = pair
        .ask(Method::POST, "/api/sandbox", r#"{"name":"ours"}"#)
        .await;
    let ours = ours.expect(200).json();
    let path = format!("/api/sandbox/{}", ours["id"].as_str().unwrap());
    assert_eq!(pair.get(&path).await.expect(200).side, None);
    assert_eq!(
        pair.get("/api/sandbox/ours/fork").await.expect(501).side,
        None
    );
    pair.ask(Method::DELETE, &path, "").await.expect(200);
    let gone = pair.get(&path).await.expect(404);
    assert_eq!(gone.side, None, "its id is remembered");
    pair.made_behind(json!({"name": "ours"})).await;
    pair.get("/api/sandbox/ours").await.expect(200);
    assert!(
        pair.front
            .control
            .list(&pair.front.config.space)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_named_and_its_key_is_not() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (front, _folder) = facade(OURS, Some(upstream(address))).await;
    let request = request(Method::GET, "/api/sandbox/theirs", OURS);
    let answer = send(&crate::routes(front), request.body(Body::empty()).unwrap()).await;
    let answer = answer.expect(502);
    assert_eq!(answer.side, Some(Side::Daytona));
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains(&format!("http://{address}/api")),
        "{message}"
    );
    assert!(
        !message.contains(THEIRS) && !message.contains(OURS),
        "{message}"
    );
}

#[tokio::test]
async fn the_upstream_gets_its_own_key_and_nothing_of_ours() {
    let recorded = Recorded::new(|_| StatusCode::OK.into_response()).await;
    let request = request(Method::POST, "/api/sandbox/theirs/start?x=%20y", OURS)
        .header("x-api-key", OURS)
        .header("x-forwarded-for", "10.1.2.3")
        .header("x-forwarded-host", "evil.test")
        .header("connection", "close, x-hop")
        .header("x-hop", "1")
        .body(Body::from("{}"));
    send(&recorded.router, request.unwrap()).await.expect(200);
    let arrived = &recorded.arrived()[0];
    assert_eq!(arrived.method, Method::POST);
    assert_eq!(arrived.target, "/api/sandbox/theirs/start?x=%20y");
    assert_eq!(
        arrived.headers[header::AUTHORIZATION],
        format!("Bearer {THEIRS}")
    );
    assert_eq!(arrived.headers[header::HOST], recorded.address.to_string());
    assert_eq!(arrived.headers[header::CONTENT_LENGTH], "2");
    assert_eq!(arrived.body, b"{}");
    for name in ["x-api-key", "x-forwarded-for", "x-forwarded-host", "x-hop"] {
        assert!(!arrived.headers.contains_key(name), "{name}");
    }
    let all = format!("{:?}", arrived.headers);
    assert!(!all.contains(OURS), "{all}");
}

#[tokio::test]
async fn who_shows_no_key_of_ours_gets_nothing_passed() {
    let recorded = Recorded::new(|_| StatusCode::OK.into_response()).await;
    for key in ["", "wrong", THEIRS] {
        let asked = request(Method::GET, "/api/sandbox/theirs", key).body(Body::empty());
        send(&recorded.router, asked.unwrap()).await.expect(401);
    }
    assert!(recorded.arrived().is_empty());
}

#[tokio::test]
async fn no_path_leads_to_another_place_than_it_says() {
    let recorded = Recorded::new(|_| StatusCode::OK.into_response()).await;
    for path in [
        "/api/sandbox/theirs/../../admin",
        "/api/sandbox/theirs/%2e%2e/%2e%2e/admin",
        "/api/sandbox/theirs%2f..%2f..%2fadmin",
        "/api/volumes/..%5c..%5cadmin",
        "/api/volumes/%252e%252e/admin",
        "/api/volumes//admin",
        "/api/%2fapi-keys",
        "/api/sandbox/theirs%2fstart",
    ] {
        let answer = recorded.get(path).await;
        assert_eq!(answer.status, 400, "{path}");
    }
    // Whatever way the names of our own routes are written, they stay ours.
    for path in [
        "/api/Config",
        "/api/SANDBOX",
        "/api/%63onfig",
        "/api/%73andbox",
        "/api//sandbox/theirs",
        "/api/sandbox/",
    ] {
        recorded.get(path).await;
    }
    assert!(recorded.arrived().is_empty(), "{:?}", recorded.arrived());
}

#[tokio::test]
async fn what_only_the_upstream_serves_is_passed() {
    let recorded = Recorded::new(|_| StatusCode::OK.into_response()).await;
    for path in [
        "/api/volumes",
        "/api/volumes/by-name/v1",
        "/api/secret/paginated?limit=5",
        "/api/organizations",
        "/api/sandbox/ssh-access/validate?token=x",
        "/api/sandbox/theirs/telemetry/metrics",
        "/api/sandbox/theirs/something-new",
        "/api/something-new",
        "/api/api-keys",
    ] {
        assert_eq!(
            recorded.get(path).await.expect(200).side,
            Some(Side::Daytona)
        );
        assert_eq!(recorded.arrived().last().unwrap().target, path);
    }
    let count = recorded.arrived().len();
    for path in ["/api/api-keys", "/api/API-Keys", "/api/api%2dkeys"] {
        let creation = request(Method::POST, path, OURS).body(Body::from("{}"));
        let answer = send(&recorded.router, creation.unwrap()).await;
        assert!(answer.status.as_u16() >= 400, "{path}");
    }
    recorded.get("/api/config").await.expect(200);
    assert_eq!(recorded.arrived().len(), count);
}

#[tokio::test]
async fn answers_keep_their_writing_but_for_the_urls() {
    let body = r#"{"id":"x","cpu":1,"share":1.0,"big":123456789012345678901234567890,"labels":{"toolboxProxyUrl":"http://mine"},"toolboxProxyUrl":"http://theirs/toolbox"}"#;
    let recorded = Recorded::new(move |arrived| {
        let answer = match arrived.target.as_str() {
            "/api/sandbox/theirs/array" => format!("[{body},null,3]"),
            "/api/sandbox/theirs/page" => format!(r#"{{"items":[{body}],"total":1}}"#),
            _ => body.to_owned(),
        };
        (
            [(header::CONTENT_TYPE, "application/json; charset=utf-8")],
            answer,
        )
            .into_response()
    })
    .await;
    for path in ["", "/array", "/page"] {
        let answer = recorded
            .get(&format!("/api/sandbox/theirs{path}"))
            .await
            .expect(200);
        let text = String::from_utf8(answer.body).unwrap();
        assert!(
            text.contains(&format!(r#""toolboxProxyUrl":"http://{HOST}/toolbox""#)),
            "{text}"
        );
        for kept in [
            r#""cpu":1,"#,
            r#""share":1.0"#,
            r#""big":123456789012345678901234567890"#,
            r#""labels":{"toolboxProxyUrl":"http://mine"}"#,
        ] {
            assert!(text.contains(kept), "{text}");
        }
        assert!(!text.contains("http://theirs"), "{text}");
    }
}

#[tokio::test]
async fn redirects_of_the_upstream_are_not_followed() {
    let recorded = Recorded::new(|_| {
        (
            StatusCode::FOUND,
            [(header::LOCATION, "http://127.0.0.1:1/steal")],
        )
            .into_response()
    })
    .await;
    let answer = recorded.get("/api/sandbox/theirs").await.expect(302);
    assert_eq!(answer.headers[header::LOCATION], "http://127.0.0.1:1/steal");
    assert_eq!(recorded.arrived().len(), 1);
}

#[tokio::test]
async fn an_answer_without_end_is_cut() {
    let recorded = Recorded::new(|_| {
        let piece = || Ok::<_, std::io::Error>(vec![b' '; 1 << 20]);
        let endless = futures_util::stream::repeat_with(piece);
        let body = Body::from_stream(endless);
        ([(header::CONTENT_TYPE, "application/json")], body).into_response()
    })
    .await;
    recorded.get("/api/sandbox/theirs").await.expect(502);
}

#[tokio::test]
async fn urls_in_answers_lead_through_this_server() {
    let pair = Pair::new().await;
    let theirs = pair.made_behind(json!({})).await;
    let id = theirs["id"].as_str().unwrap();
    let front = format!("http://{HOST}");
    let url_of = async |rest: &str| {
        let answer = pair
            .get(&format!("/api/sandbox/{id}/{rest}"))
            .await
            .expect(200)
            .json();
        answer["url"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        url_of("toolbox-proxy-url").await,
        format!("{front}/toolbox")
    );
    assert_eq!(
        url_of("ports/3000/preview-url").await,
        format!("{front}/preview/{id}/3000")
    );
    assert_eq!(
        url_of("ports/2280/preview-url").await,
        format!("{front}/toolbox/{id}")
    );
    let signed = url_of("ports/3000/signed-preview-url").await;
    assert!(
        signed.starts_with(&format!("{front}/preview/{id}")),
        "{signed}"
    );
    let logs = url_of("build-logs-url").await;
    assert_eq!(logs, format!("{front}/api/sandbox/{id}/build-logs"));
    let path = format!("{}?follow=true", logs.strip_prefix(&front).unwrap());
    assert_eq!(pair.get(&path).await.expect(200).side, Some(Side::Daytona));
}

#[tokio::test]
async fn logs_are_fetched_where_the_upstream_has_them() {
    let recorded = Recorded::new(|arrived| {
        let host = arrived.headers[header::HOST].to_str().unwrap();
        match arrived.target.as_str() {
            "/api/sandbox/theirs/build-logs-url" => {
                axum::Json(json!({"url": format!("http://{host}/elsewhere?token=t")}))
                    .into_response()
            }
            "/api/sandbox/far/build-logs-url" => {
                axum::Json(json!({"url": "http://evil.test/logs"})).into_response()
            }
            _ => "a line\n".into_response(),
        }
    })
    .await;
    let log = recorded
        .get("/api/sandbox/theirs/build-logs?follow=true")
        .await
        .expect(200);
    assert_eq!(log.body, b"a line\n");
    assert_eq!(
        recorded.arrived().last().unwrap().target,
        "/elsewhere?token=t&follow=true"
    );
    recorded
        .get("/api/sandbox/far/build-logs")
        .await
        .expect(502);
}

#[tokio::test]
async fn a_key_that_the_upstream_does_not_take_is_not_the_callers_fault() {
    let recorded = Recorded::new(|_| {
        let said = axum::Json(json!({"message": "Invalid credentials"}));
        (StatusCode::UNAUTHORIZED, said).into_response()
    })
    .await;
    for path in ["/api/sandbox/theirs", "/api/sandbox"] {
        let answer = recorded.get(path).await.expect(502);
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(
            message.contains("does not take the configured key"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn answers_do_nothing_to_this_servers_own_pages() {
    let recorded = Recorded::new(|_| {
        let headers = [
            (header::SET_COOKIE, "a=b"),
            (header::CONTENT_TYPE, "text/html"),
            (header::STRICT_TRANSPORT_SECURITY, "max-age=1"),
        ];
        (headers, "<script>").into_response()
    })
    .await;
    for path in ["/api/volumes", "/api/toolbox/theirs/toolbox/files/download"] {
        let answer = recorded.get(path).await.expect(200);
        assert_eq!(answer.headers[header::CONTENT_SECURITY_POLICY], "sandbox");
        assert_eq!(answer.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        for gone in [header::SET_COOKIE, header::STRICT_TRANSPORT_SECURITY] {
            assert!(!answer.headers.contains_key(gone));
        }
    }
}

#[tokio::test]
async fn nobody_has_the_upstream_say_what_it_was_sent() {
    let recorded = Recorded::new(|_| StatusCode::OK.into_response()).await;
    for path in [
        "/api/sandbox/theirs",
        "/api/toolbox/theirs/toolbox/work-dir",
        "/api/volumes",
    ] {
        let trace = request(Method::TRACE, path, OURS)
            .body(Body::empty())
            .unwrap();
        send(&recorded.router, trace).await.expect(405);
    }
    assert!(recorded.arrived().is_empty());
}
