//! Builds images from Dockerfiles in sandboxes of ours.
//!
//! Every step that changes files gets a sandbox of the image so far, which is then
//! committed: a step is as isolated as any sandbox, and what it leaves behind is
//! gone with it. The result is found again under a key of all that the step
//! depends on, so that steps that have not changed cost a look-up each.

mod bench;
mod copy;
mod key;
mod stage;
mod tree;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sandbox::{Error, Image, ImageConfig, NewImage, Result};

use super::{
    ImageBuild, ImageInfo, Job,
    dockerfile::{Dockerfile, Instruction, Problem, expand},
};
use crate::{Control, core::Core};
use copy::blocking;
use stage::{Done, State};
use tree::{Part, Tree, unkept};

pub(crate) use bench::space;

/// How long a whole build may take.
const BUILD_TIME_MAX: Duration = Duration::from_secs(3 * 3600);
/// The image with nothing in it.
const SCRATCH: &str = "scratch";
/// Longest instruction in the log, characters.
const SHOWN_CHARS_MAX: usize = 200;

/// A build that was checked.
pub(super) struct Plan {
    file: Dockerfile,
    args: BTreeMap<String, String>,
    entrypoint: Option<Vec<String>>,
    contexts: Vec<File>,
}

impl Plan {
    /// Reads the Dockerfile and opens the contexts, whose files may then go away.
    ///
    /// # Errors
    /// `InvalidRequest` naming the line, or the file.
    pub(super) fn of(build: ImageBuild) -> Result<Self> {
        let contexts = build.contexts.iter().map(|path| {
            File::open(path)
                .map_err(|error| Error::invalid(format!("the context {}: {error}", path.display())))
        });
        Ok(Self {
            file: Dockerfile::parse(&build.dockerfile)?,
            args: build.args,
            entrypoint: build.entrypoint,
            contexts: contexts.collect::<Result<_>>()?,
        })
    }
}

/// Builds the image and gives it its name.
pub(super) async fn build(
    core: Arc<Core>,
    image: Image,
    plan: Plan,
    job: Arc<Job>,
) -> Result<ImageInfo> {
    let work = Box::pin(whole(core, image, plan, job));
    tokio::time::timeout(BUILD_TIME_MAX, work)
        .await
        .map_err(|_| Error::timeout(format!("the build took longer than {BUILD_TIME_MAX:?}")))?
}

async fn whole(core: Arc<Core>, image: Image, plan: Plan, job: Arc<Job>) -> Result<ImageInfo> {
    let folder = match core.config.store.parent() {
        Some(folder) => folder.to_owned(),
        None => std::env::temp_dir(),
    };
    let Plan {
        file,
        args,
        entrypoint,
        contexts,
    } = plan;
    let mut context = Tree::default();
    for file in contexts {
        let folder = folder.clone();
        let tree = blocking(move || Tree::of(&Part::whole(file).map_err(unkept)?, &folder)).await?;
        context.items.extend(tree.items);
    }
    let wanted = needed(&file);
    let steps = wanted.iter().map(|index| file.stages[*index].steps.len());
    let mut builder = Builder {
        control: Control { core },
        total: wanted.len() + steps.sum::<usize>(),
        file,
        args,
        context,
        folder,
        job,
        done: BTreeMap::new(),
        step: 0,
    };
    for index in wanted {
        let done = builder.stage(index).await?;
        builder.done.insert(index, done);
    }
    let last = builder
        .done
        .pop_last()
        .map(|(_, done)| done)
        .ok_or_else(|| Error::internal("a build without a stage"))?;
    let mut config = last.config;
    if let Some(entrypoint) = entrypoint {
        config.entrypoint = entrypoint;
        config.cmd.clear();
    }
    let new = NewImage {
        name: Some(image.clone()),
        config,
        built_from: None,
    };
    let images = builder.control.core.images()?;
    let made = images.derive(&last.image, &new).await?;
    builder.job.say(format!("built {image} ({})", made.digest));
    Ok(made.into())
}

/// Everything that the stages of one build share.
struct Builder {
    control: Control,
    file: Dockerfile,
    args: BTreeMap<String, String>,
    context: Tree,
    /// For files without a name.
    folder: PathBuf,
    job: Arc<Job>,
    done: BTreeMap<usize, Done>,
    /// Steps begun so far, of `total`.
    step: usize,
    total: usize,
}

