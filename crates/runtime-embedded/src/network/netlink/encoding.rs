//! Netlink's encoding: messages made of a header and nested attributes.
//!
//! Pure functions over bytes; no kernel is asked here. Numbers are in the host's
//! byte order, as netlink has them, except where a name says `be`.

/// Length of the header of a message: length, type, flags, sequence, port.
pub(in crate::network) const MESSAGE_HEADER_BYTES: usize = 16;
/// Length of the header of an attribute: length and type.
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// Messages and attributes start at multiples of this.
const ALIGNMENT: usize = 4;
/// Marks an attribute that holds attributes.
const NESTED: u16 = 1 << 15;
/// The type of an attribute without its two flag bits.
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;

/// A request being written: one or more messages.
#[derive(Debug, Default)]
pub(in crate::network) struct Encoder {
    bytes: Vec<u8>,
    messages: u32,
}

impl Encoder {
    /// Appends one message. `header` is the fixed part that follows the netlink
    /// header and belongs to the message's type. Sequence numbers count from 1.
    pub(in crate::network) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        body: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.messages += 1;
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.messages.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(header);
        align(&mut self.bytes);
        body(&mut Attributes {
            bytes: &mut self.bytes,
        });
        let length = u32::try_from(self.bytes.len() - start)
            .expect("messages hold a few names and addresses, far below 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// The sequence number of the last message.
    pub(in crate::network) fn last_sequence(&self) -> u32 {
        self.messages
    }

    /// What goes to the kernel.
    pub(in crate::network) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The attributes of a message or of another attribute being written.
#[derive(Debug)]
pub(in crate::network) struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    /// An attribute that holds `value` as it is.
    pub(in crate::network) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value);
        self.close(start);
    }

    /// Attributes that are encoded already.
    pub(in crate::network) fn raw(&mut self, attributes: &[u8]) {
        self.bytes.extend_from_slice(attributes);
    }

    /// A text, ended by a zero byte as the kernel expects it.
    pub(in crate::network) fn text(&mut self, kind: u16, value: &str) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(start);
    }

    /// A number in the host's byte order.
    pub(in crate::network) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// An attribute that holds attributes.
    pub(in crate::network) fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Attributes<'_>)) {
        self.nested_after(kind, &[], body);
    }

    /// An attribute that holds a fixed part and then attributes.
    pub(in crate::network) fn nested_after(
        &mut self,
        kind: u16,
        header: &[u8],
        body: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.open(kind | NESTED);
        self.bytes.extend_from_slice(header);
        align(self.bytes);
        body(&mut Attributes { bytes: self.bytes });
        self.close(start);
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&0u16.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        let length = u16::try_from(self.bytes.len() - start)
            .expect("callers send bounded lists of names and addresses, below 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        align(self.bytes);
    }
}

fn align(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

/// One message as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::network) struct Message<'a> {
    /// Type of the message.
    pub(in crate::network) kind: u16,
    /// The sequence number of the request that it answers.
    pub(in crate::network) sequence: u32,
    /// What follows the netlink header.
    pub(in crate::network) payload: &'a [u8],
}

/// The messages of a datagram; ends at the first that is not whole.
pub(in crate::network) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
        let whole = bytes.get(..length)?;
        let payload = whole.get(MESSAGE_HEADER_BYTES..)?;
        bytes = bytes
            .get(length.next_multiple_of(ALIGNMENT)..)
            .unwrap_or(&[]);
        Some(Message {
            kind: u16::from_ne_bytes(*whole[4..].first_chunk()?),
            sequence: u32::from_ne_bytes(*whole[8..].first_chunk()?),
            payload,
        })
    })
}

/// The attributes in `bytes` by type; ends at the first that is not whole.
pub(in crate::network) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let whole = bytes.get(..length)?;
        let value = whole.get(ATTRIBUTE_HEADER_BYTES..)?;
        let kind = u16::from_ne_bytes(*whole[2..].first_chunk()?) & ATTRIBUTE_TYPE_MASK;
        bytes = bytes
            .get(length.next_multiple_of(ALIGNMENT)..)
            .unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The value of the first attribute of type `wanted` in `bytes`.
pub(in crate::network) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_with_a_nested_attribute_byte_by_byte() {
        let mut encoder = Encoder::default();
        encoder.message(16, 5, &[9, 9], |body| {
            body.nested(18, |inner| inner.text(1, "veth"));
            body.u32(3, 7);
        });
        let mut expected = Vec::new();
        expected.extend_from_slice(&44u32.to_ne_bytes());
        expected.extend_from_slice(&16u16.to_ne_bytes());
        expected.extend_from_slice(&5u16.to_ne_bytes());
        expected.extend_from_slice(&1u32.to_ne_bytes());
        expected.extend_from_slice(&[0; 4]);
        expected.extend_from_slice(&[9, 9, 0, 0]);
        expected.extend_from_slice(&16u16.to_ne_bytes());
        expected.extend_from_slice(&(18u16 | NESTED).to_ne_bytes());
        expected.extend_from_slice(&9u16.to_ne_bytes());
        expected.extend_from_slice(&1u16.to_ne_bytes());
        expected.extend_from_slice(b"veth\0\0\0\0");
        expected.extend_from_slice(&8u16.to_ne_bytes());
        expected.extend_from_slice(&3u16.to_ne_bytes());
        expected.extend_from_slice(&7u32.to_ne_bytes());
        assert_eq!(encoder.as_bytes(), expected);
    }

    type Fields = Vec<(u16, Vec<u8>)>;

    fn fields() -> impl Strategy<Value = Fields> {
        prop::collection::vec(
            (
                0..=ATTRIBUTE_TYPE_MASK,
                prop::collection::vec(any::<u8>(), 0..40),
            ),
            0..8,
        )
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(sent in prop::collection::vec((any::<u16>(), fields()), 0..6)) {
            let mut encoder = Encoder::default();
            for (kind, fields) in &sent {
                encoder.message(*kind, 0, &[1, 2, 3, 4], |body| {
                    body.nested(5, |inner| {
                        for (kind, value) in fields {
                            inner.bytes(*kind, value);
                        }
                    });
                });
            }
            prop_assert_eq!(encoder.as_bytes().len() % ALIGNMENT, 0);
            let read: Vec<(u16, Fields)> = messages(encoder.as_bytes())
                .map(|message| {
                    let nested = attribute(&message.payload[4..], 5).unwrap();
                    (message.kind, attributes(nested).map(|(k, v)| (k, v.to_vec())).collect())
                })
                .collect();
            prop_assert_eq!(read, sent);
        }

        #[test]
        fn garbage_ends_the_reading_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                prop_assert!(message.payload.len() <= bytes.len());
                let _ = attributes(message.payload).count();
            }
            prop_assert!(attributes(&bytes).count() <= bytes.len() / ATTRIBUTE_HEADER_BYTES);
        }
    }
}
