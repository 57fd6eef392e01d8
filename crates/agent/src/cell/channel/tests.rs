use proptest::prelude::*;

use super::*;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

fn write(driver: &OwnedFd, bytes: &[u8]) {
    assert_eq!(
        send(driver, bytes, SendFlags::NOSIGNAL).unwrap(),
        bytes.len()
    );
}

fn display(json: &str) -> Result<Message, ChannelError> {
    decode(message(b'd', format!("-{json}").as_bytes()), None)
}

#[test]
fn orders_have_the_form_the_driver_reads() {
    let (mut channel, driver) = Channel::pair().unwrap();
    channel.order(Order::Run, b"{}").unwrap();
    channel.order(Order::Acknowledge, b"").unwrap();
    let mut bytes = [0; 64];
    let (count, _) = recv(&driver, &mut bytes, RecvFlags::DONTWAIT).unwrap();
    assert_eq!(&bytes[..count], b"\x02\0\0\0r{}\0\0\0\0a");
    assert!(!channel.wants_to_send());
}

#[test]
fn a_long_order_is_sent_as_the_driver_reads() {
    let (mut channel, driver) = Channel::pair().unwrap();
    let body = vec![b'x'; 3 << 20];
    channel.order(Order::Run, &body).unwrap();
    assert!(channel.wants_to_send());
    let (mut bytes, mut received) = (vec![0; 1 << 20], 0);
    while received < body.len() + HEADER_BYTES {
        channel.flush().unwrap();
        received += recv(&driver, &mut bytes, RecvFlags::DONTWAIT).unwrap().0;
    }
    assert!(!channel.wants_to_send());
}

#[test]
fn what_the_driver_says_is_understood() {
    let (mut channel, driver) = Channel::pair().unwrap();
    assert!(channel.receive().unwrap().is_none());
    write(&driver, &message(b'r', b""));
    write(&driver, &message(b'v', br#"a{"text/plain":"1"}"#));
    write(
        &driver,
        &message(b'e', br#"{"name":"E","value":"v","traceback":["t"]}"#),
    );
    assert!(matches!(channel.receive().unwrap(), Some(Message::Ready)));
    let Some(Message::Display(display)) = channel.receive().unwrap() else {
        panic!()
    };
    assert_eq!(display.json(), br#"{"text/plain":"1"}"#);
    assert!(display.is_result && display.wants_acknowledge);
    let Some(Message::Ended(ended)) = channel.receive().unwrap() else {
        panic!()
    };
    assert_eq!(ended.name.as_deref(), Some("E"));
    assert!(channel.receive().unwrap().is_none());
    drop(driver);
    assert!(matches!(channel.receive(), Err(ChannelError::Closed)));
}

#[test]
fn only_plain_json_objects_are_displays() {
    let nested = |depth| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    for good in [
        "{}",
        r#"{"a":"[[[[{\"\\"}"#,
        r#"{"a":"\u00e9"}"#,
        &nested(JSON_DEPTH_MAX - 1),
    ] {
        assert!(display(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "[]",
        "{",
        "{}}",
        r#"{"a"}"#,
        r#"{"a":"\ud800"}"#,
        r#"{"a":"\uDfff"}"#,
        "{\"a\":\"\n\"}",
        "{\"a\":NaN}",
        &nested(JSON_DEPTH_MAX),
        &nested(1_000_000),
    ] {
        let start = &bad[..bad.len().min(20)];
        assert!(
            matches!(display(bad), Err(ChannelError::Malformed)),
            "{start}"
        );
    }
    assert!(decode(message(b'd', b"-{\"\xff\":1}"), None).is_err());
    assert!(decode(message(b'd', b"{}"), None).is_err());
    assert!(decode(message(b'd', b""), None).is_err());
}

#[test]
fn one_large_message_is_in_memory_at_a_time() {
    let mut first = Channel::pair().unwrap();
    let mut second = Channel::pair().unwrap();
    let length = u32::try_from(LARGE_BYTES + 1).unwrap().to_le_bytes();
    for (channel, driver) in [&mut first, &mut second] {
        write(driver, &length);
        write(driver, b"f");
        assert!(channel.receive().unwrap().is_none());
    }
    assert!(!first.0.is_blocked());
    assert!(second.0.is_blocked());
    drop(first);
    assert!(second.0.receive().unwrap().is_none());
    assert!(!second.0.is_blocked());
}

#[test]
fn an_announcement_over_the_limit_ends_the_channel() {
    let (mut channel, driver) = Channel::pair().unwrap();
    write(&driver, &[0xff, 0xff, 0xff, 0x7f, b'd']);
    assert!(matches!(channel.receive(), Err(ChannelError::TooLong(_))));
}

proptest! {
    #[test]
    fn any_bytes_are_messages_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (mut channel, driver) = Channel::pair().unwrap();
        write(&driver, &bytes);
        drop(driver);
        // Each message takes at least a header, so it comes to an end.
        for _ in 0..=bytes.len() {
            match channel.receive() {
                Ok(Some(_)) => {}
                Ok(None) => prop_assert!(channel.is_blocked()),
                Err(_) => return Ok(()),
            }
            if channel.is_blocked() {
                return Ok(());
            }
        }
        prop_assert!(false, "it did not come to an end");
    }

    #[test]
    fn pieces_make_the_same_messages(
        texts in prop::collection::vec("[a-z\u{e9}\"]{0,20}", 1..8),
        piece in 1_usize..40,
    ) {
        let (mut channel, driver) = Channel::pair().unwrap();
        let bytes: Vec<u8> = texts.iter().flat_map(|text| message(b'f', text.as_bytes())).collect();
        let mut received = Vec::new();
        for piece in bytes.chunks(piece) {
            write(&driver, piece);
            while let Some(message) = channel.receive().unwrap() {
                let Message::Failed(text) = message else { panic!("{message:?}") };
                received.push(text);
            }
        }
        prop_assert_eq!(received, texts);
    }
}
