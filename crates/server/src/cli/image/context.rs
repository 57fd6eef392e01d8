//! The folder beside a Dockerfile, packed for its build.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::Path,
};

use tar::Builder;

/// What is not packed, one pattern a line.
const IGNORE_FILE: &str = ".dockerignore";

/// Packs the folder into `archive`, without what its `.dockerignore` names.
///
/// # Errors
/// When a file cannot be read or written.
pub(super) fn pack(folder: &Path, archive: &File) -> io::Result<()> {
    let ignored = match fs::read_to_string(folder.join(IGNORE_FILE)) {
        Ok(text) => Ignored::parse(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ignored::default(),
        Err(error) => return Err(error),
    };
    let mut builder = Builder::new(BufWriter::new(archive));
    builder.follow_symlinks(false);
    add(&mut builder, folder, "", &ignored)?;
    builder.into_inner()?.flush()
}

fn add(
    builder: &mut Builder<BufWriter<&File>>,
    folder: &Path,
    below: &str,
    ignored: &Ignored,
) -> io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            let path = entry.path();
            return Err(io::Error::other(format!(
                "{} has a name that is not UTF-8",
                path.display()
            )));
        };
        let path = match below {
            "" => name.to_owned(),
            below => format!("{below}/{name}"),
        };
        let is_folder = entry.file_type()?.is_dir();
        if ignored.has(&path) {
            // Something in it may be wanted all the same.
            if is_folder && ignored.has_exceptions {
                add(builder, &entry.path(), &path, ignored)?;
            }
            continue;
        }
        // Sockets and the like cannot be packed, and no build wants them.
        let kind = entry.file_type()?;
        if kind.is_file() || kind.is_symlink() || is_folder {
            builder.append_path_with_name(entry.path(), &path)?;
        }
        if is_folder {
            add(builder, &entry.path(), &path, ignored)?;
        }
    }
    Ok(())
}

/// The patterns of a `.dockerignore`: the last one that fits decides.
#[derive(Debug, Default)]
struct Ignored {
    /// Whether it takes back what others name, and the parts of the pattern.
    patterns: Vec<(bool, Vec<String>)>,
    has_exceptions: bool,
}

impl Ignored {
    fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let patterns: Vec<_> = lines
            .map(|line| {
                let (is_exception, pattern) = match line.strip_prefix('!') {
                    Some(pattern) => (true, pattern),
                    None => (false, line),
                };
                let parts = pattern.split('/');
                let parts = parts.filter(|part| !matches!(*part, "" | "."));
                (is_exception, parts.map(str::to_owned).collect())
            })
            .collect();
        Self {
            has_exceptions: patterns.iter().any(|(is_exception, _)| *is_exception),
            patterns,
        }
    }

    fn has(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let fits = |pattern: &[String]| {
            // A pattern also names what lies below what it names.
            (1..=parts.len()).any(|end| fits_path(pattern, &parts[..end]))
        };
        let last = self.patterns.iter().rfind(|(_, pattern)| fits(pattern));
        last.is_some_and(|(is_exception, _)| !is_exception)
    }
}

fn fits_path(pattern: &[String], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "**" => {
            (0..=path.len()).any(|skip| fits_path(rest, &path[skip..]))
        }
        (Some((first, rest)), Some((name, below))) => {
            fits_name(first.as_bytes(), name.as_bytes()) && fits_path(rest, below)
        }
        _ => false,
    }
}

/// `*` and `?`.
fn fits_name(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=name.len()).any(|skip| fits_name(rest, &name[skip..])),
        (Some((b'?', rest)), Some((_, after))) => fits_name(rest, after),
        (Some((letter, rest)), Some((other, after))) => letter == other && fits_name(rest, after),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_that_fits_decides() {
        let ignored = Ignored::parse("# comment\n*.log\n/node_modules\n**/tmp\n!keep.log\nd?/\n");
        for (path, wanted) in [
            ("a.log", true),
            ("sub/a.log", false),
            ("keep.log", false),
            ("node_modules/x/y", true),
            ("sub/node_modules", false),
            ("tmp", true),
            ("a/b/tmp/c", true),
            ("d1/x", true),
            ("src/main.rs", false),
        ] {
            assert_eq!(ignored.has(path), wanted, "{path}");
        }
    }

    #[test]
    fn a_folder_is_packed_without_what_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::create_dir_all(at("out")).unwrap();
        for file in ["a/b/c", "out/x", "out/wanted", ".dockerignore"] {
            fs::write(at(file), "out\n!out/wanted\n").unwrap();
        }
        std::os::unix::fs::symlink("nowhere", at("link")).unwrap();
        let mut archive = tempfile::tempfile().unwrap();
        pack(folder.path(), &archive).unwrap();
        io::Seek::rewind(&mut archive).unwrap();
        let mut names: Vec<String> = tar::Archive::new(archive)
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [".dockerignore", "a", "a/b", "a/b/c", "link", "out/wanted"]
        );
    }
}
