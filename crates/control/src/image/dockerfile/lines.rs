//! From the text of a Dockerfile to one line per instruction: comments left out,
//! continued lines joined, here-documents taken along.

use super::{Problem, words};

/// One instruction as it is written.
#[derive(Debug)]
pub(super) struct Line {
    /// Where it begins, counted from 1.
    pub(super) number: usize,
    /// In capitals.
    pub(super) keyword: String,
    pub(super) rest: String,
    pub(super) documents: Vec<Document>,
}

/// A here-document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Document {
    /// The word that it begins with, e.g. `<<EOF`.
    pub(super) word: String,
    /// The word that ends it.
    pub(super) end: String,
    pub(super) text: String,
    /// Whether variables are put in: not when the word is quoted.
    pub(super) expands: bool,
}

/// What the comments at the very top say.
pub(super) fn escape_of(text: &str) -> char {
    for line in text.lines() {
        let Some((name, value)) = line
            .trim()
            .strip_prefix('#')
            .and_then(|comment| comment.split_once('='))
        else {
            break;
        };
        let name = name.trim().to_ascii_lowercase();
        match (name.as_str(), value.trim()) {
            ("escape", "`") => return '`',
            // Directives may only be followed by others.
            ("escape", _) | ("syntax" | "check", _) => {}
            _ => break,
        }
    }
    '\\'
}

pub(super) fn lines(text: &str, escape: char) -> Result<Vec<Line>, Problem> {
    let mut found = Vec::new();
    let mut rest = text.lines().enumerate();
    while let Some((index, first)) = rest.next() {
        let number = index + 1;
        if is_comment(first) || first.trim().is_empty() {
            continue;
        }
        let mut whole = String::new();
        let mut line = first;
        // A line goes on when its last letter is the escape; comments and empty
        // lines in between do not end it.
        while let Some(more) = line.trim_end().strip_suffix(escape) {
            whole.push_str(more);
            line = match rest.find(|(_, line)| !is_comment(line) && !line.trim().is_empty()) {
                Some((_, line)) => line,
                None => "",
            };
        }
        whole.push_str(line);
        let whole = whole.trim();
        let (keyword, after) = match whole.split_once(char::is_whitespace) {
            Some((keyword, after)) => (keyword, after.trim()),
            None => (whole, ""),
        };
        let keyword = keyword.to_ascii_uppercase();
        let mut documents = Vec::new();
        if matches!(keyword.as_str(), "RUN" | "COPY" | "ADD") {
            for word in words::split(after, escape) {
                if let Some(begun) = Begun::of(&word) {
                    documents.push(begun.read(number, &mut rest)?);
                }
            }
        }
        found.push(Line {
            number,
            keyword,
            rest: after.to_owned(),
            documents,
        });
    }
    Ok(found)
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// The beginning of a here-document.
struct Begun {
    word: String,
    end: String,
    strips_tabs: bool,
    expands: bool,
}

impl Begun {
    fn of(word: &str) -> Option<Self> {
        let name = word.strip_prefix("<<")?;
        let (name, strips_tabs) = match name.strip_prefix('-') {
            Some(name) => (name, true),
            None => (name, false),
        };
        let bare = ['"', '\'']
            .iter()
            .find_map(|quote| name.strip_prefix(*quote)?.strip_suffix(*quote));
        let end = bare.unwrap_or(name);
        let is_name = !end.is_empty()
            && end
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
        is_name.then(|| Self {
            word: word.to_owned(),
            end: end.to_owned(),
            strips_tabs,
            expands: bare.is_none(),
        })
    }

    fn read<'a>(
        self,
        number: usize,
        lines: &mut impl Iterator<Item = (usize, &'a str)>,
    ) -> Result<Document, Problem> {
        let mut text = String::new();
        for (_, line) in lines {
            let line = match self.strips_tabs {
                true => line.trim_start_matches('\t'),
                false => line,
            };
            if line == self.end {
                return Ok(Document {
                    word: self.word,
                    end: self.end,
                    text,
                    expands: self.expands,
                });
            }
            text.push_str(line);
            text.push('\n');
        }
        Err(Problem::new(
            number,
            format!("the text that ends with `{}` has no end", self.end),
        ))
    }
}
