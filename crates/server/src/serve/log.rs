//! Log lines on standard error, as text or as JSON.
//!
//! What a line is about stands in the span that it is written in: `edge::span` has
//! the `request_id`, and `control` notes the `sandbox` there.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, IsTerminal as _},
};

use serde_json::Value;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::Record,
};
use tracing_subscriber::{
    EnvFilter,
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::{DefaultFields, JsonFields, Writer},
        time::{FormatTime as _, SystemTime},
    },
    registry::LookupSpan,
};

use crate::config::{Environment, Log};

/// Starts logging. Called once; a second call changes nothing.
pub(super) fn start(config: &Log, environment: &Environment) {
    let filter = EnvFilter::builder().parse_lossy(&config.level);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !environment.no_color());
    let started = if config.json {
        lines
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines)
            .try_init()
    } else {
        lines.fmt_fields(SpanText::default()).try_init()
    };
    // Only tests start a server twice in one process, and they keep the first log.
    drop(started);
}

/// One object per line, with the fields of the event and of all its spans on one
/// level: what is about a sandbox has it in the same place whoever says it.
struct JsonLines;

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        let spans = context.event_scope().into_iter();
        for span in spans.flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let formatted = extensions.get::<FormattedFields<JsonFields>>();
            let parsed = formatted.and_then(|formatted| serde_json::from_str(formatted).ok());
            let of_span: BTreeMap<String, Value> = parsed.unwrap_or_default();
            fields.0.extend(of_span);
        }
        // What the event says itself counts more.
        event.record(&mut fields);
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let message = fields.0.remove("message").unwrap_or_default();
        let metadata = event.metadata();
        let level = metadata.level();
        write!(
            writer,
            r#"{{"timestamp":"{time}","level":"{level}","message":{message}"#
        )?;
        for (name, value) in &fields.0 {
            write!(writer, ",{}:{value}", Value::from(name.as_str()))?;
        }
        let target = Value::from(metadata.target());
        writeln!(writer, r#","target":{target}}}"#)
    }
}

/// Fields by name; the last of a name counts.
#[derive(Debug, Default)]
struct Fields(BTreeMap<String, Value>);

impl Fields {
    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value);
    }
}

/// Fields of spans as text. A sandbox is noted each time it is looked up; the same
/// is written once.
#[derive(Debug, Default)]
struct SpanText(DefaultFields);

impl<'writer> FormatFields<'writer> for SpanText {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        self.0.format_fields(writer, fields)
    }

    fn add_fields(
        &self,
        current: &'writer mut FormattedFields<Self>,
        fields: &Record<'_>,
    ) -> fmt::Result {
        let mut more = String::new();
        self.0.format_fields(Writer::new(&mut more), fields)?;
        if !current.fields.contains(&more) {
            current.fields.push(' ');
            current.fields.push_str(&more);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{field::Empty, subscriber::with_default};
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Kept {
        type Writer = Self;
        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    fn lines<L: Subscriber + Send + Sync + 'static>(subscriber: impl FnOnce(Kept) -> L) -> String {
        let kept = Kept::default();
        with_default(subscriber(kept.clone()), || {
            let span = tracing::info_span!("request", request_id = "r-1", sandbox = Empty);
            let _entered = span.enter();
            tracing::info!("a \"question\"\n");
            for _ in 0..2 {
                span.record("sandbox", "s1");
            }
            tracing::info!(count = 3, good = true, "an answer");
            tracing::info!(sandbox = "s2", "another");
        });
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_has_the_fields_of_its_spans_on_one_level() {
        let text = lines(|kept| {
            let lines = tracing_subscriber::fmt().with_writer(kept);
            let lines = lines.fmt_fields(JsonFields::new());
            lines.event_format(JsonLines).finish()
        });
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["message"], "a \"question\"\n");
        assert_eq!(lines[0]["request_id"], "r-1");
        assert_eq!(lines[0].get("sandbox"), None);
        assert_eq!(lines[1]["request_id"], "r-1");
        assert_eq!(lines[1]["sandbox"], "s1");
        assert_eq!(lines[1]["count"], 3);
        assert_eq!(lines[1]["good"], true);
        assert_eq!(lines[2]["sandbox"], "s2", "what the event says counts more");
        assert_eq!(
            text.matches("\"sandbox\"").count(),
            2,
            "no name comes twice"
        );
        assert!(lines[1]["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn a_text_line_has_what_was_noted_twice_once() {
        let text = lines(|kept| {
            let lines = tracing_subscriber::fmt().with_writer(kept).with_ansi(false);
            lines.fmt_fields(SpanText::default()).finish()
        });
        let line = text.lines().find(|line| line.contains("an answer"));
        let line = line.unwrap();
        assert_eq!(line.matches("s1").count(), 1, "{line}");
        assert!(line.contains("request_id=\"r-1\""), "{line}");
    }
}
