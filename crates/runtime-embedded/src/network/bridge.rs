//! What may be reached from a bridge that a container engine has made.
//!
//! The engine gives addresses and translates them; this only takes away. A packet
//! that is refused here goes nowhere, whatever the engine's own rules say.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use super::{config::NetworkConfig, dns, error::NetworkError, filter};

/// The firewall's table; family `inet`.
const TABLE: &str = "sandboxai_bridge";

/// Limits what is reached from a bridge, also one that does not exist yet, to
/// what sandboxes of namespaces reach: the public internet and the resolvers, never
/// the host, nor [`NetworkConfig::never`]. May be repeated at any time; the rules stay
/// until the table `inet sandboxai_bridge` is deleted.
///
/// # Errors
/// The step that failed.
pub fn guard_bridge(config: &NetworkConfig, bridge: &str) -> Result<(), NetworkError> {
    let text = ruleset(config, bridge, &dns::resolvers(&config.resolvers));
    filter::change(config, &text, "take the rules of the engine's bridge")
}

/// The whole table in the language of `nft -f`, in one transaction.
fn ruleset(config: &NetworkConfig, bridge: &str, resolvers: &[SocketAddr]) -> String {
    let mut text = format!(
        "add table inet {TABLE}\ndelete table inet {TABLE}\nadd table inet {TABLE}\n\
         add set inet {TABLE} never {{ type ipv4_addr; flags interval; auto-merge; }}\n\
         add set inet {TABLE} resolvers {{ type ipv4_addr . inet_service; }}\n\
         add set inet {TABLE} connections {{ type ipv4_addr; flags dynamic; size 65535; }}\n"
    );
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        text.write_fmt(arguments)
            .and_then(|()| text.write_char('\n'))
            .expect("writing to a string cannot fail");
    };
    for never in &config.never {
        line(format_args!("add element inet {TABLE} never {{ {never} }}"));
    }
    for resolver in resolvers {
        // Those on loopback are asked by the engine, not from the bridge.
        if let IpAddr::V4(address) = resolver.ip()
            && !address.is_loopback()
        {
            let port = resolver.port();
            line(format_args!(
                "add element inet {TABLE} resolvers {{ {address} . {port} }}"
            ));
        }
    }
    for (chain, hook, _) in CHAINS {
        line(format_args!("add chain inet {TABLE} {chain}{hook}"));
    }
    for (chain, _, rules) in CHAINS {
        for rule in *rules {
            let rule = rule
                .replace("{bridge}", &format!("\"{bridge}\""))
                .replace("{connections_max}", &config.connections_max.to_string());
            line(format_args!("add rule inet {TABLE} {chain} {rule}"));
        }
    }
    text
}

/// Chains by name, with where they hook in and their rules; data, for who reviews it.
const CHAINS: &[(&str, &str, &[&str])] = &[
    // The host itself is never reached, by whichever of its addresses.
    (
        "host_input",
        " { type filter hook input priority filter; policy accept; }",
        &[
            "iifname {bridge} meta l4proto { tcp, udp } ip daddr . th dport @resolvers accept",
            "iifname {bridge} goto refuse",
        ],
    ),
    // Local users of the host do not reach ports of a sandbox past the server's own checks.
    (
        "host_output",
        " { type filter hook output priority filter; policy accept; }",
        &["oifname {bridge} ct state != { established, related } drop"],
    ),
    (
        "forward",
        " { type filter hook forward priority filter; policy accept; }",
        &[
            "iifname {bridge} jump from_bridge",
            "oifname {bridge} ct state != { established, related } drop",
        ],
    ),
    // What is accepted here is still subject to the engine's own rules.
    (
        "from_bridge",
        "",
        &[
            "meta nfproto != ipv4 goto refuse",
            "meta l4proto { tcp, udp } ip daddr . th dport @resolvers accept",
            "ip daddr @never goto refuse",
            "ct state { established, related } accept",
            "ct state invalid drop",
            "meta l4proto != { tcp, udp, icmp } goto refuse",
            "meta l4proto icmp icmp type != echo-request goto refuse",
            "ct state new add @connections { ip saddr ct count over {connections_max} } goto refuse",
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
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ruleset_of_a_bridge() {
        let resolvers = ["10.0.0.2:53", "127.0.0.53:53", "[2001:db8::1]:53"];
        let resolvers = resolvers.map(|resolver| resolver.parse().unwrap());
        insta::assert_snapshot!(ruleset(&NetworkConfig::default(), "engine0", &resolvers));
    }
}
