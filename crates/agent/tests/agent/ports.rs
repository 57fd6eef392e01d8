//! Connections to ports.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use agent_protocol::{FailureKind, Reply, Request};

use crate::client::{Agent, eventually};

/// A port of the machine that runs the test.
fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn connect(agent: &Agent, port: u16) -> UnixStream {
    let mut client = agent.connect();
    assert_eq!(client.ask(&Request::ConnectPort { port }), Reply::Connected);
    client.stream
}

fn joined(agent: &Agent) -> (UnixStream, TcpStream) {
    let (listener, port) = listen();
    let client = connect(agent, port);
    let service = listener.accept().unwrap().0;
    service
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    (client, service)
}

#[test]
fn bytes_go_both_ways_and_each_way_ends_alone() {
    let agent = Agent::start();
    let (mut client, mut service) = joined(&agent);
    client.write_all(b"\x00\xffquestion").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut asked = Vec::new();
    service.read_to_end(&mut asked).unwrap();
    assert_eq!(asked, b"\x00\xffquestion");
    service.write_all(b"answer").unwrap();
    drop(service);
    let mut answered = Vec::new();
    client.read_to_end(&mut answered).unwrap();
    assert_eq!(answered, b"answer");
}

#[test]
fn much_data_goes_both_ways_at_once() {
    const BYTES: usize = 32 << 20;
    let agent = Agent::start();
    let (client, service) = joined(&agent);
    let pattern: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
    let exchange = |mut to: Box<dyn Write + Send>, mut from: Box<dyn Read + Send>| {
        let sent = pattern.clone();
        let writer = std::thread::spawn(move || to.write_all(&sent).unwrap());
        let expected = pattern.clone();
        let reader = std::thread::spawn(move || {
            let mut received = vec![0; BYTES];
            from.read_exact(&mut received).unwrap();
            assert!(received == expected);
        });
        [writer, reader]
    };
    let threads = [
        exchange(
            Box::new(client.try_clone().unwrap()),
            Box::new(client.try_clone().unwrap()),
        ),
        exchange(
            Box::new(service.try_clone().unwrap()),
            Box::new(service.try_clone().unwrap()),
        ),
    ];
    for thread in threads.into_iter().flatten() {
        thread.join().unwrap();
    }
}

#[test]
fn who_does_not_read_holds_up_nobody_else_and_takes_little_memory() {
    let agent = Agent::start();
    let (mut lazy, mut flooding) = joined(&agent);
    flooding
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    while flooding.write(&[7; 64 << 10]).is_ok() {}
    let (mut client, mut service) = joined(&agent);
    client.write_all(b"x").unwrap();
    service.read_exact(&mut [0]).unwrap();
    assert!(agent.status("VmRSS") < 16 << 10);
    let mut piece = [0; 4096];
    lazy.read_exact(&mut piece).unwrap();
    assert_eq!(piece, [7; 4096]);
}

#[test]
fn two_hundred_connections_are_served_beside_other_requests() {
    let agent = Agent::start();
    let (listener, port) = listen();
    let mut pairs: Vec<_> = (0..200)
        .map(|_| (connect(&agent, port), listener.accept().unwrap().0))
        .collect();
    for (number, (client, _)) in (0..).zip(&mut pairs) {
        client.write_all(&[number]).unwrap();
    }
    for (number, (_, service)) in (0_u8..).zip(&mut pairs) {
        let mut byte = [0];
        service.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [number]);
        service.write_all(&byte).unwrap();
    }
    for (client, _) in &mut pairs {
        client.read_exact(&mut [0]).unwrap();
    }
    assert_eq!(agent.shell("echo fine").text(), "fine\n");
    assert!(agent.status("Threads") < 10);
    // Quiet connections must not make anybody turn in circles.
    let before = agent.cpu_ticks();
    std::thread::park_timeout(Duration::from_millis(300));
    assert!(agent.cpu_ticks() - before < 10);
    drop(pairs);
    eventually("the thread has gone", || agent.status("Threads") < 6);
}

#[test]
fn a_side_that_vanishes_takes_the_other_along() {
    let agent = Agent::start();
    let (client, mut service) = joined(&agent);
    drop(client);
    assert_eq!(service.read(&mut [0]).unwrap(), 0);
    eventually("the agent has closed it", || {
        service.write_all(b"x").is_err()
    });
    // A reset, because something was not read.
    let (mut client, service) = joined(&agent);
    client.write_all(b"unread").unwrap();
    std::thread::park_timeout(Duration::from_millis(50));
    drop(service);
    eventually("the client hears of it", || client.write_all(b"x").is_err());
}

#[test]
fn nobody_there_is_told_at_once_and_the_connection_serves_on() {
    let agent = Agent::start();
    let (listener, port) = listen();
    drop(listener);
    let mut client = agent.connect();
    let begun = Instant::now();
    let failure = client.ask_failing(&Request::ConnectPort { port });
    assert_eq!(failure.kind, FailureKind::NotFound);
    assert!(failure.message.contains(&port.to_string()));
    assert!(begun.elapsed() < Duration::from_secs(2));
    let failure = client.ask_failing(&Request::ConnectPort { port: 0 });
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    assert!(matches!(client.ask(&Request::Ping), Reply::Pong { .. }));
}

#[test]
fn a_port_of_ipv6_alone_is_found() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        // A machine without IPv6 has nothing to find.
        return;
    };
    let agent = Agent::start();
    let mut client = connect(&agent, listener.local_addr().unwrap().port());
    let mut service = listener.accept().unwrap().0;
    client.write_all(b"6").unwrap();
    service.read_exact(&mut [0]).unwrap();
}
