//! What has to be understood of a name service message: its header and question.
//!
//! Everything else is passed on as it is. The bytes come from the sandbox and from
//! the network; nothing here trusts them.

/// Length of the header.
const HEADER_BYTES: usize = 12;
/// Length of type and class after the name in a question.
const TYPE_AND_CLASS_BYTES: usize = 4;
/// Longest name, with its lengths, that the standard allows.
const NAME_BYTES_MAX: usize = 255;
/// Longest part of a name; longer lengths are pointers, which no question has.
const LABEL_BYTES_MAX: u8 = 63;

/// In the third byte: this is an answer; the kind of query; recursion is wanted.
const IS_ANSWER: u8 = 0x80;
const OPERATION: u8 = 0x78;
const RECURSION_WANTED: u8 = 0x01;
/// In the fourth byte: recursion is available; the outcome.
const RECURSION_AVAILABLE: u8 = 0x80;
const OUTCOME: u8 = 0x0f;

/// Types of query that hand out whole zones.
const ZONE_TRANSFERS: [u16; 2] = [251, 252];

/// Outcomes that we give ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The message is not understood.
    Format = 1,
    /// No resolver answered.
    Server = 2,
    /// An operation other than a query.
    NotImplemented = 4,
    /// A zone transfer.
    Refused = 5,
}

/// What to do with a message from the sandbox.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Ask a resolver.
    Forward(Query),
    /// Answer this without asking.
    Answer(Vec<u8>),
    /// Not a query at all.
    Ignore,
}

/// A query from the sandbox with exactly one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    bytes: Vec<u8>,
    /// Where the question ends; at most the length of `bytes`.
    question_end: usize,
}

/// Decides about a message from the sandbox.
pub(super) fn examine(packet: &[u8]) -> Verdict {
    let Some(header) = packet.first_chunk::<HEADER_BYTES>() else {
        return Verdict::Ignore;
    };
    if header[2] & IS_ANSWER != 0 {
        return Verdict::Ignore;
    }
    if header[2] & OPERATION != 0 {
        return Verdict::Answer(failure(packet, HEADER_BYTES, Failure::NotImplemented));
    }
    let question_end = match question_end(packet) {
        Some(end) if header[4..6] == [0, 1] => end,
        _ => return Verdict::Answer(failure(packet, HEADER_BYTES, Failure::Format)),
    };
    let kind = u16::from_be_bytes([packet[question_end - 4], packet[question_end - 3]]);
    if ZONE_TRANSFERS.contains(&kind) {
        return Verdict::Answer(failure(packet, question_end, Failure::Refused));
    }
    Verdict::Forward(Query {
        bytes: packet.to_vec(),
        question_end,
    })
}

impl Query {
    /// The query under another number, for a resolver.
    pub(super) fn with_number(&self, number: [u8; 2]) -> Vec<u8> {
        renumbered(&self.bytes, number)
    }

    /// The answer of a resolver under the number that the sandbox gave.
    pub(super) fn answer(&self, answer: &[u8]) -> Vec<u8> {
        renumbered(answer, [self.bytes[0], self.bytes[1]])
    }

    /// Whether `answer` is to this query, sent as `number`. What is not may be an
    /// attempt of a third party to slip in an answer of its own.
    pub(super) fn is_answered_by(&self, number: [u8; 2], answer: &[u8]) -> bool {
        let Some(header) = answer.first_chunk::<HEADER_BYTES>() else {
            return false;
        };
        if header[..2] != number || header[2] & IS_ANSWER == 0 || header[2] & OPERATION != 0 {
            return false;
        }
        // A resolver that did not understand the query may leave out the question.
        let counts = &header[4..HEADER_BYTES];
        if counts[..4] == [0; 4] {
            return header[3] & OUTCOME != 0;
        }
        let own = &self.bytes[HEADER_BYTES..self.question_end];
        let Some(echoed) = answer.get(HEADER_BYTES..self.question_end) else {
            return false;
        };
        let (own_name, own_kind) = own.split_at(own.len() - TYPE_AND_CLASS_BYTES);
        let (name, kind) = echoed.split_at(own_name.len());
        counts[..2] == [0, 1] && own_kind == kind && own_name.eq_ignore_ascii_case(name)
    }

    /// An answer that says why there is none.
    pub(super) fn failed(&self, why: Failure) -> Vec<u8> {
        failure(&self.bytes, self.question_end, why)
    }
}

/// Where the first question of `packet` ends.
fn question_end(packet: &[u8]) -> Option<usize> {
    let mut position = HEADER_BYTES;
    loop {
        let length = *packet.get(position)?;
        position += 1;
        if length == 0 {
            break;
        }
        if length > LABEL_BYTES_MAX {
            return None;
        }
        position += usize::from(length);
        if position - HEADER_BYTES >= NAME_BYTES_MAX {
            return None;
        }
    }
    let end = position + TYPE_AND_CLASS_BYTES;
    (end <= packet.len()).then_some(end)
}

