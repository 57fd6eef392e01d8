//! Server-sent events, as the HTML standard defines them, from pieces of any size.

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Its type; `message` when the server names none.
    pub(super) name: String,
    /// Its data.
    pub(super) data: String,
}

/// Longest event, bytes: a rich result of a cell can hold an image.
const EVENT_BYTES_MAX: usize = 64 << 20;

/// The stream is not one of events.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EventError {
    /// An event exceeds the bound.
    #[error("the server sent an event of more than {EVENT_BYTES_MAX} bytes")]
    TooLong,
    /// Events are text.
    #[error("the server sent an event that is not UTF-8")]
    NotText,
}

/// Puts events together.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    /// The last byte was a carriage return, whose line feed may follow.
    after_return: bool,
    name: String,
    data: String,
    has_data: bool,
    /// Something was read already: a byte order mark may only come first.
    begun: bool,
}

impl Parser {
    /// Takes a piece in and returns the events that it completes.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<Vec<Event>, EventError> {
        let mut events = Vec::new();
        for &byte in piece {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => events.extend(self.end_line()?),
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.len() > EVENT_BYTES_MAX {
                return Err(EventError::TooLong);
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Result<Option<Event>, EventError> {
        let line =
            String::from_utf8(std::mem::take(&mut self.line)).map_err(|_| EventError::NotText)?;
        let line = match line.strip_prefix('\u{feff}') {
            Some(rest) if !self.begun => rest,
            _ => &line,
        };
        self.begun = true;
        if line.is_empty() {
            return Ok(self.end_event());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.data.push_str(value);
                self.has_data = true;
            }
            // Comments have an empty field; ids and retries mean nothing here.
            _ => {}
        }
        Ok(None)
    }

    fn end_event(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        std::mem::take(&mut self.has_data).then(|| Event {
            name: if name.is_empty() {
                "message".to_owned()
            } else {
                name
            },
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Vec<(String, String)> {
        let events = Parser::default().push(text.as_bytes()).unwrap();
        events
            .into_iter()
            .map(|event| (event.name, event.data))
            .collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect()
    }

    #[test]
    fn events_of_the_standard() {
        assert_eq!(parse("event: end\ndata: {}\n\n"), pairs(&[("end", "{}")]));
        assert_eq!(
            parse("data: a\ndata:  b\n\n"),
            pairs(&[("message", "a\n b")])
        );
        assert_eq!(parse("data\n\n"), pairs(&[("message", "")]));
        assert_eq!(parse(": heartbeat\n\n"), pairs(&[]));
        assert_eq!(parse("event: x\n\ndata: y\n\n"), pairs(&[("message", "y")]));
        assert_eq!(
            parse("\u{feff}data: a\r\n\r\ndata: b\r\rdata: c"),
            pairs(&[("message", "a"), ("message", "b")])
        );
        assert_eq!(
            parse("id: 1\nretry: 5\nother: z\ndata: a\n\n"),
            pairs(&[("message", "a")])
        );
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; 1 << 20];
        let refused = (0..80).find_map(|_| parser.push(&piece).err());
        assert_eq!(refused, Some(EventError::TooLong));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            events in prop::collection::vec(("[a-z]{1,8}", "[^\r\n]{0,40}(\n[^\r\n]{0,40}){0,2}"), 0..8),
            ending in prop::sample::select(vec!["\n", "\r", "\r\n"]),
            cut in 1usize..7,
        ) {
            let mut text = String::new();
            for (name, data) in &events {
                text += &format!("event: {name}{ending}");
                for line in data.split('\n') {
                    text += &format!("data: {line}{ending}");
                }
                text += ending;
            }
            let mut parser = Parser::default();
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(cut) {
                found.extend(parser.push(piece).unwrap());
            }
            let found: Vec<_> = found.into_iter().map(|event| (event.name, event.data)).collect();
            prop_assert_eq!(found, events);
        }

        #[test]
        fn no_bytes_are_fatal(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Parser::default().push(&bytes);
        }
    }
}
