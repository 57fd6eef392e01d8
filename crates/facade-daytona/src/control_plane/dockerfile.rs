//! What a Dockerfile of an SDK asks for. SDKs send every image as one, also a
//! plain name.

use sandbox::Image;
use sha2::{Digest, Sha256};

/// Where the images of Dockerfiles are kept that came with a sandbox and have no name.
pub(crate) const UNNAMED: &str = "daytona-build/";

/// The image that a Dockerfile stands for that has no other instruction than `FROM`.
pub(crate) fn plain_image(text: &str) -> Option<&str> {
    let mut instructions = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (only, None) = (instructions.next()?, instructions.next()) else {
        return None;
    };
    let (word, image) = only.split_once(char::is_whitespace)?;
    let image = image.trim();
    (word.eq_ignore_ascii_case("from") && image.parse::<Image>().is_ok()).then_some(image)
}

/// A name for the image of a Dockerfile: the same for the same content.
pub(crate) fn name_of(text: &str, context_hashes: &[String]) -> String {
    let mut hash = Sha256::new();
    hash.update(text);
    for context in context_hashes {
        hash.update([0]);
        hash.update(context);
    }
    let hex: String = hash
        .finalize()
        .iter()
        .take(20)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{UNNAMED}{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_from_is_a_plain_image() {
        assert_eq!(plain_image("FROM debian:12.9\n"), Some("debian:12.9"));
        assert_eq!(plain_image("\n# x\nfrom  a/b \n\n"), Some("a/b"));
        for built in [
            "FROM a\nRUN b",
            "FROM --platform=x a",
            "FROM a AS b",
            "FROM $A",
            "RUN a",
            "FROM",
            "",
        ] {
            assert_eq!(plain_image(built), None, "{built:?}");
        }
    }

    #[test]
    fn the_same_content_has_the_same_name() {
        let name = name_of("FROM a\nRUN b", &[]);
        assert_eq!(name, name_of("FROM a\nRUN b", &[]));
        assert_ne!(name, name_of("FROM a\nRUN c", &[]));
        assert_ne!(name, name_of("FROM a\nRUN b", &["x".into()]));
        assert!(name.parse::<Image>().is_ok());
    }
}
