//! Links, addresses and routes: the two ends of the wire between a sandbox and the host.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, BorrowedFd},
    time::{Duration, Instant},
};

use rustix::{event::Timespec, io::Errno, net::netdevice::name_to_index};

use super::{
    error::NetworkError,
    netlink::{ACK, CREATE, DUMP, EXCLUSIVE, Encoder, Family, REQUEST, Socket, attribute},
    plan::{Addresses, LINK_PREFIX_BITS, SANDBOX_LINK, link_name, slot_of_link},
    setting,
};

/// `VETH_INFO_PEER`: the other end of a pair.
const VETH_INFO_PEER: u16 = 1;
/// `IFF_UP`.
const UP: u32 = 1;
/// Loopback is the first interface of every network namespace.
const LOOPBACK_INDEX: u32 = 1;
/// `AF_INET` in the one byte that messages have for it.
const FAMILY_IPV4: u8 = 2;
/// Bytes before the attributes of a message about a link.
const LINK_HEADER_BYTES: usize = 16;
/// Bytes before the attributes of a message about an address.
const ADDRESS_HEADER_BYTES: usize = 8;
/// How long the kernel gets to remove a link together with its namespace. It
/// takes 10 to 100 ms, in batches; deleting costs 25 ms each and stalls others.
const REMOVAL_PATIENCE: Duration = Duration::from_millis(500);
/// How often the link is looked for meanwhile.
const REMOVAL_POLL: Duration = Duration::from_millis(5);

/// Makes the host's end `sbx<slot>` and, directly inside `netns`, its peer `eth0`,
/// and gives the host's end its address. Leaves the peer down and bare.
pub(super) fn create_pair(
    slot: u32,
    addresses: Addresses,
    netns: BorrowedFd<'_>,
) -> Result<(), NetworkError> {
    let name = link_name(slot);
    let socket = open("talk to the kernel about link", &name)?;
    let request = pair_request(&name, netns);
    let failed = kernel("create link", &name);
    match socket.request(&request, 1) {
        Err(error) if is(&error, Errno::EXIST) => {
            // The former sandbox of this slot has ended, but its namespace is still
            // being taken apart.
            delete(&socket, &name)?;
            socket.request(&request, 1).map_err(failed)?;
        }
        result => result.map_err(failed)?,
    }
    // Before the link comes up, so that it never has an address of version 6 and
    // never takes a packet with a foreign source.
    setting::write_if_present(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
    setting::write(&format!("ipv4/conf/{name}/rp_filter"), "1")?;
    let index = index_of(&socket, &name)?;
    let mut request = Encoder::default();
    add_address(&mut request, index, addresses.host);
    set_up(&mut request, index);
    socket
        .request(&request, 2)
        .map_err(kernel("configure link", &name))
}

/// Brings up loopback; to be called inside the sandbox's namespace.
pub(super) fn configure_loopback() -> Result<(), NetworkError> {
    let socket = open("talk to the kernel about link", "lo")?;
    let mut request = Encoder::default();
    set_up(&mut request, LOOPBACK_INDEX);
    socket
        .request(&request, 1)
        .map_err(kernel("bring up link", "lo"))
}

/// Brings up loopback and `eth0` with its address and the default route; to be
/// called inside the sandbox's namespace.
pub(super) fn configure_inside(addresses: Addresses) -> Result<(), NetworkError> {
    let socket = open("talk to the kernel about link", SANDBOX_LINK)?;
    let index = index_of(&socket, SANDBOX_LINK)?;
    let mut request = Encoder::default();
    set_up(&mut request, LOOPBACK_INDEX);
    add_address(&mut request, index, addresses.sandbox);
    set_up(&mut request, index);
    add_default_route(&mut request, index, addresses.host);
    socket
        .request(&request, 4)
        .map_err(kernel("configure the sandbox's link", SANDBOX_LINK))
}

/// Returns when both ends pass packets.
///
/// The host's end came up before the other one; the kernel notices in its own time
/// that it is connected, and drops packets until then: a first connection would wait
/// for its repetition after a second. Asking for the link makes it look at once.
pub(super) fn settle(slot: u32) -> Result<(), NetworkError> {
    let name = link_name(slot);
    let socket = open("talk to the kernel about link", &name)?;
    let mut request = Encoder::default();
    let header = link_header(0, 0, 0);
    request.message(libc::RTM_GETLINK, REQUEST | ACK, &header, |link| {
        link.text(libc::IFLA_IFNAME, &name);
    });
    socket
        .request(&request, 1)
        .map_err(kernel("look at link", &name))
}

/// Waits a moment for the host's end to vanish with the sandbox's namespace, and
/// deletes it otherwise.
pub(super) fn remove(slot: u32) -> Result<(), NetworkError> {
    let name = link_name(slot);
    let socket = open("talk to the kernel about link", &name)?;
    let deadline = Instant::now() + REMOVAL_PATIENCE;
    while name_to_index(socket.as_fd(), &name).is_ok() {
        if Instant::now() >= deadline {
            return delete(&socket, &name);
        }
        pause(REMOVAL_POLL);
    }
    Ok(())
}

/// Deletes the host's end at once, if it exists. Takes 25 ms.
pub(super) fn remove_now(slot: u32) -> Result<(), NetworkError> {
    let name = link_name(slot);
    delete(&open("talk to the kernel about link", &name)?, &name)
}

/// A sandbox's link as the host has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostLink {
    /// The number in its name.
    pub(super) slot: u32,
    /// Its address, unless it was made only halfway.
    pub(super) address: Option<Ipv4Addr>,
}

