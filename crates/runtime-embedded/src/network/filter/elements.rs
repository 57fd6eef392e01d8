//! Elements of the firewall's sets, by nfnetlink: the one of each sandbox in
//! `sources`, without which nothing of it passes.

use std::{io, net::Ipv4Addr};

use rustix::io::Errno;

use crate::network::{
    error::NetworkError,
    netlink::{
        ACK, Attributes, CREATE, DUMP, Encoder, Family, REQUEST, Socket, attribute, attributes,
    },
    plan::{CONNECTIONS, SOURCES, TABLE},
};

/// `NFNL_MSG_BATCH_BEGIN` and `_END`: everything between happens or nothing does.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u8 = 10;
/// `NFT_MSG_NEWSETELEM` and its fellows.
const NEW_ELEMENT: u16 = message(12);
const GET_ELEMENTS: u16 = message(13);
const DELETE_ELEMENT: u16 = message(14);
const GET_GENERATION: u16 = message(16);
/// `NFTA_SET_ELEM_LIST_TABLE`, `_SET` and `_ELEMENTS`.
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
/// `NFTA_LIST_ELEM`, `NFTA_SET_ELEM_KEY` and `NFTA_DATA_VALUE`.
const ELEMENT: u16 = 1;
const KEY: u16 = 1;
const VALUE: u16 = 1;
/// Family, version and resource number of a message.
const HEADER_BYTES: usize = 4;
/// `NFPROTO_INET`: versions 4 and 6 in one table.
const FAMILY_INET: u8 = 1;
/// Interface names fill this many bytes of a key.
const NAME_BYTES: usize = 16;
/// An interface name and an address.
const SOURCE_KEY_BYTES: usize = NAME_BYTES + 4;

const fn message(number: u16) -> u16 {
    ((SUBSYSTEM as u16) << 8) | number
}

/// What a sandbox may send as: this address on this interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::network) struct Source {
    /// The host's end of its link.
    pub(in crate::network) link: String,
    /// Its address.
    pub(in crate::network) address: Ipv4Addr,
}

impl Source {
    /// As the kernel compares it: the name padded with zeroes, then the address.
    fn key(&self) -> [u8; SOURCE_KEY_BYTES] {
        let mut key = [0; SOURCE_KEY_BYTES];
        let name = self.link.as_bytes();
        let length = name.len().min(NAME_BYTES - 1);
        key[..length].copy_from_slice(&name[..length]);
        key[NAME_BYTES..].copy_from_slice(&self.address.octets());
        key
    }

    fn from_key(key: &[u8]) -> Option<Self> {
        let (name, address) = key.split_at_checked(NAME_BYTES)?;
        let name = std::str::from_utf8(name).ok()?.trim_end_matches('\0');
        Some(Self {
            link: name.to_owned(),
            address: Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?),
        })
    }
}

/// Whether the kernel has nf_tables and lets us use it.
pub(in crate::network) fn probe() -> io::Result<()> {
    let mut request = Encoder::default();
    request.message(GET_GENERATION, REQUEST | ACK, &header(0, 0), |_| {});
    Socket::open(Family::Netfilter)?.request(&request, 1)
}

/// A connection to the firewall's sets.
///
/// Dropping it waits 10 to 20 ms if any element was deleted on this host just before.
#[derive(Debug)]
pub(in crate::network) struct Elements {
    socket: Socket,
}

impl Elements {
    /// Connects to the sets in the calling thread's network namespace.
    pub(in crate::network) fn open() -> Result<Self, NetworkError> {
        let socket = Socket::open(Family::Netfilter).map_err(failure("open table", TABLE))?;
        Ok(Self { socket })
    }

    /// Leaves the connection open until the process ends, instead of waiting.
    pub(in crate::network) fn keep_open(self) {
        self.socket.keep_open();
    }

    /// Lets `source` through. Returns false when the table does not exist.
    pub(in crate::network) fn admit(&self, source: &Source) -> Result<bool, NetworkError> {
        match self.socket.request(&admission(source), 1) {
            Err(error) if is_missing(&error) => Ok(false),
            result => result
                .map(|()| true)
                .map_err(failure("add firewall element", &source.link)),
        }
    }

    /// Lets nothing of `source` through any more. It is a success when nothing is there.
    pub(in crate::network) fn dismiss(&self, source: &Source) -> Result<(), NetworkError> {
        self.delete(SOURCES, &source.key())
            .map_err(failure("remove firewall element", &source.link))
    }

    /// Whether the connections of `address` are being counted, because it has some.
    pub(in crate::network) fn has_connections(
        &self,
        address: Ipv4Addr,
    ) -> Result<bool, NetworkError> {
        self.is_present(CONNECTIONS, &address.octets())
            .map_err(failure("look up the connections of", &address.to_string()))
    }

    /// Starts the count of the connections of `address` anew.
    pub(in crate::network) fn forget_count(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
        self.delete(CONNECTIONS, &address.octets())
            .map_err(failure("forget the connections of", &address.to_string()))
    }

