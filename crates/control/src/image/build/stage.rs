//! One stage of a build: the image so far, and what each instruction does to it.

use std::collections::BTreeMap;

use bytes::Bytes;
use sandbox::{Error, Image, ImageConfig, NewImage, Result};

use super::{
    Builder,
    bench::{Bench, Setting},
    copy::{self, Content, Landing, Put, Taken, What, blocking},
    key::Key,
    tree::{Part, unkept},
};
use crate::image::dockerfile::{Copy, Instruction, Program, Source, Step, expand, expand_text};

/// Largest file that `ADD` fetches, bytes.
const FETCHED_BYTES_MAX: u64 = 4 << 30;
/// Permissions of such a file, as Docker gives them.
const FETCHED_MODE: u32 = 0o600;

/// An image, by its digest, and what it is to say.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) image: Image,
    pub(super) config: ImageConfig,
}

/// A stage under way.
pub(super) struct State {
    pub(super) done: Done,
    /// `ARG`s of this stage.
    args: BTreeMap<String, String>,
    /// `ARG`s before the first `FROM`: a stage has to ask for them.
    globals: BTreeMap<String, String>,
    /// What runs lines that are no lists.
    shell: Vec<String>,
    /// Whether `CMD` still is that of the base, which a new `ENTRYPOINT` drops.
    cmd_is_inherited: bool,
}

impl State {
    pub(super) fn of(done: Done, globals: BTreeMap<String, String>) -> Self {
        Self {
            done,
            args: BTreeMap::new(),
            globals,
            shell: vec!["/bin/sh".to_owned(), "-c".to_owned()],
            cmd_is_inherited: true,
        }
    }

    fn lookup(&self, name: &str) -> Option<String> {
        let env = self.done.config.env.get(name);
        env.or_else(|| self.args.get(name)).cloned()
    }

    fn expand(&self, builder: &Builder, word: &str) -> Result<String> {
        expand(word, builder.file.escape, &|name| self.lookup(name)).map_err(Error::invalid)
    }

    fn expand_pairs(
        &self,
        builder: &Builder,
        pairs: &[(String, String)],
    ) -> Result<Vec<(String, String)>> {
        let expand = |word: &str| self.expand(builder, word);
        pairs
            .iter()
            .map(|(name, value)| Ok((expand(name)?, expand(value)?)))
            .collect()
    }

    /// Carries out one instruction.
    pub(super) async fn take(
        &mut self,
        builder: &Builder,
        index: usize,
        step: &Step,
    ) -> Result<()> {
        match &step.instruction {
            Instruction::Run(program) => self.run(builder, program).await?,
            Instruction::Copy(copy) => self.copy(builder, index, copy).await?,
            Instruction::Workdir(path) => self.workdir(builder, path).await?,
            Instruction::Env(pairs) => {
                // All of them see what was before the instruction.
                let pairs = self.expand_pairs(builder, pairs)?;
                self.done.config.env.extend(pairs);
            }
            Instruction::Label(pairs) => {
                let pairs = self.expand_pairs(builder, pairs)?;
                self.done.config.labels.extend(pairs);
            }
            Instruction::Arg(args) => {
                for (name, default) in args {
                    self.arg(builder, name, default.as_deref())?;
                }
            }
            Instruction::User(user) => self.done.config.user = Some(self.expand(builder, user)?),
            Instruction::Shell(words) => self.shell.clone_from(words),
            Instruction::Entrypoint(program) => {
                self.done.config.entrypoint = self.words(program);
                if self.cmd_is_inherited {
                    self.done.config.cmd.clear();
                }
            }
            Instruction::Cmd(program) => {
                self.done.config.cmd = self.words(program);
                self.cmd_is_inherited = false;
            }
            Instruction::Nothing(why) => builder.job.say(format!("  no effect: {why}")),
        }
        Ok(())
    }

    fn words(&self, program: &Program) -> Vec<String> {
        match program {
            Program::Exec(words) => words.clone(),
            Program::Shell(line) => {
                let mut words = self.shell.clone();
                words.push(line.clone());
                words
            }
        }
    }

