//! The network of sandboxes: links, addresses, the host's firewall, and names.
//!
//! A sandbox in mode `open` has a link of its own to the host and nothing else:
//!
//! ```text
//!   sandbox                     host                             internet
//!   eth0 10.231.0.N+1 ──────── sbx<slot> 10.231.0.N ─ forward ─ masquerade ─ …
//!   127.0.0.53:53 ── sockets held by the server ── the host's resolvers
//! ```
//!
//! Everything is refused by default: a packet passes only if its interface and
//! source address are an element of the firewall's table `inet sandboxai`, and it
//! never passes to the host, to another sandbox or to a network in
//! [`NetworkConfig::never`]. There is no version 6.
//!
//! The functions block, for single-threaded processes; only [`DnsForwarder`]
//! belongs to the server. They need CAP_NET_ADMIN and CAP_SYS_ADMIN over the
//! host's namespaces. Nothing here knows what a sandbox is besides its number.

mod address;
mod bridge;
mod config;
mod conntrack;
mod dns;
mod error;
mod filter;
mod finding;
mod link;
mod namespace;
mod netlink;
mod plan;
mod program;
mod setting;
#[cfg(test)]
mod tests;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::BorrowedFd,
};

pub use address::{AddressError, Ipv4Network};
pub use bridge::guard_bridge;
pub use config::NetworkConfig;
pub use dns::DnsForwarder;
pub use error::NetworkError;

use filter::{Elements, Source};
use plan::Addresses;

/// Where programs in a sandbox ask for names.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);

/// What `/etc/resolv.conf` of a sandbox in mode `open` says.
pub const RESOLV_CONF: &str = "nameserver 127.0.0.53\noptions edns0\n";

/// The port of the name service.
const NAME_PORT: u16 = 53;

/// Sockets bound to [`NAME_SERVER`] inside a sandbox, for [`DnsForwarder::spawn`].
///
/// They keep the sandbox's network namespace, and with it its link, alive:
/// close them when the sandbox ends.
#[derive(Debug)]
pub struct DnsSockets {
    /// For ordinary queries.
    pub udp: UdpSocket,
    /// For answers that do not fit into a datagram.
    pub tcp: TcpListener,
}

/// Whether mode `open` works for the calling process on this host. To be asked once,
/// by a process that has the rights, which a server without privileges is not: asking
/// waits up to 20 ms while sandboxes are being removed, and [`disconnect`] and
/// [`release`] succeed on a host without a firewall anyway.
///
/// # Errors
/// What is missing and how to get it, for people.
pub fn capability() -> Result<(), String> {
    filter::capability().map(|_| ())
}

/// What an operator should know or change before sandboxes use the network, as
/// sentences; empty when all is well. Looks only.
#[must_use]
pub fn findings() -> Vec<String> {
    finding::all()
}

/// Sets up the host: the firewall's table, and forwarding between interfaces.
///
/// To be called by each server at its start; may be repeated at any time, also by
/// several servers and with sandboxes running. [`connect`] repeats it when
/// something has deleted the table.
///
/// # Errors
/// The step that failed.
pub fn prepare(config: &NetworkConfig) -> Result<(), NetworkError> {
    let pool = config.pool;
    let mut own = link::own_addresses()?.into_iter();
    if let Some(address) = own.find(|address| pool.contains(*address)) {
        return Err(NetworkError::PoolInUse { pool, address });
    }
    filter::set_up(config)?;
    setting::enable_forwarding()
}

/// Gives the sandbox with number `slot` its network. `netns` is its fresh network
/// namespace, owned by the initial user namespace; `init_pid`, its first process,
/// only names it in the log. Returns the sockets for names in mode `open`.
///
/// It belongs into a process that ends soon: it leaves one descriptor open, because
/// closing it may wait 10 to 20 ms for the kernel. After an error the caller must [`release`] the slot and end its process.
///
/// # Errors
/// The step that failed.
pub fn connect(
    config: &NetworkConfig,
    mode: sandbox::NetworkMode,
    slot: u32,
    init_pid: u32,
    netns: BorrowedFd<'_>,
) -> Result<Option<DnsSockets>, NetworkError> {
    tracing::debug!(slot, init_pid, mode = mode.as_str(), "connecting a sandbox");
    match mode {
        sandbox::NetworkMode::None => namespace::inside(netns, || {
            configure_settings()?;
            link::configure_loopback()?;
            Ok(None)
        }),
        sandbox::NetworkMode::Open => {
            let addresses = plan::addresses(config.pool, slot)?;
            let elements = Elements::open()?;
            // There are none, unless the release of the former sandbox was interrupted.
            forget_connections(&elements, addresses.sandbox)?;
            admit(config, &elements, &source(slot, addresses))?;
            elements.keep_open();
            setting::enable_forwarding()?;
            link::create_pair(slot, addresses, netns)?;
            let sockets = namespace::inside(netns, || {
                configure_settings()?;
                link::configure_inside(addresses)?;
                bind()
            })?;
            link::settle(slot)?;
            Ok(Some(sockets))
        }
    }
}

