//! How much memory a message of the agent may take once it is decoded.
//!
//! The length of a message is bounded by its frame, but JSON can be far larger
//! in memory than as text: `{"":0}` takes seven bytes there and hundreds here.
//! So values are counted before they are decoded.

/// Arrays and objects in one message: each may take some 600 bytes.
const CONTAINERS_MAX: usize = 65_536;
/// Values in one message: each takes 32 bytes.
const VALUES_MAX: usize = 2 << 20;

/// Checks that a message decodes to something of bearable size. Says nothing
/// about whether it is JSON.
///
/// # Errors
/// What there is too much of.
pub(super) fn check(message: &[u8]) -> Result<(), &'static str> {
    // Every container and every value needs a byte at least.
    if message.len() <= CONTAINERS_MAX {
        return Ok(());
    }
    let (mut containers, mut separators) = (0usize, 0usize);
    let (mut in_text, mut escaped) = (false, false);
    for byte in message {
        match (in_text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b'[' | b'{') => containers += 1,
            (false, b',') => separators += 1,
            _ => {}
        }
    }
    if containers > CONTAINERS_MAX {
        return Err("too many arrays and objects");
    }
    if separators + containers > VALUES_MAX {
        return Err("too many values");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn containers(value: &Value) -> usize {
        match value {
            Value::Array(values) => 1 + values.iter().map(containers).sum::<usize>(),
            Value::Object(members) => 1 + members.values().map(containers).sum::<usize>(),
            _ => 0,
        }
    }

    #[test]
    fn what_grows_in_memory_is_refused_and_what_is_only_long_is_not() {
        let list = |element: &str, times| format!("[{}0]", format!("{element},").repeat(times));
        assert!(check(list(r#"{"":0}"#, 70_000).as_bytes()).is_err());
        assert!(check(list("[]", 70_000).as_bytes()).is_err());
        assert!(check(list("0", 3 << 20).as_bytes()).is_err());
        assert!(check(list("0.125", 1 << 20).as_bytes()).is_ok());
        let text = format!("[{:?}]", "[{,".repeat(1 << 20));
        assert!(check(text.as_bytes()).is_ok());
        let quotes = format!("[{:?}]", "\"[\\".repeat(1 << 20));
        assert!(check(quotes.as_bytes()).is_ok());
    }

    proptest! {
        // Each case is megabytes long.
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn texts_hide_no_container(texts in prop::collection::vec("[\\\\\"\\[{,a]{0,8}", 1..20)) {
            // As many containers as allowed, and one more, around awkward texts.
            let awkward: Value = texts.iter().map(|text| Value::from(text.as_str())).collect();
            for (more, fine) in [(0, true), (1, false)] {
                let mut values = vec![Value::Array(vec![]); CONTAINERS_MAX - 2 + more];
                values.push(awkward.clone());
                let value = Value::Array(values);
                prop_assert_eq!(containers(&value), CONTAINERS_MAX + more);
                prop_assert_eq!(check(value.to_string().as_bytes()).is_ok(), fine);
            }
        }
    }
}
