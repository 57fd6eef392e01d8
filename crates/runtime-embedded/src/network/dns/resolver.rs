//! Who answers: the configured resolvers, or those of the host.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use tokio::{io::AsyncReadExt as _, sync::Mutex, time::Instant};

/// The host's own list.
const HOST_FILE: &str = "/etc/resolv.conf";
/// How long a list is good before the file is read again.
const FRESH: Duration = Duration::from_secs(5);
/// How much of the file is read.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// How many entries count, as in the C library.
const RESOLVERS_MAX: usize = 3;
/// The port of name services.
const PORT: u16 = 53;

/// Where the list comes from.
#[derive(Debug)]
pub(super) enum Resolvers {
    /// The configuration.
    Fixed(Vec<SocketAddr>),
    /// A file of the host's, read again as time passes.
    File {
        /// Its path.
        path: PathBuf,
        /// What was read, and when.
        read: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
    },
}

impl Resolvers {
    /// The configured ones, or the host's when there are none.
    pub(super) fn new(configured: &[SocketAddr]) -> Self {
        if configured.is_empty() {
            Self::in_file(HOST_FILE.into())
        } else {
            Self::Fixed(configured.to_vec())
        }
    }

    /// Those listed in a file of the form of `/etc/resolv.conf`.
    pub(super) fn in_file(path: PathBuf) -> Self {
        Self::File {
            path,
            read: Mutex::new(None),
        }
    }

    /// The list as it is now; never empty.
    pub(super) async fn current(&self) -> Vec<SocketAddr> {
        self.at(Instant::now()).await
    }

    async fn at(&self, now: Instant) -> Vec<SocketAddr> {
        let (path, read) = match self {
            Self::Fixed(list) => return list.clone(),
            Self::File { path, read } => (path, read),
        };
        let mut read = read.lock().await;
        if let Some((at, list)) = &*read
            && now.saturating_duration_since(*at) < FRESH
        {
            return list.clone();
        }
        let mut text = Vec::new();
        let result = match tokio::fs::File::open(path).await {
            Ok(file) => file.take(FILE_BYTES_MAX).read_to_end(&mut text).await,
            Err(error) => Err(error),
        };
        let list = match (result, read.take()) {
            (Ok(_), _) => parse(&String::from_utf8_lossy(&text)),
            // While the file is being replaced, the last list is the best there is.
            (Err(_), Some((_, list))) => list,
            (Err(_), None) => parse(""),
        };
        read.insert((now, list)).1.clone()
    }
}

/// The configured resolvers, or those of the host as they are now; never empty.
pub(in crate::network) fn now(configured: &[SocketAddr]) -> Vec<SocketAddr> {
    if !configured.is_empty() {
        return configured.to_vec();
    }
    let mut text = Vec::new();
    let read = std::fs::File::open(HOST_FILE).and_then(|file| {
        std::io::Read::read_to_end(&mut std::io::Read::take(file, FILE_BYTES_MAX), &mut text)
    });
    match read {
        Ok(_) => parse(&String::from_utf8_lossy(&text)),
        Err(_) => parse(""),
    }
}

/// The resolvers in the text of `/etc/resolv.conf`, or the host itself, as in the C library.
fn parse(text: &str) -> Vec<SocketAddr> {
    let mut list: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            // An address with a zone, as fe80::1%eth0, is skipped: it does not parse.
            let address: IpAddr = match (words.next()?, words.next()?) {
                ("nameserver", address) => address.parse().ok()?,
                _ => return None,
            };
            Some(SocketAddr::new(address, PORT))
        })
        .take(RESOLVERS_MAX)
        .collect();
    if list.is_empty() {
        list.push(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
    }
    list
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hosts_file_is_understood() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 x\nnameserver fe80::1%eth0\nnameserver\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let list: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(list, ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53"]);
        assert_eq!(parse(""), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_changed_file_is_noticed_and_a_missing_one_survived() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let resolvers = Resolvers::in_file(path.clone());
        let start = Instant::now();
        assert_eq!(resolvers.at(start).await, parse(""));
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(resolvers.at(start).await, parse(""));
        let expected = parse("nameserver 192.0.2.1");
        assert_eq!(resolvers.at(start + FRESH).await, expected);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(resolvers.at(start + 2 * FRESH).await, expected);
    }

    proptest! {
        #[test]
        fn any_file_gives_a_short_list(text in "(nameserver [0-9a-f.:%]{0,20}|\\PC{0,30}|\n){0,20}") {
            let count = parse(&text).len();
            prop_assert!((1..=RESOLVERS_MAX).contains(&count));
        }
    }
}
