//! What is made is removed, what is removed by others comes back, and how long it takes.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::lab::{Lab, Namespace, eventually, in_lab, links, nft};
use crate::network::{
    DnsForwarder, NetworkConfig, NetworkError, bind_dns, capability, conntrack, disconnect,
    findings, prepare, reconcile, release, remove_all,
};

fn elements() -> Vec<String> {
    let sources = crate::network::filter::Elements::open()
        .unwrap()
        .list()
        .unwrap();
    sources
        .into_iter()
        .map(|source| format!("{} {}", source.link, source.address))
        .collect()
}

#[test]
fn an_ended_sandbox_leaves_nothing_on_the_host() {
    in_lab(
        "lifecycle::an_ended_sandbox_leaves_nothing_on_the_host",
        |lab| {
            let sandbox = lab.sandbox(6);
            assert_eq!(elements(), ["sbx6 10.231.0.13"]);
            assert!(nft("list set inet sandboxai sources").contains("\"sbx6\" . 10.231.0.13"));
            let target: SocketAddr = "93.184.216.34:80".parse().unwrap();
            let held = sandbox
                .namespace
                .run(|| TcpStream::connect(target).unwrap());
            disconnect(&lab.config, 6).unwrap();
            assert_eq!(elements(), [""; 0]);
            // Still alive, but cut off.
            assert!(sandbox.tcp("93.184.216.34:80").is_err());
            disconnect(&lab.config, 6).unwrap();
            // Its end is heard by nobody: the host goes on thinking that it is open.
            drop(held);
            drop(sandbox.sockets);
            sandbox.namespace.end();
            eventually("removal of the link by the kernel", || {
                !links().contains(&"sbx6".to_owned())
            });
            assert!(nft("list set inet sandboxai connections").contains("10.231.0.13"));
            release(&lab.config, 6).unwrap();
            assert!(!nft("list set inet sandboxai connections").contains("10.231.0.13"));
            let count =
                std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap();
            assert_eq!(count.trim(), "0");
            remove_all(&lab.config).unwrap();
            assert_eq!(nft("list tables"), "");
            release(&lab.config, 6).unwrap();
            reconcile(&lab.config, &[]).unwrap();
        },
    );
}

#[test]
fn a_link_that_stays_is_deleted() {
    in_lab("lifecycle::a_link_that_stays_is_deleted", |lab| {
        let sandbox = lab.sandbox(6);
        release(&lab.config, 6).unwrap();
        assert!(!links().contains(&"sbx6".to_owned()));
        // A former link in the way of a new sandbox with the same number.
        let former = lab.sandbox(7);
        let next = lab.sandbox(7);
        next.tcp("93.184.216.34:80").unwrap();
        drop((sandbox, former));
    });
}

#[test]
fn setting_up_again_does_not_disturb_running_sandboxes() {
    in_lab(
        "lifecycle::setting_up_again_does_not_disturb_running_sandboxes",
        |lab| {
            prepare(&lab.config).unwrap();
            let sandbox = lab.sandbox(1);
            let target: SocketAddr = "93.184.216.34:80".parse().unwrap();
            let mut stream = sandbox
                .namespace
                .run(|| TcpStream::connect(target).unwrap());
            stream
                .set_read_timeout(Some(Duration::from_secs(2)))
                .unwrap();
            assert!(stream.read(&mut [0; 64]).unwrap() > 0);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| prepare(&lab.config).unwrap());
                }
            });
            // Another server with a pool of its own.
            let other = NetworkConfig {
                pool: "10.77.0.0/24".parse().unwrap(),
                ..lab.config.clone()
            };
            prepare(&other).unwrap();
            let foreign = lab.sandbox_with(&other, sandbox::NetworkMode::Open, 2);
            foreign.tcp("93.184.216.34:80").unwrap();
            prepare(&other).unwrap();
            foreign.tcp("93.184.216.34:80").unwrap();
            assert!(foreign.tcp(&format!("{}:80", sandbox.address)).is_err());
            sandbox.tcp("93.184.216.34:80").unwrap();
            // The server ends the stream in answer to this byte: it went both ways.
            stream.write_all(b"x").unwrap();
            assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0);
            remove_all(&lab.config).unwrap();
            assert_eq!(elements().len(), 2, "a table in use stays");
        },
    );
}

#[test]
fn a_tightened_configuration_cuts_open_connections() {
    in_lab(
        "lifecycle::a_tightened_configuration_cuts_open_connections",
        |lab| {
            let sandbox = lab.sandbox(1);
            let target: SocketAddr = "93.184.216.34:80".parse().unwrap();
            let mut stream = sandbox
                .namespace
                .run(|| TcpStream::connect(target).unwrap());
            stream
                .set_read_timeout(Some(Duration::from_secs(2)))
                .unwrap();
            assert!(stream.read(&mut [0; 64]).unwrap() > 0);
            let mut tight = lab.config.clone();
            tight.never.push("93.184.216.0/24".parse().unwrap());
            prepare(&tight).unwrap();
            stream.write_all(b"x").unwrap();
            assert!(stream.read(&mut [0; 64]).is_err());
            prepare(&lab.config).unwrap();
            sandbox.tcp("93.184.216.34:80").unwrap();
        },
    );
}

