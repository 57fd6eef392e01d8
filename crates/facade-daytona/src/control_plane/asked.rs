//! The sandbox that a request of the control plane is about, and for whom the
//! answer is.

use std::{collections::BTreeMap, convert::Infallible};

use axum::{
    Json,
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};
use control::{Control, Sandbox};
use sandbox::{Kind, Name, Space};

use super::shown::{SandboxDto, Shown};
use crate::{
    Facade,
    base_url::BaseUrl,
    error::{ApiError, ApiResult},
    version::SdkVersion,
};

/// Who asks: answers differ by that.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) base: BaseUrl,
    pub(crate) version: SdkVersion,
}

impl Caller {
    /// The JSON of a sandbox.
    pub(crate) fn tell(&self, shown: impl Into<Shown>) -> Json<SandboxDto> {
        Json(SandboxDto::of(&shown.into(), &self.base, self.version))
    }
}

impl FromRequestParts<Facade> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, facade: &Facade) -> Result<Self, ApiError> {
        Ok(Self {
            base: BaseUrl::from_request_parts(parts, facade).await?,
            version: SdkVersion::of(&parts.headers),
        })
    }
}

/// The id or name in the path.
#[derive(Clone, Debug)]
pub(crate) struct AskedName(pub(crate) String);

impl FromRequestParts<Facade> for AskedName {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, facade: &Facade) -> Result<Self, Infallible> {
        let parameters = RawPathParams::from_request_parts(parts, facade).await.ok();
        let asked = parameters.as_ref().and_then(|parameters| {
            let mut found = parameters.iter().filter(|(name, _)| *name == "sandbox");
            found.next().map(|(_, value)| value.to_owned())
        });
        Ok(Self(asked.unwrap_or_default()))
    }
}

/// The sandbox in the path, found by id or by name, and who asks. It exists:
/// one that still waits for its image is a conflict.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) facade: Facade,
    pub(crate) sandbox: Sandbox,
    pub(crate) caller: Caller,
}

impl Asked {
    pub(crate) fn control(&self) -> &Control {
        &self.facade.control
    }

    pub(crate) fn space(&self) -> &Space {
        &self.sandbox.space
    }

    pub(crate) fn name(&self) -> &Name {
        &self.sandbox.name
    }

    /// Sets one annotation.
    pub(crate) async fn annotate(&self, name: &str, value: String) -> ApiResult<Sandbox> {
        let changes = BTreeMap::from([(name.to_owned(), Some(value))]);
        let annotated = self.control().annotate(self.space(), self.name(), changes);
        Ok(annotated.await?)
    }

    /// An annotation, made when it is not there.
    pub(crate) async fn annotation_or(
        &self,
        name: &str,
        make: impl FnOnce() -> sandbox::Result<String>,
    ) -> ApiResult<String> {
        if let Some(value) = self.sandbox.annotations.get(name) {
            return Ok(value.clone());
        }
        let value = make()?;
        self.annotate(name, value.clone()).await?;
        Ok(value)
    }
}

impl FromRequestParts<Facade> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, facade: &Facade) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, facade).await?;
        let Ok(AskedName(asked)) = AskedName::from_request_parts(parts, facade).await;
        match find(facade, &asked)? {
            Shown {
                sandbox,
                waits: None,
            } => Ok(Self {
                facade: facade.clone(),
                sandbox,
                caller,
            }),
            shown => Err(ApiError::new(
                axum::http::StatusCode::CONFLICT,
                format!(
                    "sandbox {asked} is {} and has not been made yet",
                    shown.state(caller.version)
                ),
            )),
        }
    }
}

/// A sandbox by id or name, made or not.
///
/// # Errors
/// `NotFound`; the message has these words, which programs look for.
pub(crate) fn find(facade: &Facade, asked: &str) -> ApiResult<Shown> {
    let error = match facade.control.find(&facade.config.space, asked) {
        Ok(sandbox) => return Ok(sandbox.into()),
        Err(error) => error,
    };
    if let Some(waiting) = facade.waiting.find(&facade.control, asked) {
        return Ok(waiting);
    }
    if error.kind != Kind::NotFound {
        return Err(error.into());
    }
    let shown: String = asked.chars().take(80).collect();
    Err(ApiError::not_found(format!(
        "Sandbox with ID or name {shown} not found: {}",
        error.message
    )))
}
