use super::*;

fn output(bytes: &[u8]) -> (Output, OwnedFd) {
    let (output, writer) = Output::new().unwrap();
    assert_eq!(rustix::io::write(&writer, bytes).unwrap(), bytes.len());
    (output, writer)
}

#[test]
fn the_end_of_what_came_between_cells_is_kept() {
    let (mut output, writer) = output(&[b'a'; 40_000]);
    output.keep(usize::MAX);
    rustix::io::write(&writer, &[b'b'; 40_000]).unwrap();
    output.keep(usize::MAX);
    let backlog = String::from_utf8(output.take_backlog()).unwrap();
    let (note, kept) = backlog.split_once('\n').unwrap();
    assert_eq!(
        note,
        format!(
            "[{} bytes printed between cells were dropped]",
            80_000 - BACKLOG_BYTES_MAX
        )
    );
    assert_eq!(kept.len(), BACKLOG_BYTES_MAX);
    assert!(kept.ends_with(&"b".repeat(40_000)));
    assert!(output.take_backlog().is_empty());
}

#[test]
fn a_pipe_that_nobody_writes_to_any_more_is_closed_once_read() {
    let (mut output, writer) = output(b"last");
    drop(writer);
    assert_eq!(output.available(), 4);
    let mut buffer = [0; 16];
    assert_eq!(output.read(&mut buffer), 4);
    assert!(output.pipe().is_some());
    assert_eq!(output.read(&mut buffer), 0);
    assert!(output.pipe().is_none());
    assert_eq!(output.available(), 0);
}

#[test]
fn the_driver_is_given_whole() {
    let file = driver_file().unwrap();
    // `bootstrap.py` reads it in one call of this length.
    let mut bytes = vec![0; 1 << 20];
    let count = rustix::io::pread(&file, &mut bytes, 0).unwrap();
    assert_eq!(&bytes[..count], DRIVER.as_bytes());
    assert!(DRIVER.len() < bytes.len());
}
