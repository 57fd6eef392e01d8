//! Words of an instruction: split at blanks outside of quotes, then variables
//! put in and quotes taken off.

/// Longest text after variables were put in, bytes: each may hold all others.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// How deep defaults may lie in one another.
const DEPTH_MAX: usize = 32;

/// Splits at blanks that are neither quoted nor escaped. Quotes stay.
pub(super) fn split(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match quote {
            None if letter.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if letter == '"' || letter == '\'' => quote = Some(letter),
            Some(open) if letter == open => quote = None,
            _ => {}
        }
        word.push(letter);
        if letter == escape && quote != Some('\'') {
            word.extend(letters.next());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Puts variables in and takes quotes and escapes off, as for one word of a shell.
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn expand(
    word: &str,
    escape: char,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let mut expander = Expander {
        letters: word.chars().peekable(),
        escape,
        lookup,
        depth: 0,
    };
    expander.until(None)
}

/// As [`expand`], for text in which quotes mean themselves.
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn expand_text(
    text: &str,
    escape: char,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let mut expander = Expander {
        letters: text.chars().peekable(),
        escape,
        lookup,
        depth: 0,
    };
    let mut out = String::new();
    while let Some(letter) = expander.letters.next() {
        match letter {
            '$' => add(&mut out, &expander.variable()?)?,
            letter if letter == escape && expander.letters.peek() == Some(&'$') => {
                out.extend(expander.letters.next());
            }
            letter => out.push(letter),
        }
    }
    Ok(out)
}

/// Adds what a variable gave.
fn add(text: &mut String, more: &str) -> Result<(), String> {
    if text.len() + more.len() > TEXT_BYTES_MAX {
        return Err(format!("a text grows to more than {TEXT_BYTES_MAX} bytes"));
    }
    text.push_str(more);
    Ok(())
}

struct Expander<'a> {
    letters: std::iter::Peekable<std::str::Chars<'a>>,
    escape: char,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    depth: usize,
}

impl Expander<'_> {
    /// Reads until `end`, or to the end of the word.
    fn until(&mut self, end: Option<char>) -> Result<String, String> {
        let mut text = String::new();
        while let Some(letter) = self.letters.next() {
            match letter {
                letter if Some(letter) == end => return Ok(text),
                '\'' => loop {
                    match self.letters.next() {
                        Some('\'') => break,
                        Some(letter) => text.push(letter),
                        None => return Err("a single quote is not closed".to_owned()),
                    }
                },
                '"' => self.quoted(&mut text)?,
                '$' => add(&mut text, &self.variable()?)?,
                letter if letter == self.escape => text.extend(self.letters.next()),
                letter => text.push(letter),
            }
        }
        match end {
            Some(end) => Err(format!("`{end}` is missing after a variable")),
            None => Ok(text),
        }
    }

    /// The inside of double quotes.
    fn quoted(&mut self, text: &mut String) -> Result<(), String> {
        while let Some(letter) = self.letters.next() {
            match letter {
                '"' => return Ok(()),
                '$' => add(text, &self.variable()?)?,
                letter if letter == self.escape => match self.letters.next() {
                    Some(next) if matches!(next, '"' | '$') || next == self.escape => {
                        text.push(next);
                    }
                    // Before anything else it means itself.
                    Some(next) => text.extend([letter, next]),
                    None => text.push(letter),
                },
                letter => text.push(letter),
            }
        }
        Err("a double quote is not closed".to_owned())
    }

    /// What follows a `$`.
    fn variable(&mut self) -> Result<String, String> {
        if self.letters.peek() != Some(&'{') {
            let name = self.name();
            return Ok(match name.as_str() {
                "" => "$".to_owned(),
                name => (self.lookup)(name).unwrap_or_default(),
            });
        }
        self.letters.next();
        let name = self.name();
        if name.is_empty() {
            return Err("`${` is not followed by the name of a variable".to_owned());
        }
        let value = (self.lookup)(&name);
        let (value, operator) = match self.letters.next() {
            Some('}') => return Ok(value.unwrap_or_default()),
            // With a colon an empty value counts as none.
            Some(':') => (value.filter(|value| !value.is_empty()), self.letters.next()),
            operator => (value, operator),
        };
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!(
                "more than {DEPTH_MAX} variables lie in one another"
            ));
        }
        let text = self.alternative(&name, value, operator);
        self.depth -= 1;
        text
    }

    /// What follows the operator inside `${}`.
    fn alternative(
        &mut self,
        name: &str,
        value: Option<String>,
        operator: Option<char>,
    ) -> Result<String, String> {
        match operator {
            Some('-') => {
                let default = self.until(Some('}'))?;
                Ok(value.unwrap_or(default))
            }
            Some('+') => {
                let other = self.until(Some('}'))?;
                Ok(value.map_or_else(String::new, |_| other))
            }
            Some('?') => {
                let message = self.until(Some('}'))?;
                value.ok_or_else(|| format!("variable {name} is not set: {message}"))
            }
            _ => Err(format!(
                "what follows `${{{name}` is not understood; use `${{{name}}}`, `${{{name}:-default}}`, `${{{name}:+other}}` or `${{{name}:?message}}`"
            )),
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(letter) = self
            .letters
            .next_if(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
        {
            name.push(letter);
        }
        name
    }
}
