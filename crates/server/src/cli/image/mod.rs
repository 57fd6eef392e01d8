//! `sandboxai image`: works on the state folder, without a server.

mod context;
mod dockerfile;
mod pull;

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
    path::PathBuf,
    sync::Mutex,
    time::Instant,
};

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use runtime_embedded::image::{BuildOptions, ImageError, ImageRecord, Progress, Store};
use rustix::process::geteuid;
use sandbox::Image as ImageName;
use serde_json::json;

use super::{Context, output, recipe};
use crate::{
    config::{Config, parse::size_text},
    exit_code::ExitCode,
    failure::Failure,
};

/// Arguments of `image`.
#[derive(Debug, clap::Args)]
pub(super) struct Image {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the images
    Ls {
        /// Also what builds have kept for the next one
        #[arg(long)]
        all: bool,
    },
    /// Take an image from its registry
    Pull {
        /// Name as in a registry, e.g. debian:12 or ghcr.io/me/app
        #[arg(value_name = "IMAGE", value_parser = name)]
        name: ImageName,
    },
    /// Make an image from a recipe or a Dockerfile
    Build(Build),
    /// Write the recipe of the default image to a folder, to make another of it
    Recipe {
        /// The folder; made if need be
        folder: PathBuf,
    },
    /// Take an image from a root file system or a `docker save` archive
    Import {
        /// The archive, plain or compressed by gzip or zstd; `-` is standard input
        archive: PathBuf,
        /// Name of the image [default: the archive's]
        #[arg(long, value_name = "IMAGE", value_parser = name)]
        name: Option<ImageName>,
    },
    /// Remove images; running sandboxes keep what they need of them
    Rm {
        /// Names of images
        #[arg(required = true, value_name = "IMAGE", value_parser = name)]
        names: Vec<ImageName>,
    },
}

/// Arguments of `image build`.
#[derive(Debug, clap::Args)]
struct Build {
    /// Folder with `image.toml` or a `Dockerfile` [default: the recipe of sandboxai/box that this program carries]
    #[arg(value_name = "FOLDER")]
    recipe: Option<PathBuf>,
    /// Name of the image [default: the recipe's; needed for a Dockerfile]
    #[arg(long, short = 't', value_name = "IMAGE", value_parser = name)]
    name: Option<ImageName>,
    /// The Dockerfile [default: `Dockerfile` in the folder]
    #[arg(long, short = 'f', value_name = "FILE", requires = "recipe")]
    file: Option<PathBuf>,
    /// Value of an `ARG` of the Dockerfile
    #[arg(long = "build-arg", value_name = "NAME=VALUE", value_parser = pair)]
    args: Vec<(String, String)>,
    /// Do not use what earlier builds of the recipe kept
    #[arg(long)]
    no_cache: bool,
}

fn name(text: &str) -> Result<ImageName, String> {
    text.parse().map_err(|error: sandbox::Error| error.message)
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "write it as NAME=VALUE".to_owned())
}

/// The Dockerfile that is meant, if one is.
fn dockerfile_of(folder: Option<&PathBuf>, file: Option<PathBuf>) -> Option<PathBuf> {
    let folder = folder?;
    file.or_else(|| {
        let usual = folder.join("Dockerfile");
        (!folder.join("image.toml").exists() && usual.exists()).then_some(usual)
    })
}

pub(super) fn main(context: &Context, image: Image) -> Result<ExitCode, Failure> {
    if let Action::Recipe { folder } = &image.action {
        recipe::write_to(folder)?;
        return Ok(ExitCode::Ok);
    }
    let config = context.config()?;
    if !geteuid().is_root() {
        return Err(
            Failure::general("images belong to root").hint("run the command again with sudo")
        );
    }
    let store = Store::open(&config.server.state_dir).map_err(failure)?;
    match image.action {
        // Written above: that needs neither root nor a store.
        Action::Recipe { .. } => {}
        Action::Ls { all } => list(context, &store, all)?,
        Action::Pull { name } => {
            let progress = Steps::new();
            let made = pull::pull(&config, store, &name, &progress);
            progress.finish();
            show(context, &made?)?;
        }
        Action::Build(arguments) => build(context, &config, &store, arguments)?,
        Action::Import { archive, name } => {
            let progress = Steps::new();
            let made = store.import(&mut *open(&archive)?, name.as_ref(), &progress);
            progress.finish();
            show(context, &made.map_err(failure)?)?;
        }
        Action::Rm { names } => {
            for name in &names {
                store.remove(name).map_err(failure)?;
                if !context.output.json {
                    context.output.line(name.as_str())?;
                }
            }
            if context.output.json {
                let names: Vec<_> = names.iter().map(ImageName::as_str).collect();
                context.output.json(&json!({ "removed": names }))?;
            }
        }
    }
    Ok(ExitCode::Ok)
}