    /// All that are let through; none when the table does not exist.
    pub(in crate::network) fn list(&self) -> Result<Vec<Source>, NetworkError> {
        let mut request = Encoder::default();
        let header = header(FAMILY_INET, 0);
        request.message(GET_ELEMENTS, REQUEST | DUMP, &header, |body| {
            body.text(LIST_TABLE, TABLE);
            body.text(LIST_SET, SOURCES);
        });
        let mut sources = Vec::new();
        let listed = self.socket.dump(&request, |message| {
            let body = message.payload.get(HEADER_BYTES..).unwrap_or(&[]);
            sources.extend(sources_in(body));
        });
        match listed {
            Err(error) if is_missing(&error) => Ok(Vec::new()),
            result => result
                .map(|()| sources)
                .map_err(failure("list firewall elements of", TABLE)),
        }
    }

    fn delete(&self, set: &str, key: &[u8]) -> io::Result<()> {
        // Looked up first: a transaction that fails waits 20 ms for all processors.
        if !self.is_present(set, key)? {
            return Ok(());
        }
        let request = batch(|request| element_message(request, DELETE_ELEMENT, 0, set, key));
        match self.socket.request(&request, 1) {
            Err(error) if is_missing(&error) => Ok(()),
            result => result,
        }
    }

    fn is_present(&self, set: &str, key: &[u8]) -> io::Result<bool> {
        let mut request = Encoder::default();
        element_message(&mut request, GET_ELEMENTS, 0, set, key);
        match self.socket.request(&request, 1) {
            Err(error) if is_missing(&error) => Ok(false),
            // A kernel without nf_tables does not know the message: nothing is there.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(false),
            result => result.map(|()| true),
        }
    }
}

fn sources_in(body: &[u8]) -> impl Iterator<Item = Source> {
    let elements = attribute(body, LIST_ELEMENTS).unwrap_or(&[]);
    attributes(elements)
        .filter_map(|(_, element)| Source::from_key(attribute(attribute(element, KEY)?, VALUE)?))
}

fn admission(source: &Source) -> Encoder {
    batch(|request| {
        element_message(request, NEW_ELEMENT, CREATE, SOURCES, &source.key());
    })
}

fn batch(body: impl FnOnce(&mut Encoder)) -> Encoder {
    let mut request = Encoder::default();
    request.message(BATCH_BEGIN, REQUEST, &header(0, SUBSYSTEM), |_| {});
    body(&mut request);
    request.message(BATCH_END, REQUEST, &header(0, SUBSYSTEM), |_| {});
    request
}

fn element_message(request: &mut Encoder, kind: u16, flags: u16, set: &str, key: &[u8]) {
    let flags = REQUEST | ACK | flags;
    request.message(kind, flags, &header(FAMILY_INET, 0), |body| {
        body.text(LIST_TABLE, TABLE);
        body.text(LIST_SET, set);
        body.nested(LIST_ELEMENTS, |list| {
            list.nested(ELEMENT, |element| {
                element.nested(KEY, |data: &mut Attributes<'_>| data.bytes(VALUE, key));
            });
        });
    });
}

/// Family, version 0, and the resource number, whose order of bytes is the network's.
fn header(family: u8, resource: u8) -> [u8; HEADER_BYTES] {
    [family, 0, 0, resource]
}

fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOENT.raw_os_error())
}

fn failure(action: &'static str, object: &str) -> impl Fn(io::Error) -> NetworkError {
    move |source| NetworkError::Kernel {
        action,
        object: object.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes
            .chunks(4)
            .map(|word| {
                word.iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<String>()
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn admission_byte_by_byte() {
        let source = Source {
            link: "sbx7".into(),
            address: Ipv4Addr::new(10, 231, 0, 15),
        };
        let expected = [
            // Begin: length 20, type 0x10, request; sequence 1; resource 10.
            "14000000 10000100 01000000 00000000 0000000a",
            // New element: length 84, type 0x0a0c, request, ack, create; sequence 2; inet.
            "54000000 0c0a0504 02000000 00000000 01000000",
            // Table and set.
            "0e000100 73616e64 626f7861 69000000 0c000200 736f7572 63657300",
            // Elements, element, key, value: the name in 16 bytes, the address in 4.
            "24000380 20000180 1c000180 18000100",
            "73627837 00000000 00000000 00000000 0ae7000f",
            "14000000 11000100 03000000 00000000 0000000a",
        ];
        assert_eq!(hex(admission(&source).as_bytes()), expected.join(" "));
    }

    proptest! {
        #[test]
        fn keys_read_back(link in "sbx[0-9]{1,10}", address: u32) {
            let source = Source { link, address: Ipv4Addr::from(address) };
            prop_assert_eq!(Source::from_key(&source.key()), Some(source));
        }

        #[test]
        fn garbage_from_the_kernel_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(sources_in(&bytes).count() <= bytes.len());
            let _ = Source::from_key(&bytes);
        }
    }
}