/// The answer `why` to `packet`, with its first `keep` bytes: the header, with or
/// without the one question.
fn failure(packet: &[u8], keep: usize, why: Failure) -> Vec<u8> {
    let mut answer = packet[..keep].to_vec();
    answer[2] = IS_ANSWER | (answer[2] & (OPERATION | RECURSION_WANTED));
    answer[3] = RECURSION_AVAILABLE | why as u8;
    let questions = u8::from(keep > HEADER_BYTES);
    answer[4..HEADER_BYTES].copy_from_slice(&[0, questions, 0, 0, 0, 0, 0, 0]);
    answer
}

/// `message`, which is longer than two bytes, under another number.
fn renumbered(message: &[u8], number: [u8; 2]) -> Vec<u8> {
    let mut bytes = message.to_vec();
    bytes[..2].copy_from_slice(&number);
    bytes
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A query of type `kind` for `name`.
    pub(in crate::network::dns) fn query(number: u16, name: &str, kind: u16) -> Vec<u8> {
        let mut packet = number.to_be_bytes().to_vec();
        packet.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in name.split('.') {
            packet.push(u8::try_from(label.len()).unwrap());
            packet.extend_from_slice(label.as_bytes());
        }
        packet.push(0);
        packet.extend_from_slice(&kind.to_be_bytes());
        packet.extend_from_slice(&[0, 1]);
        packet
    }

    fn forwarded(packet: &[u8]) -> Query {
        match examine(packet) {
            Verdict::Forward(query) => query,
            other => panic!("{other:?}"),
        }
    }

    fn outcome(verdict: Verdict) -> u8 {
        match verdict {
            Verdict::Answer(answer) => answer[3] & OUTCOME,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_queries_are_forwarded() {
        forwarded(&query(7, "site.org", 1));
        let mut update = query(7, "site.org", 1);
        update[2] = 5 << 3;
        assert_eq!(outcome(examine(&update)), 4);
        assert_eq!(outcome(examine(&query(7, "corp.example", 252))), 5);
        let mut two = query(7, "site.org", 1);
        two[5] = 2;
        assert_eq!(outcome(examine(&two)), 1);
        let mut pointer = query(7, "site.org", 1);
        pointer[HEADER_BYTES] = 0xc0;
        assert_eq!(outcome(examine(&pointer)), 1);
        let mut answer = query(7, "site.org", 1);
        answer[2] = IS_ANSWER;
        assert_eq!(examine(&answer), Verdict::Ignore);
        let long = vec!["a".repeat(60); 5].join(".");
        assert_eq!(outcome(examine(&query(7, &long, 1))), 1);
    }

    #[test]
    fn a_foreign_answer_is_not_accepted() {
        let asked = forwarded(&query(7, "site.org", 1));
        let number = [0xab, 0xcd];
        let mut good = asked.with_number(number);
        good[2] |= IS_ANSWER;
        assert!(asked.is_answered_by(number, &good));
        assert!(!asked.is_answered_by([0xab, 0xce], &good));
        let mut other_case = good.clone();
        other_case[13] = b'S';
        assert!(asked.is_answered_by(number, &other_case));
        for (position, value) in [(2, 1), (13, b'q'), (22, 28), (5, 0), (5, 2)] {
            let mut bad = good.clone();
            bad[position] = value;
            assert!(!asked.is_answered_by(number, &bad), "{position}");
        }
        assert!(!asked.is_answered_by(number, &good[..good.len() - 1]));
        let refused = [0xab, 0xcd, 0x81, 0x85, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(asked.is_answered_by(number, &refused));
        let empty = [0xab, 0xcd, 0x81, 0x80, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(!asked.is_answered_by(number, &empty));
    }

    #[test]
    fn failures_keep_number_and_question() {
        let packet = query(0x1234, "site.org", 1);
        let failed = forwarded(&packet).failed(Failure::Server);
        assert_eq!(failed[..6], [0x12, 0x34, 0x81, 0x82, 0, 1]);
        assert_eq!(failed[HEADER_BYTES..], packet[HEADER_BYTES..]);
    }

    proptest! {
        #[test]
        fn hostile_packets_are_survived(packet in prop::collection::vec(any::<u8>(), 0..600), answer in prop::collection::vec(any::<u8>(), 0..600)) {
            match examine(&packet) {
                Verdict::Forward(query) => {
                    prop_assert!(query.question_end <= packet.len());
                    let _ = query.is_answered_by([packet[0], packet[1]], &answer);
                    let _ = query.failed(Failure::Server);
                }
                Verdict::Answer(bytes) => prop_assert!(bytes.len() <= packet.len()),
                Verdict::Ignore => {}
            }
        }

        #[test]
        fn damaged_queries_are_survived(name in "[a-z]{1,20}(\\.[a-z]{1,20}){0,3}", cut: prop::sample::Index, at: prop::sample::Index, value: u8) {
            let mut packet = query(1, &name, 1);
            let at = at.index(packet.len());
            packet[at] = value;
            packet.truncate(cut.index(packet.len() + 1));
            if let Verdict::Forward(asked) = examine(&packet) {
                let mut echoed = asked.with_number([9, 9]);
                echoed[2] |= IS_ANSWER;
                prop_assert!(asked.is_answered_by([9, 9], &echoed));
                prop_assert_eq!(&asked.answer(&echoed)[..2], &packet[..2]);
            }
        }
    }
}
