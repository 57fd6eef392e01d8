//! Lists that have the sandboxes of both sides.

use super::*;

/// Two servers, with so many sandboxes each.
async fn pair(here: usize, there: usize) -> Pair {
    let pair = Pair::new().await;
    for number in 0..here {
        let body = json!({"name": format!("here-{number}")}).to_string();
        pair.ask(Method::POST, "/api/sandbox", &body)
            .await
            .expect(200);
    }
    for number in 0..there {
        pair.made_behind(json!({"name": format!("there-{number}"), "labels": {"l": "m"}}))
            .await;
    }
    pair
}

fn names(items: &Value) -> Vec<String> {
    let items = items.as_array().unwrap();
    for item in items {
        assert_eq!(item["toolboxProxyUrl"], format!("http://{HOST}/toolbox"));
    }
    items
        .iter()
        .map(|item| item["name"].as_str().unwrap().to_owned())
        .collect()
}

impl Pair {
    async fn get_as(&self, version: &str, path: &str) -> Answer {
        let mut request = request(Method::GET, path, OURS)
            .body(Body::empty())
            .unwrap();
        let version = version.parse().unwrap();
        request
            .headers_mut()
            .insert("x-daytona-sdk-version", version);
        send(&self.router, request).await
    }
}

#[tokio::test]
async fn an_array_has_both() {
    let pair = pair(1, 2).await;
    let all = pair
        .get_as("0.21.0", "/api/sandbox?labels=null")
        .await
        .expect(200);
    assert_eq!(names(&all.json()), ["here-0", "there-1", "there-0"]);
    let some = pair
        .get_as("0.21.0", "/api/sandbox?labels=%7B%22l%22%3A%22m%22%7D")
        .await;
    assert_eq!(names(&some.expect(200).json()), ["there-1", "there-0"]);
}

#[tokio::test]
async fn pages_have_each_once_wherever_they_are_cut() {
    for (here, there) in [(0, 3), (3, 0), (2, 3), (4, 4)] {
        let pair = pair(here, there).await;
        for limit in 1..=4 {
            let (mut seen, mut number) = (Vec::new(), 1);
            loop {
                let path = format!("/api/sandbox/paginated?page={number}&limit={limit}");
                let page = pair.get_as("0.115.0", &path).await.expect(200).json();
                assert_eq!(page["total"], here + there);
                assert_eq!(page["totalPages"], (here + there).div_ceil(limit));
                seen.extend(names(&page["items"]));
                if number >= (here + there).div_ceil(limit) {
                    break;
                }
                assert_eq!(page["items"].as_array().unwrap().len(), limit);
                number += 1;
            }
            check(seen, here, there);
        }
    }
}

#[tokio::test]
async fn cursors_lead_through_both() {
    for (here, there) in [(0, 3), (3, 0), (2, 3), (4, 4)] {
        let pair = pair(here, there).await;
        for limit in 1..=4 {
            let (mut seen, mut cursor) = (Vec::new(), String::new());
            loop {
                let path =
                    format!("/api/sandbox?sort=name&order=asc&limit={limit}&cursor={cursor}");
                let page = pair.get(&path).await.expect(200).json();
                assert!(page["items"].as_array().unwrap().len() <= limit);
                seen.extend(names(&page["items"]));
                match page["nextCursor"].as_str() {
                    Some(next) => cursor = next.to_owned(),
                    None => break,
                }
            }
            check(seen, here, there);
        }
    }
}

#[track_caller]
fn check(seen: Vec<String>, here: usize, there: usize) {
    let first = seen
        .iter()
        .take_while(|name| name.starts_with("here"))
        .count();
    assert_eq!(first, here, "{seen:?}");
    let mut seen = seen;
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), here + there, "{seen:?}");
}

#[tokio::test]
async fn there_is_no_list_without_the_upstreams_part() {
    let recorded = Recorded::new(|_| StatusCode::SERVICE_UNAVAILABLE.into_response()).await;
    for path in ["/api/sandbox", "/api/sandbox/paginated"] {
        let answer = recorded.get(path).await.expect(502);
        assert_eq!(
            answer.side,
            Some(Side::Daytona),
            "it is no failure of this side"
        );
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(&recorded.address.to_string()), "{message}");
    }
}

#[tokio::test]
async fn an_upstream_that_always_pages_is_read_to_its_end_for_old_sdks() {
    let recorded = Recorded::new(|arrived| {
        let next = match arrived.target.contains("cursor=two") {
            true => Value::Null,
            false => json!("two"),
        };
        axum::Json(json!({"items": [{"id": arrived.target}], "nextCursor": next})).into_response()
    })
    .await;
    let mut request = request(Method::GET, "/api/sandbox?labels=null", OURS)
        .body(Body::empty())
        .unwrap();
    request
        .headers_mut()
        .insert("x-daytona-sdk-version", "0.21.0".parse().unwrap());
    let all = send(&recorded.router, request).await.expect(200).json();
    assert_eq!(all.as_array().unwrap().len(), 2, "{all}");
}

#[tokio::test]
async fn a_name_is_taken_if_the_upstream_says_so() {
    let pair = pair(0, 1).await;
    let upstream = pair.front.upstream.as_ref().unwrap();
    assert!(upstream.has("there-0").await && !upstream.has("free").await);
    let recorded = Recorded::new(|arrived| match arrived.target.as_str() {
        "/api/sandbox/ended" => axum::Json(json!({"state": "destroyed"})).into_response(),
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    })
    .await;
    let upstream = super::upstream(recorded.address);
    assert!(!upstream.has("ended").await && !upstream.has("untold").await);
}
