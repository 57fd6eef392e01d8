//! What the network of a sandbox looks like, computed without touching the host:
//! names, addresses and the firewall's text.

use std::{fmt::Write as _, net::Ipv4Addr};

use super::{address::Ipv4Network, config::NetworkConfig, error::NetworkError};

/// The firewall's table; family `inet`.
pub(super) const TABLE: &str = "sandboxai";
/// The set of allowed pairs of interface and source address, one per sandbox.
pub(super) const SOURCES: &str = "sources";
/// The set that counts the connections of each source.
pub(super) const CONNECTIONS: &str = "connections";
/// What the host's ends of all sandboxes begin with.
const LINK_PREFIX: &str = "sbx";
/// The sandbox's end.
pub(super) const SANDBOX_LINK: &str = "eth0";
/// A sandbox and the host share a network of two addresses.
pub(super) const LINK_PREFIX_BITS: u8 = 31;

/// The two addresses of a sandbox's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    /// The host's end: the sandbox's router.
    pub(super) host: Ipv4Addr,
    /// The sandbox's end.
    pub(super) sandbox: Ipv4Addr,
}

/// The addresses of the sandbox with number `slot`.
pub(super) fn addresses(pool: Ipv4Network, slot: u32) -> Result<Addresses, NetworkError> {
    let offset = u64::from(slot) * 2;
    match (pool.address_at(offset), pool.address_at(offset + 1)) {
        (Some(host), Some(sandbox)) => Ok(Addresses { host, sandbox }),
        _ => Err(NetworkError::PoolTooSmall { pool, slot }),
    }
}

/// The sandbox's address on a link whose host's end has `host`.
pub(super) fn opposite(host: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(host) | 1)
}

/// The name of the host's end; at most 13 of the 15 characters that Linux allows.
pub(super) fn link_name(slot: u32) -> String {
    format!("{LINK_PREFIX}{slot}")
}

/// The number in a name made by [`link_name`].
pub(super) fn slot_of_link(name: &str) -> Option<u32> {
    let slot: u32 = name.strip_prefix(LINK_PREFIX)?.parse().ok()?;
    // "sbx+1" and "sbx01" parse too, but are not ours.
    (link_name(slot) == name).then_some(slot)
}

/// The whole table in the language of `nft -f`.
///
/// It is one transaction that can be repeated at any time: sets are made if they
/// are missing and keep their elements, rules are replaced. A packet of a sandbox
/// that is not an element of `sources` goes nowhere, so an interface is harmless
/// before its element is added and after it is removed.
pub(super) fn ruleset(config: &NetworkConfig) -> String {
    let mut text = String::new();
    let table = format!("inet {TABLE}");
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        text.write_fmt(arguments)
            .and_then(|()| text.write_char('\n'))
            .expect("writing to a string cannot fail");
    };
    line(format_args!("add table {table}"));
    for (name, definition) in [
        (SOURCES, "type ifname . ipv4_addr;"),
        ("pools", "type ipv4_addr; flags interval; auto-merge;"),
        ("never", "type ipv4_addr; flags interval; auto-merge;"),
        (CONNECTIONS, "type ipv4_addr; flags dynamic; size 65535;"),
    ] {
        line(format_args!("add set {table} {name} {{ {definition} }}"));
    }
    // Pools only grow: another server's sandboxes may live in theirs.
    line(format_args!(
        "add element {table} pools {{ {} }}",
        config.pool
    ));
    line(format_args!("flush set {table} never"));
    for never in &config.never {
        line(format_args!("add element {table} never {{ {never} }}"));
    }
    // All chains first: rules name chains that come later.
    for (chain, hook, _) in CHAINS {
        line(format_args!("add chain {table} {chain}{hook}"));
        line(format_args!("flush chain {table} {chain}"));
    }
    for (chain, _, rules) in CHAINS {
        for rule in *rules {
            let rule = rule
                .replace("{link}", &format!("\"{LINK_PREFIX}*\""))
                .replace("{connections_max}", &config.connections_max.to_string());
            line(format_args!("add rule {table} {chain} {rule}"));
        }
    }
    text
}

