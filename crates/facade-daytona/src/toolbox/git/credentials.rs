//! Handing a user name and a password to git.
//!
//! They are in the environment of one command, and a credential helper, given
//! on its command line, prints them for the one host that they are meant for.
//! So they are in no argument, in no file and in no configuration, and gone
//! with the command.

use std::fmt;

use super::command::Git;
use crate::error::{ApiError, ApiResult};

/// Prints what git asks for from the environment.
const HELPER: &str = r#"!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$SANDBOXAI_GIT_USERNAME" "$SANDBOXAI_GIT_PASSWORD"; }; f"#;
/// The user of those who give only a token.
const USERNAME_DEFAULT: &str = "git";

/// A user name and a password.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// From the fields of a request; without a password there are none.
    pub(super) fn of(username: Option<&str>, password: Option<&str>) -> ApiResult<Option<Self>> {
        let Some(password) = password else {
            return Ok(None);
        };
        let username = username.unwrap_or(USERNAME_DEFAULT);
        for (field, text) in [("username", username), ("password", password)] {
            if text.contains(['\n', '\r', '\0']) {
                let message = format!("field `{field}` has a line end or a NUL in it");
                return Err(ApiError::bad_request(message));
            }
        }
        Ok(Some(Self {
            username: username.to_owned(),
            password: password.to_owned(),
        }))
    }

    /// What opens the repository at a URL; nothing when it is not one of HTTP.
    pub(super) fn open(self, url: &str) -> Option<Access> {
        Some(Access {
            scope: scope(url)?,
            credentials: self,
        })
    }
}

/// Credentials, and the host that they are for.
#[derive(Debug)]
pub(super) struct Access {
    scope: String,
    credentials: Credentials,
}

impl Access {
    pub(super) fn give<'a>(&self, git: Git<'a>) -> Git<'a> {
        let Credentials { username, password } = &self.credentials;
        // The empty one takes those away that are configured.
        git.option("credential.helper=")
            .option(&format!("credential.{}.helper={HELPER}", self.scope))
            .env("SANDBOXAI_GIT_USERNAME", username)
            .env("SANDBOXAI_GIT_PASSWORD", password)
    }
}

/// `scheme://host[:port]` of a URL of HTTP.
fn scope(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let is_host =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']' | '_');
    let is_http = matches!(scheme.as_str(), "http" | "https");
    (is_http && !host.is_empty() && host.chars().all(is_host)).then(|| format!("{scheme}://{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_for_the_host_of_the_url_alone() {
        let of = |url| scope(url);
        assert_eq!(
            of("https://example.com/a/b.git").unwrap(),
            "https://example.com"
        );
        assert_eq!(of("HTTP://u:p@h:8080/x").unwrap(), "http://h:8080");
        assert_eq!(of("http://[::1]:80?x").unwrap(), "http://[::1]:80");
        for none in [
            "git@host:a.git",
            "ssh://host/a",
            "/srv/a.git",
            "https:///a",
            "https://a b/",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn a_token_alone_is_enough_and_line_ends_are_refused() {
        let token = Credentials::of(None, Some("t")).unwrap().unwrap();
        assert_eq!(
            (token.username.as_str(), token.password.as_str()),
            ("git", "t")
        );
        assert_eq!(format!("{token:?}"), "Credentials(…)");
        assert!(Credentials::of(Some("u"), None).unwrap().is_none());
        assert!(Credentials::of(Some("u\nhost=evil"), Some("p")).is_err());
    }
}
