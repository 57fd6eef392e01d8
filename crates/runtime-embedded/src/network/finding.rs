//! What an operator should know about the host's network before sandboxes use it.

use super::{filter, plan::TABLE, program, setting};

/// Lists the tables that the older firewall programs use; present only if loaded.
const LEGACY_TABLES: &str = "/proc/net/ip_tables_names";

/// See [`super::findings`].
pub(super) fn all() -> Vec<String> {
    let mut findings = Vec::new();
    let program = match filter::capability() {
        Ok(program) => program,
        Err(reason) => {
            findings.push(format!("network mode \"open\" does not work: {reason}"));
            return findings;
        }
    };
    if !setting::forwarding_is_on() {
        findings.push(
            "net.ipv4.ip_forward is 0; it is set to 1, for the whole host, with the first sandbox in network mode \"open\""
                .to_owned(),
        );
    }
    match program::run(&program, &["list", "chains"], "") {
        Ok(output) if output.success => {
            findings.extend(dropping_chains(&output.text).map(|chain| {
                format!(
                    "chain {chain} drops forwarded packets by default (Docker sets this up), so sandboxes reach nothing; {}",
                    advice("iptables")
                )
            }));
        }
        Ok(output) => findings.push(format!(
            "cannot list the firewall's chains: {}",
            output.problem.trim()
        )),
        Err(error) => findings.push(format!("cannot list the firewall's chains: {error}")),
    }
    if legacy_forward_drops() {
        findings.push(format!(
            "the older iptables drops forwarded packets by default, so sandboxes reach nothing; {}",
            advice("iptables-legacy")
        ));
    }
    findings
}

fn advice(program: &str) -> String {
    format!(
        "let theirs pass: `{program} -I FORWARD -i 'sbx+' -j ACCEPT` and `{program} -I FORWARD -o 'sbx+' -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT` (with Docker in chain DOCKER-USER instead of FORWARD)"
    )
}

/// The chains in a listing by `nft` that refuse forwarded packets unless a rule allows them.
fn dropping_chains(listing: &str) -> impl Iterator<Item = String> {
    let (mut table, mut chain) = ("", "");
    listing.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches(" {");
        } else if let Some(name) = line.strip_prefix("chain ") {
            chain = name.trim_end_matches(" {");
        }
        let drops = line.contains("hook forward") && line.contains("policy drop");
        (drops && table != format!("inet {TABLE}")).then(|| format!("{table} {chain}"))
    })
}

fn legacy_forward_drops() -> bool {
    let loaded = std::fs::read_to_string(LEGACY_TABLES)
        .is_ok_and(|tables| tables.lines().any(|table| table == "filter"));
    let Some(program) = program::find("iptables-legacy").filter(|_| loaded) else {
        return false;
    };
    program::run(&program, &["-S", "FORWARD"], "").is_ok_and(|output| {
        output.success && output.text.lines().any(|line| line == "-P FORWARD DROP")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_forward_policy_is_found() {
        let listing = "table ip filter {\n\tchain DOCKER {\n\t}\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\ntable inet sandboxai {\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\ntable inet other {\n\tchain input {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n\tchain f {\n\t\ttype filter hook forward priority filter; policy accept;\n\t}\n}\n";
        assert_eq!(
            dropping_chains(listing).collect::<Vec<_>>(),
            ["ip filter FORWARD"]
        );
    }
}
