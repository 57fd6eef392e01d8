//! What the facade remembers about a sandbox, by the names under which
//! `control` keeps it.

/// `true` when previews need no token.
pub const PUBLIC: &str = "daytona.public";
/// The token of previews: unguessable, the same for the sandbox's whole life.
pub const PREVIEW_TOKEN: &str = "daytona.preview_token";
/// The key that signs URLs of files.
pub const SIGNING_KEY: &str = "daytona.signing_key";
/// The user that commands run as.
pub const USER: &str = "daytona.user";
/// The region that the caller asked for.
pub const TARGET: &str = "daytona.target";
/// What the names of revoked signed URLs begin with; their proof follows, and
/// the value is when they expire, in seconds since the epoch.
pub const REVOKED_PREFIX: &str = "daytona.revoked.";
/// The size of the disk that the caller wanted, in GiB.
pub const DISK_GIB: &str = "daytona.disk_gib";
/// The Dockerfile that the image was built from, if it is short.
pub const DOCKERFILE: &str = "daytona.dockerfile";