impl Builder {
    /// Carries out one stage.
    async fn stage(&mut self, index: usize) -> Result<Done> {
        let (line, base) = (
            self.file.stages[index].line,
            self.file.stages[index].base.clone(),
        );
        let globals = self.globals()?;
        let base = expand(&base, self.file.escape, &|name| globals.get(name).cloned())
            .map_err(|what| Problem::new(line, what))?;
        self.announce(&format!("FROM {base}"));
        let mut state = match self.find_stage(&base, index) {
            Some(done) => State::of(done.clone(), globals),
            None => State::of(self.base(&base).await.map_err(at(line))?, globals),
        };
        // Taken out so that a step may use everything else meanwhile.
        let steps = std::mem::take(&mut self.file.stages[index].steps);
        for step in &steps {
            self.announce(&step.shown);
            state.take(self, index, step).await.map_err(at(step.line))?;
        }
        Ok(state.done)
    }

    /// An image that no stage has made.
    async fn base(&self, name: &str) -> Result<Done> {
        if name == SCRATCH {
            let found = self.control.core.images()?.import(empty()?, None).await?;
            return Ok(Done {
                image: found.digest.parse()?,
                config: found.config,
            });
        }
        let found = self.control.ensure_image(name).await?;
        Ok(Done {
            image: found.digest.parse()?,
            config: ImageConfig {
                env: found.env,
                workdir: found.workdir,
                user: Some(found.user).filter(|user| !user.is_empty()),
                entrypoint: found.entrypoint,
                cmd: found.cmd,
                labels: found.labels,
            },
        })
    }

    /// The stage before `index` that has this name or number.
    fn find_stage(&self, name: &str, index: usize) -> Option<&Done> {
        self.done.get(&stage_named(&self.file, name, index)?)
    }

    /// `ARG`s before the first `FROM`, and those that every build has.
    fn globals(&self) -> Result<BTreeMap<String, String>> {
        let machine = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let mut globals = BTreeMap::new();
        for who in ["TARGET", "BUILD"] {
            for (what, value) in [
                ("PLATFORM", format!("linux/{machine}")),
                ("OS", "linux".to_owned()),
                ("ARCH", machine.to_owned()),
            ] {
                globals.insert(format!("{who}{what}"), value);
            }
        }
        for (name, default) in &self.file.args {
            let value = match (self.args.get(name), default) {
                (Some(given), _) => given.clone(),
                (None, Some(default)) => expand(default, self.file.escape, &|name| {
                    globals.get(name).cloned()
                })
                .map_err(|what| Problem::new(1, what))?,
                (None, None) => continue,
            };
            globals.insert(name.clone(), value);
        }
        Ok(globals)
    }

    fn announce(&mut self, text: &str) {
        self.step += 1;
        let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        self.job
            .say(format!("[{}/{}] {shown}", self.step, self.total));
    }

    fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Says at which line it happened.
fn at(line: usize) -> impl FnOnce(Error) -> Error {
    move |error| {
        let message = match error.message.starts_with("Dockerfile, line") {
            true => error.message.clone(),
            false => Problem::new(line, error.message.as_str()).to_string(),
        };
        Error::new(error.kind, message).with_source(error)
    }
}

/// The stage before `index` with this name, or with this number.
fn stage_named(file: &Dockerfile, name: &str, index: usize) -> Option<usize> {
    let name = name.to_ascii_lowercase();
    let before = &file.stages[..index];
    let named = before
        .iter()
        .rposition(|stage| stage.name.as_deref() == Some(name.as_str()));
    named.or_else(|| name.parse().ok().filter(|number| *number < index))
}

/// The stages that the last one needs, in order. A base is looked at as it is
/// written: with a variable in it, it may be any stage.
fn needed(file: &Dockerfile) -> BTreeSet<usize> {
    let last = file.stages.len() - 1;
    let mut needed = BTreeSet::from([last]);
    for index in (0..=last).rev() {
        if !needed.contains(&index) {
            continue;
        }
        let stage = &file.stages[index];
        let froms = stage
            .steps
            .iter()
            .filter_map(|step| match &step.instruction {
                Instruction::Copy(copy) => copy.from.as_deref(),
                _ => None,
            });
        if stage.base.contains('$') {
            needed.extend(0..index);
        }
        let bases = froms.chain([stage.base.as_str()]);
        let found: Vec<usize> = bases
            .filter_map(|name| stage_named(file, name, index))
            .collect();
        needed.extend(found);
    }
    needed
}

/// An archive with nothing but the root.
fn empty() -> Result<File> {
    use std::io::{Seek as _, Write as _};
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_path("./").map_err(unkept)?;
    header.set_cksum();
    let mut file = tempfile::tempfile().map_err(unkept)?;
    file.write_all(header.as_bytes())
        .and_then(|()| file.write_all(&[0; 1024]))
        .and_then(|()| file.rewind())
        .map_err(unkept)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
