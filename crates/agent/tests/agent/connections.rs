//! Connections, frames and limits.

use std::{io::Write, time::Duration};

use agent_protocol::{
    FailureKind, Reply, Request, VERSION,
    frame::{FrameKind, Header},
};

use crate::client::{Agent, Client, Frame, eventually, shell};

fn is_closed(client: &mut Client) -> bool {
    client.try_receive().is_err()
}

#[test]
fn ping_is_answered_with_the_version() {
    let agent = Agent::start();
    let Reply::Pong {
        version,
        workdir,
        home,
    } = agent.connect().ask(&Request::Ping)
    else {
        panic!("no pong")
    };
    assert_eq!(version, VERSION);
    assert_eq!(std::path::Path::new(&workdir), agent.workdir());
    assert!(home.starts_with('/'));
}

#[test]
fn bytes_that_are_no_frames_close_the_connection_only() {
    let agent = Agent::start();
    let mut other = agent.connect();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 64],
        &[0, 0, 0, 0, 9],
    ] {
        let mut client = agent.connect();
        // The agent may close before it has taken all of it.
        let _ = client.stream.write_all(bytes);
        assert!(is_closed(&mut client), "{bytes:?}");
    }
    // Only the server's kinds are accepted.
    let mut client = agent.connect();
    let _ = client.send_frame(FrameKind::Output, b"x");
    assert!(is_closed(&mut client));
    assert!(matches!(
        other.ask(&Request::Ping),
        Reply::Pong {
            version: VERSION,
            ..
        }
    ));
}

#[test]
fn a_request_of_a_newer_server_is_refused_in_words() {
    let agent = Agent::start();
    let mut client = agent.connect();
    client
        .send_frame(FrameKind::Message, br#"{"op":"dance"}"#)
        .unwrap();
    let Frame::Reply(Reply::Failed(failure)) = client.receive() else {
        panic!("no failure")
    };
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    assert!(failure.message.contains("dance"), "{}", failure.message);
    assert!(matches!(
        client.ask(&Request::Ping),
        Reply::Pong {
            version: VERSION,
            ..
        }
    ));
}

#[test]
fn a_request_over_the_limit_is_skipped() {
    let agent = Agent::start();
    let mut client = agent.connect();
    client
        .send_frame(FrameKind::Message, &vec![b' '; 9 << 20])
        .unwrap();
    let Frame::Reply(Reply::Failed(failure)) = client.receive() else {
        panic!("no failure")
    };
    assert_eq!(failure.kind, FailureKind::LimitReached);
    assert!(matches!(
        client.ask(&Request::Ping),
        Reply::Pong {
            version: VERSION,
            ..
        }
    ));
}

#[test]
fn a_request_in_small_pieces_is_understood() {
    let agent = Agent::start();
    let mut client = agent.connect();
    let payload = br#"{"op":"ping"}"#;
    let mut bytes = Header::encode(FrameKind::Message, payload.len()).to_vec();
    bytes.extend(payload);
    for byte in bytes {
        client.stream.write_all(&[byte]).unwrap();
        std::thread::park_timeout(Duration::from_millis(2));
    }
    assert!(matches!(client.receive(), Frame::Reply(Reply::Pong { .. })));
}

#[test]
fn idle_connections_cost_no_threads_and_are_limited() {
    let agent = Agent::start();
    let mut clients: Vec<Client> = (0..256).map(|_| agent.connect()).collect();
    for client in &mut clients {
        assert!(matches!(
            client.ask(&Request::Ping),
            Reply::Pong {
                version: VERSION,
                ..
            }
        ));
    }
    assert!(agent.status("Threads") <= 5, "{}", agent.status("Threads"));
    let mut one_more = agent.connect();
    let Frame::Reply(Reply::Failed(failure)) = one_more.receive() else {
        panic!("accepted")
    };
    assert_eq!(failure.kind, FailureKind::LimitReached);
    assert!(is_closed(&mut one_more));
    clients.pop();
    eventually("a place is free again", || {
        let mut client = agent.connect();
        client.send(&Request::Ping);
        matches!(client.try_receive(), Ok(Frame::Reply(Reply::Pong { .. })))
    });
}

#[test]
fn requests_beyond_the_threads_are_refused_but_short_ones_still_work() {
    let agent = Agent::start();
    let mut busy = Vec::new();
    let refused = loop {
        let mut client = agent.connect();
        client.send(&Request::Exec(shell("echo started; sleep 30")));
        match client.receive() {
            Frame::Output(_) => busy.push(client),
            Frame::Reply(Reply::Failed(failure)) => break failure,
            other => panic!("{other:?}"),
        }
        assert!(busy.len() < 100, "no limit");
    };
    assert_eq!(refused.kind, FailureKind::LimitReached);
    assert_eq!(busy.len(), 48);
    let mut client = agent.connect();
    assert!(matches!(
        client.ask(&Request::Ping),
        Reply::Pong {
            version: VERSION,
            ..
        }
    ));
    busy.truncate(40);
    eventually("there is room again", || client.run(&shell("true")).is_ok());
    drop(busy);
    eventually("the threads have ended", || agent.status("Threads") <= 5);
}