    fn arg(&mut self, builder: &Builder, name: &str, default: Option<&str>) -> Result<()> {
        let value = match (builder.args.get(name), default) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => Some(self.expand(builder, default)?),
            (None, None) => self.globals.get(name).cloned(),
        };
        if let Some(value) = value {
            self.args.insert(name.to_owned(), value);
        }
        Ok(())
    }

    async fn run(&mut self, builder: &Builder, program: &Program) -> Result<()> {
        let words = self.words(program);
        let config = &self.done.config;
        let mut env = self.args.clone();
        env.extend(config.env.clone());
        let mut key = self.key("run");
        for word in &words {
            key.add(word);
        }
        key.add("environment");
        for (name, value) in &env {
            key.add(name);
            key.add(value);
        }
        key.add(&config.workdir);
        key.add(config.user.as_deref().unwrap_or_default());
        let key = key.finish();
        if self.find(builder, &key).await? {
            return Ok(());
        }
        let bench = self.bench(builder).await?;
        let setting = Setting {
            env,
            workdir: &self.done.config.workdir,
            user: self.done.config.user.clone(),
        };
        bench.run(words, setting, &builder.job).await?;
        self.commit(bench, key).await
    }

    async fn workdir(&mut self, builder: &Builder, path: &str) -> Result<()> {
        let path = self.absolute(&self.expand(builder, path)?);
        let mut key = self.key("workdir");
        key.add(&path);
        let key = key.finish();
        self.done.config.workdir.clone_from(&path);
        if self.find(builder, &key).await? {
            return Ok(());
        }
        let bench = self.bench(builder).await?;
        bench.make_folder(&path, None).await?;
        self.commit(bench, key).await
    }

    async fn copy(&mut self, builder: &Builder, index: usize, copy: &Copy) -> Result<()> {
        let mut target = self.expand(builder, &copy.target)?;
        let is_folder = target.ends_with('/') || target == "." || target.ends_with("/.");
        target = self.absolute(&target);
        if is_folder && !target.ends_with('/') {
            target.push('/');
        }
        let owner = match &copy.owner {
            Some(owner) => Some(self.expand(builder, owner)?),
            None => None,
        };
        let mut key = self.key("copy");
        key.add(&target);
        key.add(owner.as_deref().unwrap_or_default());
        key.add(copy.mode.map(|mode| mode.to_string()).unwrap_or_default());
        let from = match &copy.from {
            Some(name) => Some(match builder.find_stage(name, index) {
                Some(done) => done.clone(),
                None => builder.base(name).await?,
            }),
            None => None,
        };
        let landing = Landing {
            target: &target,
            owner: owner.as_deref(),
            mode: copy.mode,
        };
        if let Some(from) = from {
            key.add("from");
            key.add(from.image.as_str());
            for source in &copy.sources {
                key.add(self.path(builder, source)?);
            }
            let key = key.finish();
            if self.find(builder, &key).await? {
                return Ok(());
            }
            let from = Bench::of(&builder.control, &from.image).await?;
            let mut taken = Vec::new();
            for source in &copy.sources {
                let path = self.path(builder, source)?;
                taken.extend(copy::from_bench(&from, &path).await?);
            }
            let bench = self.bench(builder).await?;
            copy::put(&bench, Some(&from), taken, &landing).await?;
            return self.commit(bench, key).await;
        }
        let mut taken = Vec::new();
        for source in &copy.sources {
            taken.extend(self.taken(builder, copy.is_add, source).await?);
        }
        let (taken, key) = blocking(move || {
            copy::note(&mut key, &taken)?;
            Ok((taken, key.finish()))
        })
        .await?;
        if self.find(builder, &key).await? {
            return Ok(());
        }
        let bench = self.bench(builder).await?;
        copy::put(&bench, None, taken, &landing).await?;
        self.commit(bench, key).await
    }

    /// The path that a source names in another stage.
    fn path(&self, builder: &Builder, source: &Source) -> Result<String> {
        match source {
            Source::Path(path) => self.expand(builder, path),
            Source::Inline { .. } => Err(Error::invalid(
                "a text of the Dockerfile cannot come from another stage",
            )),
        }
    }

    /// What a source of the context, of the Dockerfile or of a URL is.
    async fn taken(&self, builder: &Builder, is_add: bool, source: &Source) -> Result<Vec<Taken>> {
        let pattern = match source {
            Source::Inline {
                name,
                text,
                expands,
            } => {
                let text = match expands {
                    true => expand_text(text, builder.file.escape, &|name| self.lookup(name))
                        .map_err(Error::invalid)?,
                    false => text.clone(),
                };
                return Ok(one(name, 0o644, Content::Text(Bytes::from(text))));
            }
            Source::Path(path) => self.expand(builder, path)?,
        };
        let is_url = pattern.starts_with("http://") || pattern.starts_with("https://");
        if is_url && !is_add {
            return Err(Error::invalid("COPY takes no URL; use ADD"));
        }
        if is_url {
            return fetched(builder, &pattern).await;
        }
        let mut taken = copy::from_context(&builder.context, &pattern)?;
        if is_add {
            for taken in &mut taken {
                if let What::One(Put {
                    content: Content::Part(part),
                    ..
                }) = &taken.what
                    && part.is_archive()
                    && is_archive_name(&taken.name)
                {
                    taken.what = copy::unpacked(part.clone(), builder.folder()).await?;
                }
            }
        }
        Ok(taken)
    }

    /// The path below the working directory.
    fn absolute(&self, path: &str) -> String {
        let whole = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("{}/{path}", self.done.config.workdir),
        };
        let ends_with_slash = whole.ends_with('/');
        let mut parts: Vec<&str> = Vec::new();
        for part in whole.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let path = format!("/{}", parts.join("/"));
        match ends_with_slash && path != "/" {
            true => format!("{path}/"),
            false => path,
        }
    }

    /// A key that begins with the image so far.
    fn key(&self, kind: &str) -> Key {
        let mut key = Key::new(kind);
        key.add(self.done.image.as_str());
        key
    }

    /// Goes on with the kept result of the same step, if there is one.
    async fn find(&mut self, builder: &Builder, key: &str) -> Result<bool> {
        let images = builder.control.core.images()?;
        let Some(found) = images.find_built(key).await? else {
            return Ok(false);
        };
        builder.job.say("  done before");
        self.done.image = found.digest.parse()?;
        Ok(true)
    }

    async fn bench(&self, builder: &Builder) -> Result<Bench> {
        Bench::of(&builder.control, &self.done.image).await
    }

    async fn commit(&mut self, bench: Bench, key: String) -> Result<()> {
        let new = NewImage {
            name: None,
            config: self.done.config.clone(),
            built_from: Some(key),
        };
        self.done.image = bench.commit(&new).await?.digest.parse()?;
        Ok(())
    }
}

