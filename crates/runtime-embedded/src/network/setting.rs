//! Kernel settings under `/proc/sys/net`, which belong to the calling thread's
//! network namespace.

use std::{fs, io};

use super::error::NetworkError;

/// Writes `value` to `/proc/sys/net/<path>`.
pub(super) fn write(path: &str, value: &'static str) -> Result<(), NetworkError> {
    let path = format!("/proc/sys/net/{path}");
    fs::write(&path, value).map_err(|source| NetworkError::Setting {
        path,
        value,
        source,
    })
}

/// Like [`write()`], for settings of a protocol that the kernel may have left out.
pub(super) fn write_if_present(path: &str, value: &'static str) -> Result<(), NetworkError> {
    match write(path, value) {
        Err(NetworkError::Setting { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        result => result,
    }
}

/// Lets the host pass packets on between its interfaces, unless it does already.
///
/// Without it no sandbox reaches anything. It is a setting of the whole host and
/// stays on afterwards: others may have come to rely on it.
pub(super) fn enable_forwarding() -> Result<(), NetworkError> {
    if forwarding_is_on() {
        return Ok(());
    }
    write("ipv4/ip_forward", "1")
}

/// Whether the host passes packets on between its interfaces.
pub(super) fn forwarding_is_on() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|value| value.trim() == "1")
}
