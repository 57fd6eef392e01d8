//! What sandboxes reach and what they do not, proved in a laboratory.

mod lab;
mod lifecycle;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, socket, sockopt};
use sandbox::NetworkMode;

use lab::{HOST_PRIVATE, HOST_PUBLIC, Sandbox, greeting, in_lab, ip, links, serve};

/// A refusal must come at once, not by running into the program's own deadline.
const AT_ONCE: Duration = Duration::from_millis(700);

fn assert_refused<T: std::fmt::Debug>(what: &str, attempt: impl FnOnce() -> io::Result<T>) {
    let started = Instant::now();
    let result = attempt();
    let elapsed = started.elapsed();
    let error = result.expect_err(what);
    assert!(elapsed < AT_ONCE, "{what}: {error} after {elapsed:?}");
}

#[test]
fn public_addresses_are_reached_under_the_hosts_address() {
    in_lab(
        "public_addresses_are_reached_under_the_hosts_address",
        |lab| {
            let sandbox = lab.sandbox(3);
            for address in [
                "93.184.216.34:80",
                "8.8.8.8:53",
                "192.0.2.10:80",
                "203.0.113.80:80",
            ] {
                assert_eq!(
                    sandbox.tcp(address).unwrap(),
                    HOST_PUBLIC.to_string(),
                    "{address}"
                );
                assert_eq!(
                    sandbox.udp(address).unwrap(),
                    HOST_PUBLIC.to_string(),
                    "{address}"
                );
            }
            let echo = sandbox.namespace.run(|| ping([93, 184, 216, 34].into()));
            assert_eq!(echo.unwrap(), 0, "echo reply");
        },
    );
}

#[test]
fn private_and_metadata_addresses_are_refused_at_once() {
    in_lab(
        "private_and_metadata_addresses_are_refused_at_once",
        |lab| {
            let sandbox = lab.sandbox(3);
            for address in [
                "169.254.169.254",
                "100.100.100.200",
                "168.63.129.16",
                "10.1.2.3",
                "172.20.0.9",
                "192.168.1.1",
                "198.18.0.1",
                "192.0.0.8",
                "0.1.2.3",
                "10.231.99.1",
            ] {
                assert_refused(address, || sandbox.tcp(&format!("{address}:80")));
            }
            // Refusals of datagrams are messages of which the kernel sends six in a row.
            for address in ["169.254.169.254:53", "10.1.2.3:53", "10.231.99.1:53"] {
                assert_refused(address, || sandbox.udp(address));
            }
            // Same ends, other spelling: an address of version 6 that means one of version 4.
            assert_refused("mapped", || sandbox.tcp("[::ffff:169.254.169.254]:80"));
            // The laboratory does answer at these addresses: the host reaches them.
            for address in ["169.254.169.254:80", "10.1.2.3:80", "168.63.129.16:80"] {
                greeting(address.parse().unwrap()).unwrap();
            }
        },
    );
}

#[test]
fn the_host_is_refused_at_all_its_addresses() {
    in_lab("the_host_is_refused_at_all_its_addresses", |lab| {
        let sandbox = lab.sandbox(3);
        let router = Ipv4Addr::from(u32::from(sandbox.address) - 1);
        serve(router, 80);
        for address in [HOST_PUBLIC, HOST_PRIVATE, router] {
            greeting((address, 80).into()).unwrap();
            assert_refused("host tcp", || sandbox.tcp(&format!("{address}:80")));
            assert_refused("host udp", || sandbox.udp(&format!("{address}:80")));
        }
        for address in [HOST_PUBLIC, HOST_PRIVATE, router] {
            let answer = sandbox.namespace.run(|| ping(address));
            assert!(
                answer.map_or(true, |kind| kind != 0),
                "echo reply of {address}"
            );
        }
    });
}

#[test]
fn sandboxes_do_not_reach_each_other_and_nobody_reaches_them() {
    in_lab(
        "sandboxes_do_not_reach_each_other_and_nobody_reaches_them",
        |lab| {
            let (one, other) = (lab.sandbox(0), lab.sandbox(32_767));
            other.namespace.run(|| serve(Ipv4Addr::UNSPECIFIED, 80));
            let address = format!("{}:80", other.address);
            other.tcp(&address).unwrap();
            assert_refused("neighbour tcp", || one.tcp(&address));
            assert_refused("neighbour udp", || one.udp(&address));
            // A local user of the host.
            assert!(greeting(address.parse().unwrap()).is_err());
            // Somebody outside who sends packets for the sandbox to the host.
            lab.internet.run(|| {
                ip(&format!("route add 10.231.0.0/16 via {HOST_PUBLIC}"));
                assert!(greeting(address.parse().unwrap()).is_err());
            });
            // Answers to what it asked for itself do come through, all the same.
            other.tcp("93.184.216.34:80").unwrap();
        },
    );
}

