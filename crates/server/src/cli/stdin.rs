//! Standard input without blocking the other work.

use std::io::Read as _;

use tokio::sync::mpsc;

/// One read, bytes.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces read ahead.
const PIECES_AHEAD: usize = 4;

/// Pieces of standard input as they come; the channel ends with it.
///
/// A thread of its own reads, since a terminal or a pipe can only be waited for
/// by blocking; it ends with the program.
pub(super) fn pieces() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            match stdin.read(&mut buffer) {
                Ok(count) if count > 0 => {
                    if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => break,
            }
        }
    });
    receiver
}
