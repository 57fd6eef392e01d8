//! Where things are, and what is used.

use serde_json::json;

use crate::service::{NEW, OLD, Service};

#[tokio::test]
async fn each_generation_finds_its_directories() {
    let service = Service::with_box().await;
    let home = service
        .get(&format!("{NEW}/user-home-dir"))
        .await
        .expect(200)
        .json();
    assert!(home["dir"].as_str().unwrap().starts_with('/'), "{home}");
    let project = service
        .get(&format!("{OLD}/project-dir"))
        .await
        .expect(200)
        .json();
    assert_eq!(project, home);
    let work = service
        .get(&format!("{NEW}/work-dir"))
        .await
        .expect(200)
        .json();
    assert!(work["dir"].as_str().unwrap().starts_with('/'), "{work}");
    service.get(&format!("{NEW}/version")).await.expect(200);
}

#[tokio::test]
async fn metrics_are_whole_numbers_of_bytes() {
    let service = Service::with_box().await;
    let metrics = service
        .get(&format!("{NEW}/system/metrics"))
        .await
        .expect(200)
        .json();
    for field in [
        "memTotal",
        "memUsed",
        "diskTotal",
        "diskUsed",
        "diskFree",
        "cpuCount",
        "timestampUnix",
    ] {
        assert!(metrics[field].is_u64(), "{field}: {metrics}");
    }
    assert!(metrics["cpuUsedPct"].is_number());
    assert!(metrics["memTotal"].as_u64() >= metrics["memUsed"].as_u64());
}

#[tokio::test]
async fn the_environment_changes_for_what_comes_later() {
    let service = Service::with_box().await;
    let change = json!({ "set": { "A": "1" }, "unset": ["B"] });
    service
        .post(&format!("{NEW}/env"), change)
        .await
        .expect(200);
    let prefix = json!({ "unsetValuePrefix": "dtn_secret_" });
    service
        .post(&format!("{NEW}/env"), prefix)
        .await
        .expect(501);
}

#[tokio::test]
async fn language_servers_have_to_be_started() {
    let service = Service::with_box().await;
    let query = "languageId=python&pathToProject=/p";
    for path in [
        format!("{NEW}/lsp/document-symbols?{query}&uri=file:///p/a.py"),
        format!("{NEW}/lsp/workspacesymbols?{query}&query=x"),
        format!("{OLD}/lsp/workspace-symbols?{query}&query=x"),
    ] {
        service
            .get(&path)
            .await
            .expect_error(400, "LSP_SERVER_NOT_INITIALIZED");
    }
    let cobol = json!({ "languageId": "cobol", "pathToProject": "/p" });
    let error = service.post(&format!("{NEW}/lsp/start"), cobol).await;
    let error = error.expect_error(400, "BAD_REQUEST");
    assert!(error["message"].as_str().unwrap().contains("languageId"));
}