#[test]
fn spoofed_sources_go_nowhere() {
    in_lab("spoofed_sources_go_nowhere", |lab| {
        let (one, other) = (lab.sandbox(1), lab.sandbox(2));
        let target: SocketAddr = "93.184.216.34:999".parse().unwrap();
        let receiver = lab.internet.run(|| UdpSocket::bind(target).unwrap());
        let patience = Some(Duration::from_millis(200));
        receiver.set_read_timeout(patience).unwrap();
        let arrives_from = |source: Ipv4Addr| {
            one.namespace.run(|| {
                let socket = UdpSocket::bind((source, 0)).unwrap();
                socket.send_to(b"?", target).unwrap();
            });
            receiver.recv(&mut [0; 64]).is_ok()
        };
        // As if it had the right to give itself addresses.
        let foreign = [9, 9, 9, 9].into();
        let unused = [10, 231, 0, 200].into();
        for source in [other.address, unused, HOST_PUBLIC, foreign] {
            let command = format!("addr add {source}/32 dev eth0");
            one.namespace.run(|| ip(&command));
        }
        // With the kernel's own check of sources, and with the firewall alone.
        for check in ["1", "0"] {
            for link in ["all", "sbx1"] {
                let setting = format!("/proc/sys/net/ipv4/conf/{link}/rp_filter");
                std::fs::write(setting, check).unwrap();
            }
            assert!(arrives_from(one.address));
            for source in [other.address, unused, HOST_PUBLIC, foreign] {
                assert!(!arrives_from(source), "{source} with check {check}");
            }
        }
        lab::nft("flush chain inet sandboxai guard");
        assert!(
            arrives_from(foreign),
            "without the rule it would have worked"
        );
    });
}

#[test]
fn version_6_is_off_and_stays_blocked_if_turned_on() {
    in_lab("version_6_is_off_and_stays_blocked_if_turned_on", |lab| {
        let sandbox = lab.sandbox(5);
        let addresses = || std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
        assert_eq!(sandbox.namespace.run(addresses), "");
        assert!(!addresses().contains("sbx5"));
        assert_refused("no route", || sandbox.tcp("[2001:db8::1]:80"));
        // As if both sides had turned it on, on a host that passes it on: then the
        // firewall is the only wall.
        let set = |setting: &str, value: &str| {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{setting}"), value).unwrap();
        };
        let add =
            |address: &str, link: &str| ip(&format!("-6 addr add {address}/64 dev {link} nodad"));
        set("all/forwarding", "1");
        set("sbx5/disable_ipv6", "0");
        add("fd00:ec2::254", "sbx5");
        add("2001:db8::2", "up0");
        sandbox.namespace.run(|| {
            set("eth0/disable_ipv6", "0");
            add("fd00:ec2::1", "eth0");
            ip("-6 route add default via fd00:ec2::254");
        });
        let listener = lab.internet.run(|| {
            add("2001:db8::1", "wan0");
            ip("-6 route add fd00:ec2::/64 via 2001:db8::2");
            std::net::TcpListener::bind("[2001:db8::1]:8080").unwrap()
        });
        let attempt = |address: &str| {
            let address: SocketAddr = address.parse().unwrap();
            sandbox
                .namespace
                .run(|| TcpStream::connect_timeout(&address, AT_ONCE))
        };
        let _host = std::net::TcpListener::bind("[fd00:ec2::254]:8080").unwrap();
        assert!(attempt("[2001:db8::1]:8080").is_err());
        assert!(attempt("[fd00:ec2::254]:8080").is_err());
        lab::nft("flush table inet sandboxai");
        attempt("[2001:db8::1]:8080").expect("without the firewall it would have worked");
        drop(listener);
    });
}