/// Only what is called an archive is unpacked: a compressed database dump is not.
fn is_archive_name(name: &str) -> bool {
    [".tar", ".tar.gz", ".tgz"]
        .iter()
        .any(|end| name.ends_with(end))
}

fn one(name: &str, mode: u32, content: Content) -> Vec<Taken> {
    let put = Put {
        path: String::new(),
        mode,
        content,
    };
    vec![Taken {
        name: name.to_owned(),
        what: What::One(put),
    }]
}

/// The file that a URL gives.
async fn fetched(builder: &Builder, url: &str) -> Result<Vec<Taken>> {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let name = path.rsplit('/').next().unwrap_or_default();
    if name.is_empty() {
        return Err(Error::invalid(format!("{url} names no file")));
    }
    let folder = builder.folder().to_owned();
    let file = blocking(move || tempfile::tempfile_in(folder).map_err(unkept)).await?;
    let mut sink = tokio::fs::File::from_std(file.try_clone().map_err(unkept)?);
    let fetch = builder.control.core.fetch()?;
    fetch.file(url, FETCHED_BYTES_MAX, &mut sink).await?;
    // What is still on its way to the disk has to arrive first.
    sink.sync_all().await.map_err(unkept)?;
    let part = Part::whole(file).map_err(unkept)?;
    Ok(one(name, FETCHED_MODE, Content::Part(part)))
}
