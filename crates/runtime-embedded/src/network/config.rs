//! What the operator may choose about the network.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::address::{Ipv4Network, network};

/// What the operator may choose about the network of sandboxes.
///
/// The firewall is one for the whole host: servers that run side by side should
/// carry the same `never` and `connections_max`; where they differ, the server
/// that prepared the host last decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Where the addresses of sandboxes come from, two per sandbox. It must not
    /// overlap a network that the host itself uses.
    pub pool: Ipv4Network,
    /// What no sandbox may reach, apart from the host, other sandboxes and
    /// `pool`, which are always refused.
    pub never: Vec<Ipv4Network>,
    /// Who answers name lookups of sandboxes; empty: the host's own resolvers.
    pub resolvers: Vec<SocketAddr>,
    /// How many connections one sandbox may have open at once.
    pub connections_max: u32,
    /// A folder of the host's, the same for all servers on it, that holds the lock
    /// under which the firewall is changed.
    pub lock_dir: PathBuf,
}

/// Private, link-local, shared, test-bench and multicast networks, and the
/// metadata services that live outside of those. The three networks reserved for
/// documentation are absent on purpose: some sites route them to their proxies.
const NEVER: [Ipv4Network; 11] = [
    network([0, 0, 0, 0], 8),
    network([10, 0, 0, 0], 8),
    network([100, 64, 0, 0], 10),
    network([127, 0, 0, 0], 8),
    network([168, 63, 129, 16], 32),
    network([169, 254, 0, 0], 16),
    network([172, 16, 0, 0], 12),
    network([192, 0, 0, 0], 24),
    network([192, 168, 0, 0], 16),
    network([198, 18, 0, 0], 15),
    network([224, 0, 0, 0], 3),
];

/// Enough for a browser or a package manager, little beside the host's own table.
const CONNECTIONS_MAX: u32 = 512;

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            pool: network([10, 231, 0, 0], 16),
            never: NEVER.to_vec(),
            resolvers: Vec::new(),
            connections_max: CONNECTIONS_MAX,
            lock_dir: Path::new("/run/sandboxai").to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_survives_a_round_trip_and_holds_metadata_services() {
        let config = NetworkConfig::default();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<NetworkConfig>(&json).unwrap(),
            config
        );
        for address in [
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "255.255.255.255",
        ] {
            let address = address.parse().unwrap();
            assert!(
                config.never.iter().any(|never| never.contains(address)),
                "{address}"
            );
        }
        let public = "203.0.113.80".parse().unwrap();
        assert!(!config.never.iter().any(|never| never.contains(public)));
    }

    #[test]
    fn unknown_keys_and_bad_networks_are_errors() {
        assert!(serde_json::from_str::<NetworkConfig>(r#"{"pol":"10.0.0.0/8"}"#).is_err());
        let error = serde_json::from_str::<NetworkConfig>(r#"{"pool":"10.0.0.1/8"}"#).unwrap_err();
        assert!(error.to_string().contains("10.0.0.0/8"), "{error}");
    }
}
