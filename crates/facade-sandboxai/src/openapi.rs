//! The routes, each with its description.
//!
//! A route cannot be added without one: both come from the same attribute.
//! The description is checked in as `openapi.json` and served from there; a
//! test compares it with the code.

use std::collections::BTreeMap;

use axum::{http::header, response::IntoResponse};
use utoipa::{
    IntoResponses, Modify, OpenApi,
    openapi::{Content, Ref, RefOr, Response, ResponseBuilder},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Facade, file_tools, files, processes, sandboxes, stream, tools,
    wire::{DisplayEvent, ErrorBody, ProcessOutputEnd, Tombstone},
};

/// What is checked in, and served.
const CHECKED_IN: &str = include_str!("../openapi.json");

#[derive(OpenApi)]
#[openapi(
    info(
        title = "SandboxAI",
        description = "Isolated computers for AI agents. Extends the SandboxAI v1 protocol; see docs/protocols/sandboxai.md.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(DisplayEvent, ErrorBody, ProcessOutputEnd, Tombstone)),
    modifiers(&DescribeErrors),
    tags(
        (name = "server", description = "The server itself"),
        (name = "sandboxes", description = "Isolated computers"),
        (name = "tools", description = "Commands and Python cells"),
        (name = "files", description = "Files inside a sandbox"),
        (name = "processes", description = "Background processes inside a sandbox"),
    )
)]
struct Description;

/// Status, name and meaning of errors.
type Errors = &'static [(u16, &'static str, &'static str)];

/// The errors that any route may answer.
const ERRORS: Errors = &[
    (
        400,
        "BadRequest",
        "The request is wrong; `field` and `message` say where, and how to fix it",
    ),
    (401, "Unauthorized", "No or wrong credentials"),
    (
        404,
        "NotFound",
        "There is no such thing; `tombstone` says how a sandbox ended",
    ),
    (
        409,
        "Conflict",
        "The name is taken, or the state of the sandbox does not allow this",
    ),
    (
        410,
        "Gone",
        "The sandbox ended underneath the request; `tombstone` says how",
    ),
    (
        429,
        "LimitReached",
        "A limit is reached; the message names it",
    ),
    (
        500,
        "Internal",
        "Our fault; the server's log has more under `request_id`",
    ),
    (
        503,
        "Unavailable",
        "Something is not ready or overloaded; try again later",
    ),
    (504, "Timeout", "A deadline passed"),
];

/// The errors of routes that take JSON, besides.
const JSON_ERRORS: Errors = &[
    (
        408,
        "BodyTooSlow",
        "The body of the request did not arrive in time",
    ),
    (
        413,
        "BodyTooLarge",
        "The JSON body is over the limit; the message names it",
    ),
    (415, "NotJson", "The body is not announced as JSON"),
];

/// The errors of a route that takes no JSON.
pub(crate) struct ErrorAnswers;

/// The errors of a route that takes JSON.
pub(crate) struct JsonErrorAnswers;

impl IntoResponses for ErrorAnswers {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        references(ERRORS.iter())
    }
}

impl IntoResponses for JsonErrorAnswers {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        references(ERRORS.iter().chain(JSON_ERRORS))
    }
}

fn references<'a>(
    errors: impl Iterator<Item = &'a (u16, &'static str, &'static str)>,
) -> BTreeMap<String, RefOr<Response>> {
    errors
        .map(|(status, name, _)| {
            let reference = Ref::from_response_name(*name);
            (status.to_string(), RefOr::Ref(reference))
        })
        .collect()
}

/// Puts what these refer to into the description.
struct DescribeErrors;

impl Modify for DescribeErrors {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let components = description.components.get_or_insert_default();
        for (_, name, meaning) in ERRORS.iter().chain(JSON_ERRORS) {
            let body = Content::new(Some(Ref::from_schema_name("Error")));
            let response = ResponseBuilder::new()
                .description(*meaning)
                .content("application/json", body)
                .build();
            components
                .responses
                .insert((*name).to_owned(), response.into());
        }
    }
}

/// This description
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    tag = "server",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json"))
)]
async fn openapi_document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], CHECKED_IN)
}

/// Every route, described.
pub(crate) fn routes() -> OpenApiRouter<Facade> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(sandboxes::healthz))
        .routes(routes!(openapi_document))
        .routes(routes!(
            sandboxes::create_sandbox,
            sandboxes::list_sandboxes
        ))
        .routes(routes!(sandboxes::get_sandbox, sandboxes::delete_sandbox))
        .routes(routes!(sandboxes::pause_sandbox))
        .routes(routes!(sandboxes::resume_sandbox))
        .routes(routes!(sandboxes::stop_sandbox))
        .routes(routes!(sandboxes::start_sandbox))
        .routes(routes!(sandboxes::archive_sandbox))
        .routes(routes!(sandboxes::get_usage))
        .routes(routes!(sandboxes::list_events))
        .routes(routes!(tools::run_shell_command))
        .routes(routes!(tools::run_ipython_cell))
        .routes(routes!(tools::interrupt_kernel))
        .routes(routes!(tools::restart_kernel))
        .routes(routes!(stream::stream_shell_command))
        .routes(routes!(stream::stream_ipython_cell))
        .routes(routes!(
            files::read_file,
            files::head_file,
            files::write_file,
            files::delete_file
        ))
        .routes(routes!(file_tools::list_files))
        .routes(routes!(file_tools::stat_file))
        .routes(routes!(file_tools::make_directory))
        .routes(routes!(file_tools::move_file))
        .routes(routes!(file_tools::remove_file))
        .routes(routes!(file_tools::set_permissions))
        .routes(routes!(file_tools::read_small_file))
        .routes(routes!(file_tools::write_small_file))
        .routes(routes!(processes::start_process, processes::list_processes))
        .routes(routes!(processes::get_process, processes::kill_process))
        .routes(routes!(processes::read_process_output))
        .routes(routes!(processes::write_process_input))
        .routes(routes!(processes::signal_process))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generated() -> String {
        let mut text = routes().into_openapi().to_pretty_json().unwrap();
        text.push('\n');
        text
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a switch of this test alone")]
    fn the_checked_in_description_is_that_of_the_code() {
        if std::env::var("UPDATE_OPENAPI").is_ok() {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
            std::fs::write(file, generated()).unwrap();
            return;
        }
        assert!(
            CHECKED_IN == generated(),
            "openapi.json is not up to date; write it anew: \
             UPDATE_OPENAPI=1 cargo test -p sandboxai-facade-sandboxai checked_in"
        );
    }

    #[test]
    fn every_operation_is_described() {
        let document: serde_json::Value = serde_json::from_str(&generated()).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let mut ids = std::collections::BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id.to_owned()), "{id} twice");
                assert!(operation["summary"].is_string(), "{method} {path}");
                assert!(
                    operation["responses"]
                        .as_object()
                        .is_some_and(|all| !all.is_empty())
                );
            }
        }
        assert!(ids.len() >= 30, "{ids:?}");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn check(document: &serde_json::Value, value: &serde_json::Value) {
            if let Some(reference) = value.get("$ref") {
                let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            match value {
                serde_json::Value::Object(members) => {
                    members.values().for_each(|value| check(document, value));
                }
                serde_json::Value::Array(values) => {
                    values.iter().for_each(|value| check(document, value));
                }
                _ => {}
            }
        }
        let document: serde_json::Value = serde_json::from_str(&generated()).unwrap();
        check(&document, &document);
    }
}
