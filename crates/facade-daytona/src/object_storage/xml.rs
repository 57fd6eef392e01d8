//! The few pages of XML that S3's clients read and write.

use std::fmt::Write as _;

use axum::http::{HeaderName, HeaderValue, header};

use super::store::Stored;

/// Most parts of an upload, as at S3.
const PARTS_MAX: usize = 10_000;

pub(super) fn headers() -> [(HeaderName, HeaderValue); 1] {
    [(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/xml"),
    )]
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

fn page(name: &str, parts: &[(&str, &str)]) -> String {
    let mut page = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{name}>");
    for (part, text) in parts {
        // Writing to a String does not fail.
        let _ = write!(page, "<{part}>{}</{part}>", escaped(text));
    }
    let _ = write!(page, "</{name}>");
    page
}

pub(super) fn error(code: &str, message: &str) -> String {
    page("Error", &[("Code", code), ("Message", message)])
}

pub(super) fn begun(bucket: &str, key: &str, upload: &str) -> String {
    let parts = [("Bucket", bucket), ("Key", key), ("UploadId", upload)];
    page("InitiateMultipartUploadResult", &parts)
}

pub(super) fn completed(bucket: &str, key: &str, etag: &str) -> String {
    let parts = [("Bucket", bucket), ("Key", key), ("ETag", etag)];
    page("CompleteMultipartUploadResult", &parts)
}

/// A listing of at most one object: a prefix names one context.
pub(super) fn listing(bucket: &str, prefix: &str, found: Option<&Stored>) -> String {
    let count = usize::from(found.is_some()).to_string();
    let parts = [
        ("Name", bucket),
        ("Prefix", prefix),
        ("KeyCount", &count),
        ("MaxKeys", "1000"),
        ("IsTruncated", "false"),
    ];
    let listing = page("ListBucketResult", &parts);
    let Some(found) = found else {
        return listing;
    };
    let size = found.bytes.to_string();
    let parts = [
        ("Key", found.key.as_str()),
        ("Size", &size),
        ("ETag", &found.etag()),
    ];
    let object = page("Contents", &parts);
    let object = object.split_once('\n').map_or("", |(_, object)| object);
    listing.replace(
        "</ListBucketResult>",
        &format!("{object}</ListBucketResult>"),
    )
}

/// The numbers of the parts in a request to complete an upload, in its order.
pub(super) fn part_numbers(body: &[u8]) -> Vec<u32> {
    let text = String::from_utf8_lossy(body);
    text.split("<PartNumber>")
        .skip(1)
        .filter_map(|rest| rest.split_once("</PartNumber>"))
        .filter_map(|(number, _)| number.trim().parse().ok())
        .take(PARTS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped() {
        assert!(error("Code", "a<b&\"c\"\n").contains("a&lt;b&amp;&quot;c&quot; </Message>"));
    }

    #[test]
    fn parts_are_found_in_order() {
        let body = b"<X><Part><PartNumber>2</PartNumber><ETag>\"a\"</ETag></Part><Part><ETag>b</ETag><PartNumber> 1 </PartNumber></Part></X>";
        assert_eq!(part_numbers(body), [2, 1]);
        assert!(part_numbers(b"<PartNumber>x</PartNumber><PartNumber>").is_empty());
    }

    #[test]
    fn a_listing_has_one_object_or_none() {
        let stored = Stored {
            key: "default/ab/context.tar".to_owned(),
            bytes: 7,
        };
        let page = listing("b", "default/ab", Some(&stored));
        assert!(page.contains("<KeyCount>1</KeyCount>"));
        assert!(page.contains("<Contents><Key>default/ab/context.tar</Key><Size>7</Size>"));
        assert!(listing("b", "x", None).contains("<KeyCount>0</KeyCount>"));
    }
}