/// All links of sandboxes.
pub(super) fn list() -> Result<Vec<HostLink>, NetworkError> {
    let socket = open("list", "links")?;
    let addresses = addresses_by_index(&socket)?;
    let address_of = |index| {
        let found = addresses.iter().find(|(other, _)| *other == index);
        found.map(|(_, address)| *address)
    };
    let links = slots_by_index(&socket)?;
    let links = links.into_iter().map(|(index, slot)| HostLink {
        slot,
        address: address_of(index),
    });
    Ok(links.collect())
}

/// The addresses that the host has apart from its ends of sandboxes' links.
pub(super) fn own_addresses() -> Result<Vec<Ipv4Addr>, NetworkError> {
    let socket = open("list", "addresses")?;
    let links = slots_by_index(&socket)?;
    let addresses = addresses_by_index(&socket)?.into_iter();
    Ok(addresses
        .filter(|(index, _)| !links.iter().any(|(other, _)| other == index))
        .map(|(_, address)| address)
        .collect())
}

/// The links of sandboxes: index and slot.
fn slots_by_index(socket: &Socket) -> Result<Vec<(u32, u32)>, NetworkError> {
    let mut links = Vec::new();
    let mut request = Encoder::default();
    let header = link_header(0, 0, 0);
    request.message(libc::RTM_GETLINK, REQUEST | DUMP, &header, |_| {});
    socket
        .dump(&request, |message| {
            let slot = message
                .payload
                .get(LINK_HEADER_BYTES..)
                .and_then(|body| attribute(body, libc::IFLA_IFNAME))
                .and_then(|name| std::str::from_utf8(name.strip_suffix(&[0])?).ok())
                .and_then(slot_of_link);
            links.extend(index_in(message.payload).zip(slot));
        })
        .map_err(kernel("list", "links"))?;
    Ok(links)
}

/// All addresses of version 4: index of the link and address.
fn addresses_by_index(socket: &Socket) -> Result<Vec<(u32, Ipv4Addr)>, NetworkError> {
    let mut addresses = Vec::new();
    let mut request = Encoder::default();
    let header = [FAMILY_IPV4, 0, 0, 0, 0, 0, 0, 0];
    request.message(libc::RTM_GETADDR, REQUEST | DUMP, &header, |_| {});
    socket
        .dump(&request, |message| {
            let address = message
                .payload
                .get(ADDRESS_HEADER_BYTES..)
                .and_then(|body| attribute(body, libc::IFA_LOCAL))
                .and_then(|value| <[u8; 4]>::try_from(value).ok());
            addresses.extend(index_in(message.payload).zip(address.map(Ipv4Addr::from)));
        })
        .map_err(kernel("list", "addresses"))?;
    Ok(addresses)
}

/// The index of a link, which messages about links and addresses have at the same place.
fn index_in(payload: &[u8]) -> Option<u32> {
    let index = payload.get(4..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*index))
}

