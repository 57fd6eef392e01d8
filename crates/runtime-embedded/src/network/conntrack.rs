//! Forgetting the connections of a sandbox that has ended.
//!
//! The kernel remembers an open connection for days. The next sandbox with the
//! same address would find the count of its connections used up, and the address
//! translation of its predecessor still in place.

use std::{io, net::Ipv4Addr};

use super::{
    error::NetworkError,
    netlink::{ACK, Attributes, DUMP, Encoder, Family, REQUEST, Socket, attribute},
};

/// `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE` of the connection tracking subsystem.
const GET: u16 = subsystem(1);
const DELETE: u16 = subsystem(2);
/// `CTA_TUPLE_ORIG`: addresses and ports as the first packet had them.
const TUPLE: u16 = 1;
/// `CTA_TUPLE_IP`.
const TUPLE_ADDRESSES: u16 = 1;
/// `CTA_IP_V4_SRC`.
const SOURCE: u16 = 1;
/// `CTA_FILTER`, which makes the kernel list matching connections alone.
const FILTER: u16 = 25;
/// `CTA_FILTER_ORIG_FLAGS` and `CTA_FILTER_REPLY_FLAGS`.
const FILTER_FORWARD: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// `CTA_FILTER_F_CTA_IP_SRC`.
const BY_SOURCE: u32 = 1;
/// `CTA_ID`: tells apart connections with the same tuple.
const IDENTITY: u16 = 12;
/// Family, version and resource number.
const HEADER: [u8; 4] = [2, 0, 0, 0];
/// Deletions per request, so that the answers fit into the socket's buffer.
const DELETIONS_MAX: usize = 64;

const fn subsystem(message: u16) -> u16 {
    (1 << 8) | message
}

/// Removes all connections that were opened from `source`.
pub(super) fn forget(source: Ipv4Addr) -> Result<(), NetworkError> {
    let failed = |action| {
        move |error: io::Error| NetworkError::Kernel {
            action,
            object: format!("connections of {source}"),
            source: error,
        }
    };
    let socket = Socket::open(Family::Netfilter).map_err(failed("list"))?;
    let mut request = Encoder::default();
    request.message(GET, REQUEST | DUMP, &HEADER, |body| {
        body.nested(TUPLE, |tuple| {
            tuple.nested(TUPLE_ADDRESSES, |addresses: &mut Attributes<'_>| {
                addresses.bytes(SOURCE, &source.octets());
            });
        });
        body.nested(FILTER, |filter| {
            filter.u32(FILTER_FORWARD, BY_SOURCE);
            filter.u32(FILTER_REPLY, 0);
        });
    });
    let mut found = Vec::new();
    let listed = socket.dump(&request, |message| {
        let Some(body) = message.payload.get(HEADER.len()..) else {
            return;
        };
        // Compared here too: kernels before 5.8 list everything.
        let own = attribute(body, TUPLE)
            .filter(|tuple| source_of(tuple) == Some(source))
            .zip(attribute(body, IDENTITY));
        if let Some((tuple, identity)) = own {
            found.push((tuple.to_vec(), identity.to_vec()));
        }
    });
    listed.map_err(failed("list"))?;
    for chunk in found.chunks(DELETIONS_MAX) {
        let mut request = Encoder::default();
        for (tuple, identity) in chunk {
            request.message(DELETE, REQUEST | ACK, &HEADER, |body| {
                body.nested(TUPLE, |inner| inner.raw(tuple));
                body.bytes(IDENTITY, identity);
            });
        }
        match socket.request(&request, chunk.len()) {
            // One of them ended by itself meanwhile; the others are gone all the same.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(failed("remove"))?,
        }
    }
    Ok(())
}

fn source_of(tuple: &[u8]) -> Option<Ipv4Addr> {
    let address = attribute(attribute(tuple, TUPLE_ADDRESSES)?, SOURCE)?;
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?))
}
