//! The sandbox that a request of the toolbox is about.

use std::collections::HashMap;

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use control::{Control, Sandbox};
use sandbox::{Name, Space};

use crate::{Facade, error::ApiError};

/// The sandbox in the path, found by id or by name.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) control: Control,
    pub(crate) sandbox: Sandbox,
}

impl Target {
    pub(crate) fn space(&self) -> &Space {
        &self.sandbox.space
    }

    pub(crate) fn name(&self) -> &Name {
        &self.sandbox.name
    }
}

impl FromRequestParts<Facade> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, facade: &Facade) -> Result<Self, ApiError> {
        let Path(path) = Path::<HashMap<String, String>>::from_request_parts(parts, facade)
            .await
            .map_err(|error| ApiError::bad_request(error.body_text()))?;
        let asked = path.get("sandbox").map(String::as_str).unwrap_or_default();
        let sandbox = facade.control.find(&facade.config.space, asked)?;
        Ok(Self {
            control: facade.control.clone(),
            sandbox,
        })
    }
}
