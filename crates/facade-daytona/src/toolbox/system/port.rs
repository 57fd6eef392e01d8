//! Which ports something listens on inside the sandbox.

use std::{collections::BTreeSet, time::Duration};

use axum::{Json, extract::Path};
use control::{Command, Exec, collect};
use serde::{Deserialize, Serialize};

use crate::{
    error::{ApiError, ApiResult},
    target::Target,
};

/// How long reading the kernel's tables may take.
const TIME_MAX: Duration = Duration::from_secs(10);
/// The kernel's tables of sockets, bytes.
const TABLES_BYTES_MAX: usize = 4 << 20;
/// The kernel's number for a listening socket.
const LISTENING: &str = "0A";

#[derive(Debug, Serialize)]
pub(super) struct Ports {
    ports: Vec<u16>,
}

/// `GET /port`
pub(super) async fn list(target: Target) -> ApiResult<Json<Ports>> {
    let ports = listening(&target).await?.into_iter().collect();
    Ok(Json(Ports { ports }))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InUse {
    is_in_use: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct PortPath {
    port: String,
}

/// `GET /port/{port}/in-use`
pub(super) async fn is_in_use(
    target: Target,
    Path(PortPath { port }): Path<PortPath>,
) -> ApiResult<Json<InUse>> {
    let asked = port.parse::<u16>().ok().filter(|port| *port > 0);
    let port = asked.ok_or_else(|| {
        ApiError::bad_request(format!("{port:?} is no port; ports are from 1 to 65535"))
    })?;
    let is_in_use = listening(&target).await?.contains(&port);
    Ok(Json(InUse { is_in_use }))
}

/// The TCP ports that something listens on.
async fn listening(target: &Target) -> ApiResult<BTreeSet<u16>> {
    let argv = ["cat", "/proc/net/tcp", "/proc/net/tcp6"].map(str::to_owned);
    let exec = Exec {
        command: Command::Argv(argv.into()),
        timeout_ms: u64::try_from(TIME_MAX.as_millis()).ok(),
        ..Exec::default()
    };
    let pieces = target
        .control
        .exec(target.space(), target.name(), exec, None)
        .await?;
    let tables = collect(pieces, TABLES_BYTES_MAX).await?.stdout.bytes;
    Ok(ports(&String::from_utf8_lossy(&tables)))
}

/// Reads `/proc/net/tcp`: in the second field the local address in hexadecimal
/// digits, in the fourth the state.
fn ports(tables: &str) -> BTreeSet<u16> {
    let port = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (_, port) = fields.next()?.rsplit_once(':')?;
        let state = fields.nth(1)?;
        (state == LISTENING).then(|| u16::from_str_radix(port, 16).ok())?
    };
    tables.lines().filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_count() {
        let tables = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0100007F:1F91 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 1 1
  sl  local_address                         remote_address                        st tx_queue
   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0 0 0
   1: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0 0 0
cut off";
        assert_eq!(ports(tables), BTreeSet::from([80, 8080]));
        assert!(ports("").is_empty());
    }
}
