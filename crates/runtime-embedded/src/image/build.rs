//! From a recipe to an image of the store.
//!
//! The smallest Debian system comes from `mmdebstrap` by the host's own package
//! sources, so that mirrors and proxies set up on the host are used; the rest
//! is installed inside it ([`step`](super::step)); the result takes the same way
//! into the store as any other archive.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sandbox::Image;

use super::{
    ImageError, ImageRecord, Progress, Store, apt_sources,
    manifest::Config,
    recipe::{self, Loaded, Recipe},
    source::Measured,
    step::{SHARE, Steps, ending, missing_or},
    tar_stream::TarStream,
    workspace::Workspace,
};

/// The host's own certificates, used for a build that is given none.
const HOST_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The host's configuration of pip.
const HOST_PIP: &str = "/etc/pip.conf";
/// Variables by which programs find a certificate bundle.
const CERTIFICATE_VARIABLES: [&str; 6] = [
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
];
/// Parts of packages that a sandbox has no use for, by `dpkg`'s own means, so
/// that packages installed later leave them out too.
const DPKG_OPTIONS: [&str; 6] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
];
/// What must not stay in an image: caches, logs, identities, the host's settings.
const CLEAN: &str = "rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old \
    /var/log/* /root/.npm /root/.cache/pip /etc/apt/apt.conf.d/99mmdebstrap /etc/machine-id \
    && mkdir -p /var/lib/apt/lists/partial /var/cache/apt/archives/partial /var/log/apt \
    && : >/etc/machine-id && : >/etc/resolv.conf && rm -f /etc/hostname";

/// How an image is built, beyond its recipe.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// Name of the image instead of the recipe's.
    pub name: Option<Image>,
    /// PEM bundle that the build's downloads trust, instead of the host's. It is
    /// not left in the image.
    pub ca_certificates: Option<PathBuf>,
    /// Build also when the image exists and its recipe has not changed.
    pub no_cache: bool,
    /// Environment of the build's own programs, e.g. `https_proxy` or
    /// `PIP_INDEX_URL`. It is not left in the image.
    pub environment: BTreeMap<String, String>,
}

impl Store {
    /// Builds the image of the recipe in `recipe_dir` (a folder with
    /// `image.toml`) and puts it into the store. An image that was built from
    /// the same recipe before is returned as it is.
    ///
    /// A recipe is trusted like a makefile; it needs root and the programs
    /// `mmdebstrap`, `unshare` and `tar`.
    ///
    /// # Errors
    /// What is wrong with the recipe, which program is missing, or the step that
    /// failed with the end of its output.
    pub fn build(
        &self,
        recipe_dir: &Path,
        options: &BuildOptions,
        progress: &dyn Progress,
    ) -> Result<ImageRecord, ImageError> {
        let loaded = recipe::load(recipe_dir)?;
        let name = options.name.as_ref().unwrap_or(&loaded.name);
        if !options.no_cache
            && let Some(record) = self.built_from(name, &loaded.digest)?
        {
            progress.step("the recipe has not changed since the image was built");
            return Ok(record);
        }
        let workspace = self.workspace()?;
        let environment = prepare(&workspace, options)?;
        let inside = inside_steps(&loaded.recipe);
        let mut steps = Steps {
            workspace: &workspace,
            environment: &environment,
            recipe: loaded.folder.clone(),
            count: inside.len() + 2,
            done: 0,
        };
        bootstrap(&mut steps, &loaded.recipe, progress)?;
        for (title, command) in &inside {
            steps.inside(title, command, progress)?;
        }
        progress.step(&format!(
            "{0}/{0} put the image into the store",
            steps.count
        ));
        self.pack(&workspace, &steps.root(), &loaded, name)
    }

    /// Packs the finished root folder and unpacks it again as a layer: one way
    /// into the store, with one set of rules, and the digest comes with it.
    fn pack(
        &self,
        workspace: &Workspace,
        root: &Path,
        loaded: &Loaded,
        name: &Image,
    ) -> Result<ImageRecord, ImageError> {
        let mut tar = Command::new("tar")
            .args(["--create", "--format=gnu", "--numeric-owner", "--sort=name"])
            .args(["--one-file-system", "--exclude=./dev/*", "--directory"])
            .arg(root)
            .arg(".")
            .stdin(Stdio::from(workspace.lock()?))
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| missing_or("tar", "tar", source))?;
        let output = tar.stdout.take().expect("standard output is a pipe");
        let stream = TarStream::new(Measured::new(output, self.limits.bytes));
        let unpacked = self.unpack(workspace, "layer", stream, None);
        // When unpacking has failed the pipe is closed, and `tar` ends by itself.
        let status = tar.wait().map_err(|source| ImageError::Tool {
            program: "tar",
            source,
        })?;
        let unpacked = unpacked?;
        if !status.success() {
            return Err(ImageError::BuildStep {
                step: "pack the image".to_owned(),
                how: ending(status),
                output: String::new(),
            });
        }
        let config = Config {
            layers: vec![unpacked.layer()],
            env: loaded.recipe.env.clone(),
            workdir: loaded.recipe.workdir.clone(),
            recipe: Some(loaded.digest.clone()),
            ..Config::default()
        };
        self.publish(
            workspace,
            &[(unpacked.digest, unpacked.folder)],
            config,
            Some(name),
        )
    }
}