fn pair_request(name: &str, netns: BorrowedFd<'_>) -> Encoder {
    let descriptor = u32::try_from(netns.as_raw_fd()).expect("open descriptors are not negative");
    let mut request = Encoder::default();
    request.message(
        libc::RTM_NEWLINK,
        REQUEST | ACK | CREATE | EXCLUSIVE,
        &link_header(0, 0, 0),
        |link| {
            link.text(libc::IFLA_IFNAME, name);
            // One queue: a queue per processor costs memory and brings nothing here.
            link.u32(libc::IFLA_NUM_TX_QUEUES, 1);
            link.u32(libc::IFLA_NUM_RX_QUEUES, 1);
            link.nested(libc::IFLA_LINKINFO, |information| {
                information.text(libc::IFLA_INFO_KIND, "veth");
                information.nested(libc::IFLA_INFO_DATA, |data| {
                    data.nested_after(VETH_INFO_PEER, &link_header(0, 0, 0), |peer| {
                        peer.text(libc::IFLA_IFNAME, SANDBOX_LINK);
                        peer.u32(libc::IFLA_NUM_TX_QUEUES, 1);
                        peer.u32(libc::IFLA_NUM_RX_QUEUES, 1);
                        peer.u32(libc::IFLA_NET_NS_FD, descriptor);
                    });
                });
            });
        },
    );
    request
}

fn set_up(request: &mut Encoder, index: u32) {
    let header = link_header(index, UP, UP);
    request.message(libc::RTM_NEWLINK, REQUEST | ACK, &header, |_| {});
}

fn add_address(request: &mut Encoder, index: u32, address: Ipv4Addr) {
    let mut header = [0; ADDRESS_HEADER_BYTES];
    header[0] = FAMILY_IPV4;
    header[1] = LINK_PREFIX_BITS;
    header[4..].copy_from_slice(&index.to_ne_bytes());
    request.message(
        libc::RTM_NEWADDR,
        REQUEST | ACK | CREATE | EXCLUSIVE,
        &header,
        |body| {
            body.bytes(libc::IFA_LOCAL, &address.octets());
            body.bytes(libc::IFA_ADDRESS, &address.octets());
        },
    );
}

fn add_default_route(request: &mut Encoder, index: u32, gateway: Ipv4Addr) {
    let mut header = [0; 12];
    header[0] = FAMILY_IPV4;
    header[4] = libc::RT_TABLE_MAIN;
    header[5] = libc::RTPROT_STATIC;
    header[6] = libc::RT_SCOPE_UNIVERSE;
    header[7] = libc::RTN_UNICAST;
    request.message(
        libc::RTM_NEWROUTE,
        REQUEST | ACK | CREATE | EXCLUSIVE,
        &header,
        |body| {
            body.bytes(libc::RTA_GATEWAY, &gateway.octets());
            body.u32(libc::RTA_OIF, index);
        },
    );
}

/// The fixed part of a message about a link.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER_BYTES] {
    let mut header = [0; LINK_HEADER_BYTES];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

fn delete(socket: &Socket, name: &str) -> Result<(), NetworkError> {
    let mut request = Encoder::default();
    request.message(
        libc::RTM_DELLINK,
        REQUEST | ACK,
        &link_header(0, 0, 0),
        |link| link.text(libc::IFLA_IFNAME, name),
    );
    match socket.request(&request, 1) {
        Err(error) if is(&error, Errno::NODEV) => Ok(()),
        result => result.map_err(kernel("delete link", name)),
    }
}

fn index_of(socket: &Socket, name: &str) -> Result<u32, NetworkError> {
    name_to_index(socket.as_fd(), name)
        .map_err(io::Error::from)
        .map_err(kernel("find link", name))
}

fn open(action: &'static str, object: &str) -> Result<Socket, NetworkError> {
    Socket::open(Family::Route).map_err(kernel(action, object))
}

fn kernel(action: &'static str, object: &str) -> impl Fn(io::Error) -> NetworkError {
    move |source| NetworkError::Kernel {
        action,
        object: object.to_owned(),
        source,
    }
}

fn is(error: &io::Error, number: Errno) -> bool {
    error.raw_os_error() == Some(number.raw_os_error())
}

/// Lets time pass where the kernel announces nothing that could be waited for.
pub(super) fn pause(duration: Duration) {
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: duration.subsec_nanos().into(),
    };
    // An early end by a signal only makes the next look earlier.
    let _ = rustix::event::poll(&mut [], Some(&timeout));
}
