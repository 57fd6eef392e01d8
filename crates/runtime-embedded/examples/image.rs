//! Works on the images of a state folder before the program has its own command:
//! `image build FOLDER | import FILE [NAME] | ls | rm NAME`, with `--state DIR` first.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command for people"
)]

use std::{fs::File, path::Path, process::ExitCode};

use runtime_embedded::image::{BuildOptions, ImageError, Progress, Store};

struct Terminal;

impl Progress for Terminal {
    fn step(&self, text: &str) {
        eprintln!("{text}");
    }
    fn bytes(&self, _done: u64, _total: Option<u64>) {}
}

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut state = "/var/lib/sandboxai".to_owned();
    if arguments.first().is_some_and(|first| first == "--state") && arguments.len() > 1 {
        state = arguments.drain(..2).nth(1).unwrap_or_default();
    }
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(Path::new(&state), &words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(state: &Path, words: &[&str]) -> Result<(), ImageError> {
    let store = Store::open(state)?;
    let records = match words {
        ["build", folder, rest @ ..] => {
            let options = BuildOptions {
                no_cache: rest.contains(&"--no-cache"),
                ..BuildOptions::default()
            };
            vec![store.build(Path::new(folder), &options, &Terminal)?]
        }
        ["import", file, rest @ ..] => {
            let mut file = File::open(file).map_err(ImageError::Read)?;
            let name = rest.first().map(|name| name.parse()).transpose()?;
            vec![store.import(&mut file, name.as_ref(), &Terminal)?]
        }
        ["rm", name] => {
            store.remove(&name.parse()?)?;
            Vec::new()
        }
        _ => store.list()?,
    };
    for record in records {
        println!("{record:#?}");
    }
    Ok(())
}