/// Lays out what the steps inside are given, and returns their environment.
fn prepare(
    workspace: &Workspace,
    options: &BuildOptions,
) -> Result<BTreeMap<String, String>, ImageError> {
    for (name, mode) in [
        ("share", 0o755),
        ("share/recipe", 0o755),
        ("temporary", 0o700),
    ] {
        let path = workspace.path(name);
        DirBuilder::new()
            .mode(mode)
            .create(&path)
            .map_err(ImageError::store("create the folder", path))?;
    }
    let temporary = workspace.path("temporary");
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o1777))
        .map_err(ImageError::store("open to all", temporary))?;
    let mut environment = options.environment.clone();
    let certificates = match &options.ca_certificates {
        Some(path) => Some(path.as_path()),
        None => Some(Path::new(HOST_CERTIFICATES)).filter(|path| path.exists()),
    };
    if let Some(certificates) = certificates {
        copy(certificates, &workspace.path("share/certificates.pem"))?;
        for variable in CERTIFICATE_VARIABLES {
            environment.insert(variable.to_owned(), format!("{SHARE}/certificates.pem"));
        }
    }
    if Path::new(HOST_PIP).exists() {
        copy(Path::new(HOST_PIP), &workspace.path("share/pip.conf"))?;
        environment.insert("PIP_CONFIG_FILE".to_owned(), format!("{SHARE}/pip.conf"));
    }
    Ok(environment)
}

fn copy(from: &Path, to: &Path) -> Result<(), ImageError> {
    fs::copy(from, to)
        .map(drop)
        .map_err(ImageError::store("copy for the build", from))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o644))
        .map_err(ImageError::store("open to all", to))
}

/// The smallest system, and the recipe's Debian packages.
fn bootstrap(
    steps: &mut Steps<'_>,
    recipe: &Recipe,
    progress: &dyn Progress,
) -> Result<(), ImageError> {
    let mut arguments: Vec<String> = ["--mode=root", "--variant=minbase", "--format=directory"]
        .map(str::to_owned)
        .to_vec();
    arguments.push("--aptopt=APT::Install-Recommends \"false\"".to_owned());
    arguments.extend(
        apt_sources::download_options()?
            .into_iter()
            .map(|option| format!("--aptopt={option}")),
    );
    arguments.extend(DPKG_OPTIONS.map(|option| format!("--dpkgopt={option}")));
    if !recipe.packages.is_empty() {
        arguments.push(format!("--include={}", recipe.packages.join(",")));
    }
    arguments.push(recipe.suite.clone());
    arguments.push(steps.root().display().to_string());
    for (name, text) in apt_sources::of_suite(&recipe.suite)? {
        let path = steps.workspace.path(&name);
        fs::write(&path, text).map_err(ImageError::store("write", &path))?;
        arguments.push(path.display().to_string());
    }
    steps.outside(
        &format!(
            "install Debian {} with {} packages",
            recipe.suite,
            recipe.packages.len()
        ),
        ("mmdebstrap", "mmdebstrap"),
        &arguments,
        progress,
    )
}

/// Titles and commands of what happens inside the image.
fn inside_steps(recipe: &Recipe) -> Vec<(String, String)> {
    let mut steps = Vec::new();
    if !recipe.files.is_empty() {
        let copies: Vec<String> = recipe
            .files
            .iter()
            .map(|(target, source)| {
                let target = quoted(target);
                let source = quoted(&format!("{SHARE}/recipe/{source}"));
                format!("install -D -m \"$(stat -c %a {source})\" {source} {target}")
            })
            .collect();
        steps.push((
            format!("copy {} files", recipe.files.len()),
            copies.join(" && "),
        ));
    }
    if !recipe.pip.is_empty() {
        let constraints = recipe
            .pip_constraints
            .as_ref()
            .map(|file| format!("--constraint {}", quoted(&format!("{SHARE}/recipe/{file}"))))
            .unwrap_or_default();
        steps.push((
            format!("install {} Python packages", recipe.pip.len()),
            format!(
                "python3 -m pip install --break-system-packages --no-cache-dir \
                 --disable-pip-version-check --root-user-action=ignore {constraints} -- {}",
                all_quoted(&recipe.pip)
            ),
        ));
    }
    if !recipe.npm.is_empty() {
        steps.push((
            format!("install {} Node.js packages", recipe.npm.len()),
            format!(
                "npm install --global --no-audit --no-fund -- {}",
                all_quoted(&recipe.npm)
            ),
        ));
    }
    for command in &recipe.run {
        const TITLE_CHARS: usize = 60;
        let line: String = command
            .trim()
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(TITLE_CHARS)
            .collect();
        steps.push((format!("run {line}"), command.clone()));
    }
    steps.push((
        "clean up".to_owned(),
        format!("mkdir -p {} && {CLEAN}", quoted(&recipe.workdir)),
    ));
    steps
}

fn all_quoted(words: &[String]) -> String {
    words
        .iter()
        .map(|word| quoted(word))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The word as one word of a shell command.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word_in_the_shell() {
        for word in [
            "plain",
            "two words",
            "it's",
            "$(id)",
            "`id`",
            "a\\b",
            "\"x\"",
        ] {
            let output = Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }

    #[test]
    fn steps_come_in_the_order_of_the_documentation() {
        let recipe: Recipe = toml::from_str(
            "name='a'\npip=['x==1']\nnpm=['y@2']\nrun=['true']\nfiles={'/etc/f'='f'}",
        )
        .unwrap();
        let titles: Vec<String> = inside_steps(&recipe).into_iter().map(|(t, _)| t).collect();
        assert_eq!(
            titles,
            [
                "copy 1 files",
                "install 1 Python packages",
                "install 1 Node.js packages",
                "run true",
                "clean up"
            ]
        );
    }
}