#[test]
fn reconciling_removes_strangers_and_restores_what_was_flushed() {
    in_lab(
        "lifecycle::reconciling_removes_strangers_and_restores_what_was_flushed",
        |lab| {
            let (kept, _gone) = (lab.sandbox(1), lab.sandbox(2));
            reconcile(&lab.config, &[1]).unwrap();
            assert_eq!(elements(), ["sbx1 10.231.0.3"]);
            assert!(!links().contains(&"sbx2".to_owned()));
            nft("flush ruleset");
            assert!(kept.tcp("93.184.216.34:80").is_err());
            reconcile(&lab.config, &[1]).unwrap();
            assert_eq!(elements(), ["sbx1 10.231.0.3"]);
            kept.tcp("93.184.216.34:80").unwrap();
            // A new sandbox alone restores the rules as well.
            nft("flush ruleset");
            lab.sandbox(3).tcp("93.184.216.34:80").unwrap();
        },
    );
}

#[test]
fn other_connections_of_the_host_are_remembered() {
    in_lab(
        "lifecycle::other_connections_of_the_host_are_remembered",
        |lab| {
            let (one, other) = (lab.sandbox(1), lab.sandbox(2));
            one.tcp("93.184.216.34:80").unwrap();
            other.tcp("8.8.8.8:80").unwrap();
            let count =
                || std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap();
            assert_eq!(count().trim(), "2");
            conntrack::forget(one.address).unwrap();
            assert_eq!(count().trim(), "1");
            conntrack::forget(one.address).unwrap();
            conntrack::forget(other.address).unwrap();
            assert_eq!(count().trim(), "0");
        },
    );
}

#[test]
fn names_are_resolved_through_a_resolver_that_the_sandbox_cannot_reach() {
    in_lab(
        "lifecycle::names_are_resolved_through_a_resolver_that_the_sandbox_cannot_reach",
        |lab| {
            let mut sandbox = lab.sandbox(1);
            let config = NetworkConfig {
                resolvers: vec!["10.1.2.3:53".parse().unwrap()],
                ..lab.config.clone()
            };
            assert!(sandbox.udp("10.1.2.3:53").is_err());
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04pypi\x03org\x00\x00\x01\x00\x01";
            let ask = |sandbox: &super::Sandbox| {
                sandbox.namespace.run(|| {
                    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                    socket
                        .set_read_timeout(Some(Duration::from_secs(2)))
                        .unwrap();
                    socket.send_to(query, "127.0.0.53:53").unwrap();
                    let mut answer = [0; 128];
                    socket
                        .recv(&mut answer)
                        .map(|length| answer[..length].to_vec())
                })
            };
            let forward = |sockets| {
                let _inside = runtime.enter();
                DnsForwarder::spawn(sockets, &config).unwrap()
            };
            let forwarder = forward(sandbox.sockets.take().unwrap());
            let answer = ask(&sandbox).unwrap();
            assert_eq!(answer[..2], [0x12, 0x34]);
            assert!(
                answer.ends_with(b"198.51.100.2"),
                "asked by the host itself"
            );
            assert!(matches!(
                bind_dns(sandbox.namespace.as_fd()),
                Err(NetworkError::Bind { .. })
            ));
            drop(forwarder);
            eventually("adoption", || bind_dns(sandbox.namespace.as_fd()).is_ok());
            let _forwarder = forward(bind_dns(sandbox.namespace.as_fd()).unwrap());
            ask(&sandbox).unwrap();
        },
    );
}

#[test]
fn the_host_is_judged() {
    in_lab("lifecycle::the_host_is_judged", |lab| {
        capability().unwrap();
        assert_eq!(findings().len(), 1, "forwarding is off: {:?}", findings());
        prepare(&lab.config).unwrap();
        assert_eq!(findings(), [""; 0]);
        nft("add table ip filter");
        nft("add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }");
        assert!(findings()[0].contains("chain ip filter FORWARD drops"));
        // With the host's end of a sandbox's link, which does not count, and without.
        let _sandbox = lab.sandbox(1);
        prepare(&lab.config).unwrap();
        super::ip("addr add 10.231.7.7/32 dev lo");
        let error = prepare(&lab.config).unwrap_err().to_string();
        assert!(
            error.contains("10.231.7.7") && error.contains("another pool"),
            "{error}"
        );
    });
}

#[test]
fn setting_up_a_link_is_quick() {
    in_lab("lifecycle::setting_up_a_link_is_quick", |lab: &Lab| {
        const ROUNDS: u32 = 60;
        prepare(&lab.config).unwrap();
        let (mut connecting, mut disconnecting) = (Vec::new(), Vec::new());
        let mut first_connections = Vec::new();
        let target: SocketAddr = "93.184.216.34:80".parse().unwrap();
        for slot in 0..ROUNDS {
            let namespace = Namespace::new();
            let started = Instant::now();
            let sockets = crate::network::connect(
                &lab.config,
                sandbox::NetworkMode::Open,
                slot,
                1,
                namespace.as_fd(),
            );
            connecting.push(started.elapsed());
            drop(sockets.unwrap());
            let started = Instant::now();
            namespace.run(|| super::greeting(target).unwrap());
            first_connections.push(started.elapsed());
            namespace.end();
            let started = Instant::now();
            disconnect(&lab.config, slot).unwrap();
            disconnecting.push(started.elapsed());
        }
        for (what, times) in [
            ("connect", &mut connecting),
            ("disconnect", &mut disconnecting),
            ("first connection", &mut first_connections),
        ] {
            times.sort_unstable();
            println!(
                "{what}: p50 {:?}, p90 {:?}, min {:?}, max {:?}",
                times[30], times[54], times[0], times[59]
            );
        }
        assert!(
            connecting[30] < Duration::from_millis(25),
            "moving a link would take longer"
        );
        assert!(
            first_connections[54] < Duration::from_millis(700),
            "a packet was lost on the new link and repeated after a second"
        );
        assert!(lab.path("network.lock").exists());
    });
}
