//! Files, as the SDKs of each generation ask for them.

use axum::{body::Body, http::Request};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;

use crate::service::{Answer, NEW, OLD, SIGNING_KEY, Service, request};

/// A form as SDKs send it: name, content, whether it is a file.
fn form(parts: &[(&str, &[u8], bool)]) -> Vec<u8> {
    let mut form = Vec::new();
    for (name, content, is_file) in parts {
        let file = if *is_file { "; filename=\"f\"" } else { "" };
        let head = format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
        form.extend(head.into_bytes());
        form.extend(*content);
        form.extend(b"\r\n");
    }
    form.extend(b"--b--\r\n");
    form
}

async fn upload(service: &Service, base: &str, body: impl Into<Body>) -> Answer {
    let request = request("POST", &format!("{base}/files/bulk-upload"))
        .header("content-type", "multipart/form-data; boundary=b");
    service.send(request.body(body.into()).unwrap()).await
}

/// Uploads one file.
async fn put(service: &Service, path: &str, content: &[u8]) {
    let parts = [
        ("files[0].path", path.as_bytes(), false),
        ("files[0].file", content, true),
    ];
    upload(service, NEW, form(&parts)).await.expect(200);
}

#[tokio::test]
async fn many_files_go_up_by_both_orders_of_parts() {
    let service = Service::with_box().await;
    let big: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    let parts: [(&str, &[u8], bool); 6] = [
        ("files[0].path", b"/u/zero", false),
        ("files[1].path", "/u/a \"ü\".bin".as_bytes(), false),
        ("files[0].file", b"", true),
        ("files[1].file", &big, true),
        ("files[2].path", b"/u/last", false),
        ("files[2].file", b"\r\n--a", true),
    ];
    for base in [NEW, OLD] {
        // In small pieces, as a network may bring them.
        let pieces: Vec<_> = form(&parts)
            .chunks(1000)
            .map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)))
            .collect();
        let body = Body::from_stream(futures_util::stream::iter(pieces));
        let answer = upload(&service, base, body).await.expect(200).json();
        let uploaded = json!({ "files": [
            { "path": "/u/zero", "bytes": 0 },
            { "path": "/u/a \"ü\".bin", "bytes": 3 << 20 },
            { "path": "/u/last", "bytes": 5 },
        ]});
        assert_eq!(answer, uploaded);
        let read = service
            .get(&format!(
                "{base}/files/download?path=/u/a%20%22%C3%BC%22.bin"
            ))
            .await
            .expect(200);
        assert!(read.body == big);
        assert_eq!(read.header("content-length"), (3 << 20).to_string());
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_written_hinders_no_other() {
    let service = Service::with_box().await;
    let large = vec![b'x'; 1 << 20];
    let parts: [(&str, &[u8], bool); 6] = [
        ("files[0].path", b"/u/first", false),
        ("files[0].file", b"1", true),
        ("files[1].path", b"/proc/x", false),
        ("files[1].file", &large, true),
        ("files[2].path", b"/u/third", false),
        ("files[2].file", b"3", true),
    ];
    let answer = upload(&service, NEW, form(&parts)).await.expect(400).json();
    assert_eq!(answer["files"].as_array().unwrap().len(), 2, "{answer}");
    assert_eq!(answer["files"][1]["path"], "/u/third");
    let errors = answer["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].as_str().unwrap().contains("/proc/x: permission"));
}

#[tokio::test]
async fn uploads_that_are_none_are_refused() {
    let service = Service::with_box().await;
    let orphan = form(&[("files[0].file", b"1", true)]);
    let answer = upload(&service, NEW, orphan).await.expect(400).json();
    assert!(
        answer["errors"][0]
            .as_str()
            .unwrap()
            .contains("files[0].path")
    );
    let pathless = form(&[("files[0].path", b"/x", false)]);
    let answer = upload(&service, NEW, pathless).await.expect(400).json();
    assert!(answer["errors"][0].as_str().unwrap().contains("/x"));
    upload(&service, NEW, form(&[])).await.expect(400);
    // One that breaks off leaves no file.
    let whole = form(&[
        ("files[0].path", b"/u/broken", false),
        ("files[0].file", &[b'x'; 5000], true),
    ]);
    upload(&service, NEW, whole[..2000].to_vec())
        .await
        .expect(400);
    let missing = service
        .get(&format!("{NEW}/files/info?path=/u/broken"))
        .await;
    missing.expect_error(404, "FILE_NOT_FOUND");
    service
        .post(&format!("{NEW}/files/bulk-upload"), json!({}))
        .await
        .expect(400);
}

#[tokio::test]
async fn many_files_come_down_and_errors_beside_them() {
    let service = Service::with_box().await;
    put(&service, "/d/ü \"q\".txt", b"content").await;
    put(&service, "/d/zero", b"").await;
    let paths = json!({ "paths": ["/d/ü \"q\".txt", "/d/none", "/d/zero"] });
    let answer = service
        .post(&format!("{NEW}/files/bulk-download"), paths.clone())
        .await
        .expect(200);
    let boundary = answer
        .header("content-type")
        .strip_prefix("multipart/form-data; boundary=")
        .unwrap()
        .to_owned();
    let text = answer.text();
    let delimiter = format!("--{boundary}\r\n");
    let mut parts = text.split(&delimiter);
    assert_eq!(parts.next(), Some(""));
    assert_eq!(
        parts.next().unwrap(),
        "Content-Disposition: form-data; name=\"file\"; filename=\"/d/ü \\\"q\\\".txt\"; filename*=utf-8''%2Fd%2F%C3%BC%20%22q%22.txt\r\nContent-Type: application/octet-stream\r\nContent-Length: 7\r\n\r\ncontent\r\n"
    );
    let error = parts.next().unwrap();
    assert!(
        error.contains("name=\"error\"; filename=\"/d/none\""),
        "{error}"
    );
    assert!(error.contains("\"code\":\"FILE_NOT_FOUND\""), "{error}");
    let last = parts.next().unwrap();
    assert!(
        last.ends_with(&format!("\r\n\r\n\r\n--{boundary}--\r\n")),
        "{last:?}"
    );
    // Old SDKs take the text of an error part for the message.
    let old = request("POST", &format!("{NEW}/files/bulk-download"))
        .header("x-daytona-sdk-version", "0.115.0")
        .body(Body::from(paths.to_string()))
        .unwrap();
    let old = service.send(old).await.expect(200).text();
    assert!(old.contains("\r\n\r\nnot found: /d/none"), "{old}");
}

#[tokio::test]
async fn single_files_go_up_as_a_form_and_as_they_are() {
    let service = Service::with_box().await;
    for (path, content_type, body) in [
        (
            "upload-v2",
            "multipart/form-data; boundary=b",
            form(&[("file", b"abc", true)]),
        ),
        (
            "upload",
            "multipart/form-data; boundary=b",
            form(&[("file", b"abc", true)]),
        ),
        ("upload-v2", "application/octet-stream", b"abc".to_vec()),
    ] {
        let upload = request("POST", &format!("{NEW}/files/{path}?path=/one/f.txt"))
            .header("content-type", content_type)
            .body(Body::from(body))
            .unwrap();
        let answer = service.send(upload).await.expect(200).json();
        let told = json!({ "name": "f.txt", "path": "/one/f.txt", "type": "file" });
        assert_eq!(answer, told);
        let path = format!("{NEW}/files/download?path=/one/f.txt");
        assert_eq!(service.get(&path).await.expect(200).body, b"abc");
    }
}

fn signed(method: &str, operation: &str, path: &str, expires: i64) -> Request<Body> {
    let mut mac = Hmac::<Sha256>::new_from_slice(SIGNING_KEY.as_bytes()).unwrap();
    mac.update(format!("v1:files:{method}:{path}:{expires}").as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    let url =
        format!("{NEW}/files/{operation}?path={path}&expires={expires}&signature=v1_{signature}");
    Request::builder()
        .method(method)
        .uri(url)
        .body(Body::from("signed"))
        .unwrap()
}

#[tokio::test]
async fn signed_urls_need_no_key() {
    let service = Service::with_box().await;
    service
        .send(signed("POST", "upload-v2", "/s/f", 0))
        .await
        .expect(200);
    let future = jiff::Timestamp::now().as_second() + 60;
    let read = service
        .send(signed("GET", "download", "/s/f", future))
        .await;
    assert_eq!(read.expect(200).body, b"signed");
    for refused in [
        signed("GET", "download", "/s/f", 1),
        signed("POST", "upload", "/s/f", 0),
        signed("GET", "info", "/s/f", 0),
    ] {
        service.send(refused).await.expect(401);
    }
}

#[tokio::test]
async fn success_is_called_what_each_sdk_knows() {
    let service = Service::with_box().await;
    for (version, made, removed) in [
        ("0.21.0", 200, 200),
        ("0.115.0", 201, 204),
        ("0.226.1", 201, 204),
    ] {
        let call = async |method, path: String| {
            let call = request(method, &path).header("x-daytona-sdk-version", version);
            service.send(call.body(Body::empty()).unwrap()).await
        };
        call("POST", format!("{OLD}/files/folder?path=/v/d&mode=755"))
            .await
            .expect(made);
        call("POST", format!("{OLD}/files/folder?path=/v/d&mode=755"))
            .await
            .expect(made);
        put(&service, "/v/f", b"x").await;
        call("DELETE", format!("{OLD}/files?path=/v/f"))
            .await
            .expect(removed);
        call("DELETE", format!("{OLD}/files?path=/v/d"))
            .await
            .expect_error(400, "INVALID_FILE_PATH");
        call("DELETE", format!("{OLD}/files?path=/v/d&recursive=true"))
            .await
            .expect(removed);
        call("DELETE", format!("{OLD}/files?path=/v/d"))
            .await
            .expect_error(404, "FILE_NOT_FOUND");
    }
}

#[tokio::test]
async fn files_are_listed_and_looked_at() {
    let service = Service::with_box().await;
    put(&service, "/w/a.txt", b"one\ntwo\n").await;
    put(&service, "/w/sub/b.txt", b"two").await;
    let list = service
        .get(&format!("{NEW}/files?path=/w&depth=2"))
        .await
        .expect(200)
        .json();
    let names: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["path"].clone())
        .collect();
    assert_eq!(names, ["/w/a.txt", "/w/sub", "/w/sub/b.txt"]);
    service
        .get(&format!("{NEW}/files?path=/w&depth=0"))
        .await
        .expect(400);
    service
        .get(&format!("{NEW}/files?path=/none"))
        .await
        .expect_error(404, "FILE_NOT_FOUND");
    service
        .call(
            "POST",
            &format!("{NEW}/files/permissions?path=/w/a.txt&mode=600"),
        )
        .await
        .expect(200);
    let info = service
        .get(&format!("{NEW}/files/info?path=/w/a.txt"))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&info["permissions"], &info["size"]),
        (&json!("0600"), &json!(8))
    );
}