/// Chains by name, with where they hook in and their rules.
///
/// The text is data on purpose: it is what a reviewer reads.
const CHAINS: &[(&str, &str, &[&str])] = &[
    // Before connection tracking: only the address that was given out, only version 4.
    (
        "guard",
        " { type filter hook prerouting priority raw; policy accept; }",
        &[
            "iifname {link} meta nfproto != ipv4 drop",
            "iifname {link} iifname . ip saddr != @sources drop",
        ],
    ),
    // The host itself is never reached, by whichever of its addresses.
    (
        "host_input",
        " { type filter hook input priority filter; policy accept; }",
        &["iifname {link} goto refuse"],
    ),
    // Local users of the host do not reach ports of a sandbox past the server's own checks.
    (
        "host_output",
        " { type filter hook output priority filter; policy accept; }",
        &["oifname {link} ct state != { established, related } drop"],
    ),
    (
        "forward",
        " { type filter hook forward priority filter; policy accept; }",
        &[
            "iifname {link} jump from_sandbox",
            "oifname {link} ct state != { established, related } drop",
        ],
    ),
    // Destinations come before connection state, so that a tightened `never` cuts
    // connections that are already open.
    (
        "from_sandbox",
        "",
        &[
            "oifname {link} goto refuse",
            "ip daddr @never goto refuse",
            "ip daddr @pools goto refuse",
            "ct state { established, related } accept",
            "ct state invalid drop",
            "meta l4proto != { tcp, udp, icmp } goto refuse",
            "meta l4proto icmp icmp type != echo-request goto refuse",
            "ct state new add @connections { ip saddr ct count over {connections_max} } goto refuse",
            "accept",
        ],
    ),
    // An answer instead of silence, so that programs fail at once and say why.
    (
        "refuse",
        "",
        &[
            "meta l4proto tcp reject with tcp reset",
            "reject with icmpx admin-prohibited",
        ],
    ),
    (
        "translate",
        " { type nat hook postrouting priority srcnat; policy accept; }",
        &["ip saddr @pools oifname != {link} masquerade"],
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ruleset_of_the_default_configuration() {
        insta::assert_snapshot!(ruleset(&NetworkConfig::default()));
    }

    #[test]
    fn a_small_pool_ends_with_a_clear_error() {
        let pool: Ipv4Network = "10.9.0.0/30".parse().unwrap();
        assert!(addresses(pool, 1).is_ok());
        let error = addresses(pool, 2).unwrap_err().to_string();
        assert!(
            error.contains("10.9.0.0/30") && error.contains("number 2"),
            "{error}"
        );
        let single: Ipv4Network = "10.9.0.0/32".parse().unwrap();
        assert!(addresses(single, 0).is_err());
    }

    #[test]
    fn all_addresses_of_the_default_pool_are_different() {
        let pool = NetworkConfig::default().pool;
        let mut seen = HashSet::new();
        let mut slots = 0;
        while let Ok(pair) = addresses(pool, slots) {
            assert!(seen.insert(pair.host) && seen.insert(pair.sandbox));
            slots += 1;
        }
        assert_eq!(slots, 32_768);
    }

    proptest! {
        #[test]
        fn pairs_are_inside_the_pool_and_disjoint(prefix_bits in 0u8..=31, base: u32, one: u32, other: u32) {
            let first = Ipv4Addr::from(base & (u32::MAX.checked_shl(u32::from(32 - prefix_bits)).unwrap_or(0)));
            let pool: Ipv4Network = format!("{first}/{prefix_bits}").parse().unwrap();
            let (Ok(a), Ok(b)) = (addresses(pool, one), addresses(pool, other)) else {
                return Ok(());
            };
            prop_assert!(pool.contains(a.host) && pool.contains(a.sandbox));
            prop_assert_eq!(u32::from(a.host) | 1, u32::from(a.sandbox));
            prop_assert_eq!(u32::from(a.host) & 1, 0);
            prop_assert_eq!(one == other, a == b);
            prop_assert_eq!(one == other, a.host == b.host || a.sandbox == b.sandbox);
        }

        #[test]
        fn link_names_fit_and_read_back(slot: u32) {
            let name = link_name(slot);
            prop_assert!(name.len() <= 15);
            prop_assert_eq!(slot_of_link(&name), Some(slot));
        }

        #[test]
        fn foreign_names_are_not_ours(name in "(sbx)?[+a-z0-9]{0,12}") {
            if let Some(slot) = slot_of_link(&name) {
                prop_assert_eq!(link_name(slot), name);
            }
        }
    }
}
