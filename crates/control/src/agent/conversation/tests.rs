use futures_util::stream;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

fn pair(bytes: usize) -> (Conversation, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(bytes);
    (Conversation::new(Box::new(ours)), theirs)
}

fn source(pieces: Vec<Bytes>) -> PieceStream<Bytes> {
    Box::pin(stream::iter(pieces.into_iter().map(Ok)))
}

fn stalled() -> PieceStream<Bytes> {
    Box::pin(stream::pending())
}

async fn next(conversation: &mut Conversation) -> Result<Incoming, AgentError> {
    let silence_max = Some(Duration::from_secs(5));
    conversation.next(&mut Input::none(), silence_max).await
}

#[tokio::test]
async fn frames_cross_in_both_directions_at_once_through_a_narrow_stream() {
    let (mut conversation, mut agent) = pair(16);
    conversation.ask(&Request::Ping).unwrap();
    let sent = Bytes::from(vec![7; CHUNK_BYTES + 10]);
    let mut input = Input::from(source(vec![sent.clone(), Bytes::new(), sent.clone()]));
    // Talks while it listens: neither side may wait for the other to finish.
    let (mut from, mut to) = tokio::io::split(&mut agent);
    let talk = async {
        for _ in 0..100 {
            to.write_all(&Header::encode(FrameKind::Output, 3))
                .await
                .unwrap();
            to.write_all(b"abc").await.unwrap();
        }
    };
    let listen = async {
        let (mut content, mut header) = (0, [0; HEADER_BYTES]);
        loop {
            from.read_exact(&mut header).await.unwrap();
            let header = Header::decode(header).unwrap();
            let mut payload = vec![0; header.payload_bytes];
            from.read_exact(&mut payload).await.unwrap();
            match header.kind {
                FrameKind::Input => content += payload.len(),
                FrameKind::InputEnd => return content,
                _ => assert_eq!(header.kind, FrameKind::Message),
            }
        }
    };
    let read = async {
        for _ in 0..100 {
            let next = conversation.next(&mut input, None).await.unwrap();
            assert!(matches!(next, Incoming::Output(bytes) if bytes == "abc"));
        }
        // Nothing more comes, but there may still be something to send.
        let silence = Some(Duration::from_millis(200));
        let error = conversation.next(&mut input, silence).await.unwrap_err();
        assert!(matches!(error, AgentError::Silent(_)));
    };
    let ((), content, ()) = tokio::join!(talk, listen, read);
    assert_eq!(content, 2 * sent.len());
    assert!(conversation.into_idle(&input).is_some());
}

#[tokio::test(start_paused = true)]
async fn silence_of_the_agent_and_of_the_caller_are_told_apart() {
    let (mut conversation, _agent) = pair(64);
    let error = next(&mut conversation).await.unwrap_err();
    assert!(matches!(error, AgentError::Silent(_)), "{error:?}");
    let mut input = Input::from(stalled());
    let silence_max = Some(Duration::from_secs(5));
    let error = conversation
        .next(&mut input, silence_max)
        .await
        .unwrap_err();
    assert!(
        matches!(error, AgentError::InputSilent(CONTENT_TIME_MAX)),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_conversation_in_the_middle_of_something_is_not_used_again() {
    let (mut conversation, mut agent) = pair(64);
    let over = Input::none();
    agent.write_all(&[1, 0]).await.unwrap();
    let silence_max = Some(Duration::from_millis(20));
    conversation
        .next(&mut Input::none(), silence_max)
        .await
        .unwrap_err();
    assert!(conversation.into_idle(&over).is_none(), "half a frame came");

    let (mut conversation, _agent) = pair(64);
    conversation.ask(&Request::Ping).unwrap();
    assert!(
        conversation.into_idle(&over).is_none(),
        "nothing was sent yet"
    );

    let (conversation, _agent) = pair(64);
    let input = Input::from(stalled());
    assert!(conversation.into_idle(&input).is_none(), "input goes on");
}

#[tokio::test]
async fn a_refusal_is_heard_although_the_agent_reads_no_more() {
    let (mut conversation, mut agent) = pair(4096);
    let failed = Reply::Failed(agent_protocol::Failure {
        kind: agent_protocol::FailureKind::LimitReached,
        message: "the disk is full".to_owned(),
    });
    agent
        .write_all(&frame::encode_message(&failed).unwrap())
        .await
        .unwrap();
    drop(agent);
    let mut input = Input::from(source(vec![Bytes::from(vec![1; 1 << 20])]));
    let next = conversation.next(&mut input, None).await.unwrap();
    assert!(matches!(next, Incoming::Reply(reply) if reply == failed));
    let error = conversation.next(&mut input, None).await.unwrap_err();
    assert!(matches!(error, AgentError::Broken(_)), "{error:?}");
}

#[tokio::test]
async fn an_announced_frame_takes_no_memory_before_it_comes() {
    let (mut conversation, mut agent) = pair(4096);
    let header = Header::encode(FrameKind::Output, frame::PAYLOAD_BYTES_MAX);
    agent.write_all(&header).await.unwrap();
    let silence_max = Some(Duration::from_millis(20));
    conversation
        .next(&mut Input::none(), silence_max)
        .await
        .unwrap_err();
    assert!(conversation.incoming.capacity() < 2 * CHUNK_BYTES);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the agent sends, in whatever pieces: an answer or an error.
    #[test]
    fn any_bytes_end_in_frames_or_in_an_error(
        bytes in prop::collection::vec(prop_oneof![Just(0u8), 0..7u8, any::<u8>()], 0..200),
        cut in 1usize..50,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (mut conversation, mut agent) = pair(64);
            let send = async {
                for piece in bytes.chunks(cut) {
                    if agent.write_all(piece).await.is_err() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                drop(agent);
            };
            let receive = async move {
                let mut frames = 0;
                loop {
                    match next(&mut conversation).await {
                        Ok(_) => frames += 1,
                        Err(error) => return (frames, error),
                    }
                }
            };
            let ((), (frames, error)) = tokio::join!(send, receive);
            assert!(frames <= bytes.len() / HEADER_BYTES);
            assert!(matches!(
                error,
                AgentError::Closed | AgentError::Frame(_) | AgentError::Broken(_)
            ), "{error:?}");
        });
    }
}

#[tokio::test]
async fn raw_bytes_that_come_with_the_last_frame_are_not_lost() {
    let (mut conversation, mut agent) = pair(64 << 10);
    conversation.ask(&Request::ConnectPort { port: 1 }).unwrap();
    let mut bytes = frame::encode_message(&Reply::Connected).unwrap();
    bytes.extend(b"first");
    agent.write_all(&bytes).await.unwrap();
    let answer = next(&mut conversation).await.unwrap();
    assert!(matches!(answer, Incoming::Reply(Reply::Connected)));
    agent.write_all(b" second").await.unwrap();
    drop(agent);
    let (mut stream, beyond) = conversation.into_raw();
    let mut rest = beyond.to_vec();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"first second");
}
