use super::*;
use proptest::prelude::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

fn pair() -> (Connection, OwnedFd) {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    (Connection::new(ours).unwrap(), theirs)
}

fn frame(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
    [&Header::encode(kind, payload.len()), payload].concat()
}

/// Everything that is there, until there is nothing or the end.
fn take_input(connection: &mut Connection, piece: usize) -> (Vec<u8>, bool) {
    let (mut taken, mut buffer) = (Vec::new(), vec![0; piece]);
    loop {
        match connection.next_input(&mut buffer, Wait::No).unwrap() {
            Input::Bytes(count) => taken.extend(&buffer[..count]),
            Input::End => return (taken, true),
            Input::Later => return (taken, false),
        }
    }
}

#[test]
fn what_a_request_leaves_of_its_input_is_skipped() {
    let (mut connection, server) = pair();
    let mut sent = frame(FrameKind::Input, &[b'x'; 10_000]);
    sent.extend(frame(FrameKind::Input, b"more"));
    sent.extend(frame(FrameKind::InputEnd, b""));
    sent.extend(frame(FrameKind::Message, br#"{"op":"ping"}"#));
    send(&server, &sent, SendFlags::empty()).unwrap();
    let mut buffer = [0; 100];
    let taken = connection.next_input(&mut buffer, Wait::Yes).unwrap();
    assert_eq!(taken, Input::Bytes(100));
    assert!(matches!(
        connection.next_request().unwrap(),
        Received::Request(Request::Ping)
    ));
    assert!(matches!(
        connection.next_request().unwrap(),
        Received::Nothing
    ));
    drop(server);
    assert!(matches!(
        connection.next_request().unwrap(),
        Received::Closed
    ));
}

#[test]
fn a_frame_that_breaks_off_ends_the_connection() {
    for bytes in [&[1, 2][..], &frame(FrameKind::Message, b"{}")[..6]] {
        let (mut connection, server) = pair();
        send(&server, bytes, SendFlags::empty()).unwrap();
        drop(server);
        // A broken header is seen as one only when the rest does not come.
        let result = loop {
            match connection.next_request() {
                Ok(Received::Nothing) => {}
                result => break result,
            }
        };
        assert!(!matches!(result, Ok(Received::Request(_))), "{result:?}");
    }
}

proptest! {
    #[test]
    fn input_arrives_whole_however_it_is_cut(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
        cut in 1_usize..30,
        piece in 1_usize..30,
    ) {
        let (mut connection, server) = pair();
        let mut sent: Vec<u8> = payloads.iter().flat_map(|p| frame(FrameKind::Input, p)).collect();
        sent.extend(frame(FrameKind::InputEnd, b""));
        let (mut taken, mut ended) = (Vec::new(), false);
        for part in sent.chunks(cut) {
            prop_assert!(!ended);
            send(&server, part, SendFlags::empty()).unwrap();
            let (bytes, end) = take_input(&mut connection, piece);
            taken.extend(bytes);
            ended = end;
        }
        prop_assert!(ended);
        prop_assert_eq!(taken, payloads.concat());
    }

    #[test]
    fn any_bytes_are_requests_or_errors_and_never_too_much(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let (mut connection, server) = pair();
        send(&server, &bytes, SendFlags::empty()).unwrap();
        drop(server);
        // Each call takes bytes or ends it.
        for _ in 0..=bytes.len() {
            match connection.next_request() {
                Ok(Received::Closed) | Err(_) => return Ok(()),
                Ok(_) => {}
            }
        }
        prop_assert!(false, "never ends");
    }
}