/// New sockets for the names of a running sandbox, when a server adopts it.
///
/// # Errors
/// When the namespace cannot be entered or another socket, of an earlier server or
/// of the sandbox itself, has the address.
pub fn bind_dns(netns: BorrowedFd<'_>) -> Result<DnsSockets, NetworkError> {
    namespace::inside(netns, bind)
}

/// Lets nothing of the sandbox with number `slot` pass any more; [`release`] does the
/// rest. Removing what does not exist is a success.
///
/// It takes a tenth of a millisecond, at the price of a descriptor that stays open
/// until the calling process ends: closing it would wait 10 to 20 ms for the kernel.
///
/// # Errors
/// The step that failed; may be called again.
pub fn disconnect(config: &NetworkConfig, slot: u32) -> Result<(), NetworkError> {
    let addresses = plan::addresses(config.pool, slot)?;
    let elements = Elements::open()?;
    elements.dismiss(&source(slot, addresses))?;
    elements.keep_open();
    Ok(())
}

/// Frees everything of the sandbox with number `slot` for the next one: its element,
/// its remembered connections and its link. Waits up to half a second for the link
/// to vanish with the sandbox's network namespace, then deletes it; call it when
/// the sandbox's first process has ended, after answering, and before the slot is
/// used again.
///
/// # Errors
/// The step that failed; may be called again.
pub fn release(config: &NetworkConfig, slot: u32) -> Result<(), NetworkError> {
    let addresses = plan::addresses(config.pool, slot)?;
    let elements = Elements::open()?;
    elements.dismiss(&source(slot, addresses))?;
    link::remove(slot)?;
    forget_connections(&elements, addresses.sandbox)
}

/// Makes firewall and links agree with `live_slots`, which are all slots in use on
/// this host, by whichever server: what belongs to no live slot is removed, and a
/// live link whose element is missing gets it back. Also puts the table back when
/// something has flushed the host's firewall, so it may be called from time to time.
///
/// # Errors
/// The step that failed; may be called again.
pub fn reconcile(config: &NetworkConfig, live_slots: &[u32]) -> Result<(), NetworkError> {
    let is_live = |slot: u32| live_slots.contains(&slot);
    let elements = Elements::open()?;
    let admitted = elements.list()?;
    for source in &admitted {
        if !plan::slot_of_link(&source.link).is_some_and(is_live) {
            elements.dismiss(source)?;
            forget_connections(&elements, source.address)?;
        }
    }
    for found in link::list()? {
        if !is_live(found.slot) {
            link::remove_now(found.slot)?;
        } else if let Some(host) = found.address {
            // From the link itself: another server's pool may differ from ours.
            let source = Source {
                link: plan::link_name(found.slot),
                address: plan::opposite(host),
            };
            if !admitted.contains(&source) {
                admit(config, &elements, &source)?;
            }
        }
    }
    Ok(())
}

/// Name and slot of every sandbox's link on this host; empty where they cannot be listed.
pub(crate) fn links() -> Vec<(String, u32)> {
    let links = link::list().unwrap_or_default().into_iter();
    links
        .map(|found| (plan::link_name(found.slot), found.slot))
        .collect()
}

/// Deletes the firewall's table, unless a sandbox on this host still uses it.
/// Forwarding stays on, because others may have come to rely on it.
///
/// # Errors
/// The step that failed; may be called again.
pub fn remove_all(config: &NetworkConfig) -> Result<(), NetworkError> {
    filter::remove(config)
}

/// Lets `source` through, and makes the table first if it is missing: at the first
/// use, or after something has flushed the host's firewall.
fn admit(config: &NetworkConfig, elements: &Elements, source: &Source) -> Result<(), NetworkError> {
    if elements.admit(source)? {
        return Ok(());
    }
    prepare(config)?;
    if elements.admit(source)? {
        return Ok(());
    }
    Err(NetworkError::FilterRefused {
        action: "keep the rules of sandboxes",
        detail: "its table vanished while it was being used".to_owned(),
    })
}

/// Makes the kernel forget the connections of `address`, if there are any: looking
/// for them takes 20 ms where the kernel's table is large.
fn forget_connections(elements: &Elements, address: Ipv4Addr) -> Result<(), NetworkError> {
    if !elements.has_connections(address)? {
        return Ok(());
    }
    conntrack::forget(address)?;
    elements.forget_count(address)
}

fn source(slot: u32, addresses: Addresses) -> Source {
    Source {
        link: plan::link_name(slot),
        address: addresses.sandbox,
    }
}

/// Settings of a sandbox's network namespace; to be called inside.
fn configure_settings() -> Result<(), NetworkError> {
    setting::write_if_present("ipv6/conf/all/disable_ipv6", "1")?;
    // The sandbox's root has no power over the namespace, but expects to serve
    // port 80 and to send pings.
    setting::write("ipv4/ip_unprivileged_port_start", "0")?;
    setting::write("ipv4/ping_group_range", "0 2147483647")
}

/// Binds the sockets for names; to be called inside.
fn bind() -> Result<DnsSockets, NetworkError> {
    let address = SocketAddr::from((NAME_SERVER, NAME_PORT));
    let failed = |source| NetworkError::Bind { address, source };
    Ok(DnsSockets {
        udp: UdpSocket::bind(address).map_err(failed)?,
        tcp: TcpListener::bind(address).map_err(failed)?,
    })
}
