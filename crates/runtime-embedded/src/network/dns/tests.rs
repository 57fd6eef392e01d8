//! The forwarder against resolvers on loopback, good and hostile.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

use super::{DnsForwarder, DnsSockets, IN_FLIGHT_MAX, message::tests::query, resolver::Resolvers};

const SOON: Duration = Duration::from_secs(10);

/// What a test resolver does with a query; the number and the question are there already.
type Reply = fn(&mut Vec<u8>) -> Vec<Vec<u8>>;

fn sockets() -> (DnsSockets, SocketAddr) {
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = std::net::TcpListener::bind(address).unwrap();
    (DnsSockets { udp, tcp }, address)
}

async fn resolver(reply: Reply) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 5000];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let mut answer = buffer[..length].to_vec();
            answer[2] |= 0x80;
            for packet in reply(&mut answer) {
                socket.send_to(&packet, client).await.unwrap();
            }
        }
    });
    address
}

fn forwarder(resolvers: Vec<SocketAddr>) -> (DnsForwarder, SocketAddr) {
    let (sockets, address) = sockets();
    let forwarder = DnsForwarder::spawn_with(sockets, Resolvers::Fixed(resolvers)).unwrap();
    (forwarder, address)
}

async fn exchange(server: SocketAddr, packet: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(packet, server).await.unwrap();
    let mut buffer = [0; 5000];
    let length = timeout(SOON, socket.recv(&mut buffer)).await.ok()?.unwrap();
    Some(buffer[..length].to_vec())
}

#[tokio::test]
async fn a_query_comes_back_with_its_number_and_the_answer() {
    let upstream = resolver(|answer| {
        answer.extend_from_slice(b"answer");
        vec![answer.clone()]
    })
    .await;
    let (_forwarder, address) = forwarder(vec![upstream]);
    let packet = query(0x1234, "site.org", 1);
    let answer = exchange(address, &packet).await.unwrap();
    assert_eq!(answer[..2], [0x12, 0x34]);
    assert!(answer.ends_with(b"answer"));
}

#[tokio::test]
async fn forged_and_oversized_answers_are_passed_over() {
    let upstream = resolver(|answer| {
        let mut number = answer.clone();
        number[0] ^= 1;
        let mut question = answer.clone();
        question[13] ^= 1;
        let mut long = answer.clone();
        long.resize(4097, 0);
        answer.extend_from_slice(b"good");
        vec![vec![], vec![0; 12], number, question, long, answer.clone()]
    })
    .await;
    let (_forwarder, address) = forwarder(vec![upstream]);
    let answer = exchange(address, &query(1, "site.org", 1)).await.unwrap();
    assert!(answer.ends_with(b"good"));
}

#[tokio::test]
async fn a_silent_resolver_is_followed_by_the_next() {
    let silent = resolver(|_| vec![]).await;
    let good = resolver(|answer| vec![answer.clone()]).await;
    let (_forwarder, address) = forwarder(vec![silent, good]);
    let answer = exchange(address, &query(1, "site.org", 1)).await.unwrap();
    assert_eq!(answer[3] & 0x0f, 0);
}

#[tokio::test]
async fn without_any_answer_the_sandbox_is_told_within_the_deadline() {
    let silent = resolver(|_| vec![]).await;
    let (_forwarder, address) = forwarder(vec![silent]);
    let started = tokio::time::Instant::now();
    let answer = exchange(address, &query(1, "site.org", 1)).await.unwrap();
    assert_eq!(answer[3] & 0x0f, 2);
    assert!(started.elapsed() < Duration::from_secs(7));
}

#[tokio::test]
async fn a_flood_is_bounded_and_the_service_survives_it() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    let upstream = resolver(|answer| {
        if answer[13] == b'f' {
            SEEN.fetch_add(1, Ordering::Relaxed);
            return vec![];
        }
        vec![answer.clone()]
    })
    .await;
    let (_forwarder, address) = forwarder(vec![upstream]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for number in 0..500 {
        socket
            .send_to(&query(number, "flood.example", 1), address)
            .await
            .unwrap();
        socket.send_to(&[0xff; 5000], address).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert!(SEEN.load(Ordering::Relaxed) <= IN_FLIGHT_MAX);
    // After the deadline of the flood, ordinary queries get through again.
    tokio::time::sleep(Duration::from_millis(4500)).await;
    assert!(exchange(address, &query(1, "site.org", 1)).await.is_some());
}

async fn stream_resolver() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut answer = vec![0; usize::from(length)];
            stream.read_exact(&mut answer).await.unwrap();
            answer[2] |= 0x80;
            answer.resize(60_000, 7);
            stream.write_u16(60_000).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn long_answers_come_by_stream_and_several_queries_share_one() {
    let (_forwarder, address) = forwarder(vec![stream_resolver().await]);
    let mut stream = TcpStream::connect(address).await.unwrap();
    for number in [7u16, 8] {
        let packet = query(number, "site.org", 1);
        stream
            .write_u16(u16::try_from(packet.len()).unwrap())
            .await
            .unwrap();
        stream.write_all(&packet).await.unwrap();
        assert_eq!(
            timeout(SOON, stream.read_u16()).await.unwrap().unwrap(),
            60_000
        );
        let mut answer = vec![0; 60_000];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[..2], number.to_be_bytes());
    }
}

#[tokio::test]
async fn an_overlong_stream_message_ends_the_stream() {
    let (_forwarder, address) = forwarder(vec![stream_resolver().await]);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_u16(5000).await.unwrap();
    assert_eq!(
        timeout(SOON, stream.read(&mut [0; 1]))
            .await
            .unwrap()
            .unwrap(),
        0
    );
}

#[tokio::test]
async fn dropping_the_forwarder_frees_the_sockets() {
    let (forwarder, address) = forwarder(vec![resolver(|_| vec![]).await]);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let pending = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    pending
        .send_to(&query(1, "site.org", 1), address)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(forwarder);
    let freed = async {
        while UdpSocket::bind(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, freed).await.unwrap();
    assert_eq!(
        timeout(SOON, stream.read(&mut [0; 1]))
            .await
            .unwrap()
            .unwrap_or(0),
        0
    );
}