#[test]
fn only_the_three_ordinary_protocols_leave() {
    in_lab("only_the_three_ordinary_protocols_leave", |lab| {
        let sandbox = lab.sandbox(4);
        // Two protocols that hosts may treat in special ways: GRE and SCTP; and kinds of
        // message of a protocol that is allowed otherwise: redirect and timestamp request.
        let redirect = [5, 1, 0xfa, 0xfe, 0, 0, 0, 0];
        let mut timestamp = [0; 20];
        timestamp[..4].copy_from_slice(&[13, 0, 0xf2, 0xff]);
        let packets: [(u32, &[u8]); 4] = [
            (47, &[0; 8]),
            (132, &[0; 8]),
            (1, &redirect),
            (1, &timestamp),
        ];
        for (protocol, body) in packets {
            let protocol = rustix::net::Protocol::from_raw(protocol.try_into().unwrap());
            let receiver = lab.internet.run(|| {
                let receiver =
                    socket(AddressFamily::INET, SocketType::RAW, Some(protocol)).unwrap();
                let patience = Some(Duration::from_millis(300));
                sockopt::set_socket_timeout(&receiver, sockopt::Timeout::Recv, patience).unwrap();
                receiver
            });
            let send = || {
                let sender = socket(AddressFamily::INET, SocketType::RAW, Some(protocol)).unwrap();
                let target = "93.184.216.34:0".parse::<SocketAddr>().unwrap();
                // A refusal by an earlier packet may be reported here.
                let _ = rustix::net::sendto(&sender, body, SendFlags::empty(), &target);
            };
            sandbox.namespace.run(send);
            let arrived = rustix::net::recv(&receiver, &mut [0; 64], RecvFlags::empty());
            assert!(arrived.is_err(), "{protocol:?}");
            // The same packet from the host arrives.
            send();
            rustix::net::recv(&receiver, &mut [0; 64], RecvFlags::empty()).unwrap();
        }
    });
}

#[test]
fn mode_none_has_loopback_and_nothing_else() {
    in_lab("mode_none_has_loopback_and_nothing_else", |lab| {
        let sandbox = lab.sandbox_with(&lab.config, NetworkMode::None, 9);
        assert!(sandbox.sockets.is_none());
        assert_eq!(sandbox.namespace.run(links), ["lo"]);
        sandbox.namespace.run(|| serve(Ipv4Addr::UNSPECIFIED, 80));
        assert_eq!(sandbox.tcp("127.0.0.1:80").unwrap(), "127.0.0.1");
        assert_refused("outside", || sandbox.tcp("93.184.216.34:80"));
        assert!(!links().contains(&"sbx9".to_owned()));
        assert_eq!(lab::nft("list tables"), "", "the host was not touched");
    });
}

#[test]
fn one_sandbox_cannot_use_up_the_hosts_connections() {
    in_lab("one_sandbox_cannot_use_up_the_hosts_connections", |lab| {
        let config = super::NetworkConfig {
            connections_max: 16,
            ..lab.config.clone()
        };
        let target: SocketAddr = "93.184.216.34:80".parse().unwrap();
        let connect_many = |sandbox: &Sandbox| {
            sandbox.namespace.run(|| {
                let attempts =
                    (0..40).map(|_| TcpStream::connect_timeout(&target, Duration::from_secs(5)));
                attempts.filter_map(Result::ok).collect::<Vec<_>>()
            })
        };
        let greedy = lab.sandbox_with(&config, NetworkMode::Open, 1);
        let other = lab.sandbox_with(&config, NetworkMode::Open, 2);
        let held = connect_many(&greedy);
        assert_eq!(held.len(), 16);
        assert_refused("one more", || greedy.tcp("93.184.216.34:80"));
        assert_eq!(connect_many(&other).len(), 16);
        // The next sandbox with the same number starts from zero, although the
        // former one vanished with its connections open.
        std::mem::drop(greedy.sockets);
        greedy.namespace.end();
        super::release(&config, 1).unwrap();
        let next = lab.sandbox_with(&config, NetworkMode::Open, 1);
        assert_eq!(connect_many(&next).len(), 16);
        drop(held);
    });
}

/// Sends an echo request and returns the type of the ICMP message that comes back.
fn ping(target: Ipv4Addr) -> io::Result<u8> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP))?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    socket.connect((target, 0))?;
    socket.send(&[8, 0, 0, 0, 0, 1, 0, 1])?;
    let mut buffer = [0; 64];
    socket.recv(&mut buffer)?;
    Ok(buffer[0])
}