#[tokio::test]
async fn files_are_searched_changed_and_moved() {
    let service = Service::with_box().await;
    put(&service, "/w/a.txt", b"one\ntwo\n").await;
    put(&service, "/w/sub/b.txt", b"two").await;
    let found = service
        .get(&format!("{NEW}/files/find?path=/w&pattern=two"))
        .await
        .expect(200)
        .json();
    assert_eq!(
        found[0],
        json!({ "file": "/w/a.txt", "line": 2, "content": "two" })
    );
    let found = service
        .get(&format!("{NEW}/files/search?path=/w&pattern=b*"))
        .await
        .expect(200);
    assert_eq!(found.json(), json!({ "files": ["/w/sub/b.txt"] }));
    let replaced = service
        .post(
            &format!("{NEW}/files/replace"),
            json!({ "files": ["/w/a.txt", "/none"], "pattern": "two", "newValue": "2" }),
        )
        .await
        .expect(200)
        .json();
    assert_eq!(replaced[0], json!({ "file": "/w/a.txt", "success": true }));
    assert_eq!(replaced[1]["success"], false);
    // A file takes the place of a file, not of a directory.
    let rename = |to| format!("{NEW}/files/move?source=/w/a.txt&destination={to}");
    service
        .call("POST", &rename("/w/sub"))
        .await
        .expect_error(409, "CONFLICT");
    service
        .call("POST", &rename("/w/sub/b.txt"))
        .await
        .expect(200);
    let read = service
        .get(&format!("{NEW}/files/download?path=/w/sub/b.txt"))
        .await;
    assert_eq!(read.expect(200).text(), "one\n2\n");
}