fn build(
    context: &Context,
    config: &Config,
    store: &Store,
    arguments: Build,
) -> Result<(), Failure> {
    let Build {
        recipe,
        name,
        file,
        args,
        no_cache,
    } = arguments;
    if let (Some(folder), Some(file)) = (&recipe, dockerfile_of(recipe.as_ref(), file)) {
        let name = name.ok_or_else(|| {
            Failure::usage("an image of a Dockerfile needs a name").hint("give one by --name")
        })?;
        let request = dockerfile::Request {
            folder: folder.clone(),
            file,
            name: name.clone(),
            args: args.into_iter().collect(),
        };
        dockerfile::build(config, &request)?;
        return show(context, &store.resolve(&name).map_err(failure)?);
    }
    let options = BuildOptions {
        name,
        ca_certificates: config.ca_certificates.clone(),
        no_cache,
        environment: context.environment.for_builds(),
    };
    let progress = Steps::new();
    let made = match recipe {
        Some(folder) => store.build(&folder, &options, &progress),
        None => store.build(recipe::Unpacked::new()?.path(), &options, &progress),
    };
    progress.finish();
    show(context, &made.map_err(failure)?)
}

fn failure(error: ImageError) -> Failure {
    let is_missing = matches!(error, ImageError::NotFound { .. });
    let failure = Failure::from(sandbox::Error::from(error));
    if is_missing {
        failure.with_code(ExitCode::NotFound)
    } else {
        failure
    }
}

fn open(archive: &PathBuf) -> Result<Box<dyn Read>, Failure> {
    if archive.as_os_str() == "-" {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(archive).map_err(|error| {
        let code = match error.kind() {
            io::ErrorKind::NotFound => ExitCode::NotFound,
            _ => ExitCode::Failure,
        };
        Failure::new(code, format!("cannot read {}: {error}", archive.display()))
    })?;
    Ok(Box::new(file))
}

fn list(context: &Context, store: &Store, all: bool) -> Result<(), Failure> {
    let mut images = store.list().map_err(failure)?;
    // Unnamed results of build steps are of no use to people.
    images.retain(|image| all || !image.is_step());
    if context.output.json {
        return context.output.json(&images);
    }
    let rows = images.iter().map(row).collect();
    context
        .output
        .table(&["IMAGE", "DIGEST", "SIZE", "CREATED"], rows)
}

fn show(context: &Context, image: &ImageRecord) -> Result<(), Failure> {
    if context.output.json {
        return context.output.json(image);
    }
    let name = image
        .name
        .as_ref()
        .map_or(image.digest.as_str(), ImageName::as_str);
    context
        .output
        .line(format!("{name}  {}", size_text(image.size_bytes)))
}

fn row(image: &ImageRecord) -> Vec<String> {
    /// Enough of a digest to tell images apart.
    const DIGEST_CHARS: usize = "sha256:".len() + 12;
    let name = image.name.as_ref().map_or("-", ImageName::as_str);
    let digest: String = image.digest.chars().take(DIGEST_CHARS).collect();
    let created = Timestamp::from_millisecond(image.created_ms).map_or_else(
        |_| "-".to_owned(),
        |created| created.strftime("%F %R UTC").to_string(),
    );
    vec![
        name.to_owned(),
        digest,
        size_text(image.size_bytes),
        created,
    ]
}

/// Steps and bytes: a moving line on a terminal, a line per step elsewhere.
struct Steps {
    bar: Option<ProgressBar>,
    /// The step that runs, and since when.
    running: Mutex<Option<(String, Instant)>>,
}

impl Steps {
    fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            bar.set_style(style);
            bar.enable_steady_tick(std::time::Duration::from_millis(100));
            bar
        });
        Self {
            bar,
            running: Mutex::new(None),
        }
    }

    /// Says how long the step took that ends now.
    fn end_step(&self, next: Option<&str>) {
        let next = next.map(|text| (text.to_owned(), Instant::now()));
        let ended = match self.running.lock() {
            Ok(mut running) => std::mem::replace(&mut *running, next),
            Err(_) => None,
        };
        let Some((text, since)) = ended else { return };
        let line = format!("{:7.1} s  {text}", since.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.println(line),
            None => output::notice(&line),
        }
    }

    fn finish(&self) {
        self.end_step(None);
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Steps {
    fn step(&self, text: &str) {
        self.end_step(Some(text));
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    fn bytes(&self, done: u64, total: Option<u64>) {
        let Some(bar) = &self.bar else { return };
        let step = match self.running.lock() {
            Ok(running) => running.as_ref().map(|(text, _)| text.clone()),
            Err(_) => None,
        };
        let of = total.map(|total| format!(" of {}", size_text(total)));
        bar.set_message(format!(
            "{}  {}{}",
            step.unwrap_or_default(),
            size_text(done),
            of.unwrap_or_default()
        ));
    }
}
