//! A laboratory made of network namespaces: a "host" that runs the functions under
//! test, and an "internet" that owns public, private and metadata addresses.
//!
//! Each test runs again in a process of its own with fresh namespaces, so that the
//! machine's real network is neither used nor changed.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, BorrowedFd},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sandbox::NetworkMode;

use crate::network::{DnsSockets, NetworkConfig, connect, link, plan};

/// Set, to the namespace outside, in the process that runs inside the laboratory.
const INSIDE: &str = "SANDBOXAI_TEST_NETWORK_LAB";
/// What the host is seen as in the internet.
pub(super) const HOST_PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// An address of the host in its local network.
pub(super) const HOST_PRIVATE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const GATEWAY: &str = "198.51.100.1";
/// Addresses that the internet answers at, on every port in [`PORTS`].
const INTERNET: [&str; 9] = [
    "93.184.216.34",
    "8.8.8.8",
    "192.0.2.10",
    "203.0.113.80",
    "169.254.169.254",
    "100.100.100.200",
    "168.63.129.16",
    "10.1.2.3",
    "172.20.0.9",
];
const PORTS: [u16; 2] = [80, 53];
const PATIENCE: Duration = Duration::from_secs(5);

/// The host and the internet.
pub(super) struct Lab {
    pub(super) config: NetworkConfig,
    pub(super) internet: Namespace,
    folder: tempfile::TempDir,
}

/// Runs `body` in a laboratory. `name` is the calling test's function.
pub(super) fn in_lab(name: &str, body: fn(&Lab)) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can make network namespaces");
        return;
    }
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    if let Some(outside) = std::env::var_os(INSIDE) {
        assert_ne!(own.as_os_str(), outside, "not in a laboratory");
        body(&Lab::new());
        return;
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", &format!("network::tests::{name}")])
        .env(INSIDE, own)
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed inside the laboratory");
}

impl Lab {
    fn new() -> Self {
        let internet = Namespace::new();
        let folder = tempfile::tempdir().unwrap();
        // New namespaces take over this setting from the machine.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        ip("link set lo up");
        ip(&format!(
            "link add up0 type veth peer name wan0 netns {}",
            internet.process.id()
        ));
        ip(&format!("addr add {HOST_PUBLIC}/24 dev up0"));
        ip(&format!("addr add {HOST_PRIVATE}/32 dev lo"));
        ip("link set up0 up");
        internet.run(|| {
            ip("link set lo up");
            ip(&format!("addr add {GATEWAY}/24 dev wan0"));
            ip("link set wan0 up");
            for address in INTERNET {
                ip(&format!("addr add {address}/32 dev lo"));
            }
            for (address, port) in INTERNET
                .iter()
                .flat_map(|address| PORTS.map(|port| (address, port)))
            {
                serve(address.parse().unwrap(), port);
            }
        });
        ip(&format!("route add default via {GATEWAY}"));
        for address in [HOST_PUBLIC, HOST_PRIVATE, Ipv4Addr::LOCALHOST] {
            serve(address, 80);
        }
        let config = NetworkConfig {
            lock_dir: folder.path().to_owned(),
            ..NetworkConfig::default()
        };
        Self {
            config,
            internet,
            folder,
        }
    }

    /// A sandbox in mode `open`.
    pub(super) fn sandbox(&self, slot: u32) -> Sandbox {
        self.sandbox_with(&self.config, NetworkMode::Open, slot)
    }

    pub(super) fn sandbox_with(
        &self,
        config: &NetworkConfig,
        mode: NetworkMode,
        slot: u32,
    ) -> Sandbox {
        let namespace = Namespace::new();
        let pid = namespace.process.id();
        let sockets = connect(config, mode, slot, pid, namespace.as_fd()).unwrap();
        Sandbox {
            address: plan::addresses(config.pool, slot).unwrap().sandbox,
            namespace,
            sockets,
        }
    }

    /// A file that nothing else uses.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A sandbox's network, without the rest of a sandbox.
pub(super) struct Sandbox {
    pub(super) address: Ipv4Addr,
    pub(super) namespace: Namespace,
    pub(super) sockets: Option<DnsSockets>,
}

impl Sandbox {
    /// Connects to `address` from inside and returns the greeting.
    pub(super) fn tcp(&self, address: &str) -> io::Result<String> {
        let address: SocketAddr = address.parse().unwrap();
        self.namespace.run(|| greeting(address))
    }

    /// Sends a datagram to `address` from inside and returns the answer.
    pub(super) fn udp(&self, address: &str) -> io::Result<String> {
        let address: SocketAddr = address.parse().unwrap();
        self.namespace.run(|| datagram(address))
    }
}

/// A network namespace, which lives as long as the process that holds it.
pub(super) struct Namespace {
    process: Child,
    file: File,
}

impl Namespace {
    pub(super) fn new() -> Self {
        let process = Command::new("unshare")
            .args(["--net", "--", "sleep", "300"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let path = format!("/proc/{}/ns/net", process.id());
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        eventually("the namespace", || {
            std::fs::read_link(&path).unwrap() != own
        });
        let file = File::open(path).unwrap();
        Self { process, file }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Runs `body` inside, in a thread of its own.
    pub(super) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                body()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Ends the process and gives up the namespace.
    pub(super) fn end(self) {}
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Greets everyone at `address` and `port` with the address that they come from, in the
/// namespace of the calling thread, until the process ends.
pub(super) fn serve(address: Ipv4Addr, port: u16) {
    let tcp = TcpListener::bind((address, port)).unwrap();
    let udp = UdpSocket::bind((address, port)).unwrap();
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            // Stays open until the client goes, so that connections can be counted.
            thread::spawn(move || {
                let _ = stream.write_all(format!("{peer}\n").as_bytes());
                let _ = stream.read(&mut [0]);
            });
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 600];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            // Looks like the answer of a resolver to a query, too.
            if length > 2 {
                buffer[2] |= 0x80;
            }
            let mut answer = buffer[..length].to_vec();
            answer.extend_from_slice(peer.ip().to_string().as_bytes());
            let _ = udp.send_to(&answer, peer);
        }
    });
}

/// Connects and returns the first line.
pub(super) fn greeting(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut buffer = [0; 64];
    let length = stream.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
}

fn datagram(address: SocketAddr) -> io::Result<String> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect(address)?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[1..length]).into_owned())
}

/// Runs `ip` in the namespace of the calling thread.
pub(super) fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Runs `nft` and returns what it says.
pub(super) fn nft(arguments: &str) -> String {
    let output = Command::new("nft")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The names of all links in the namespace of the calling thread.
pub(super) fn links() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = table
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    names.collect()
}

/// Waits until `condition` holds.
pub(super) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        link::pause(Duration::from_millis(2));
    }
}
