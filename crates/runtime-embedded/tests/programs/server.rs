//! A server for tests: makes sandboxes, says so, and waits to be killed.
//!
//! Arguments: folder, spawner, first process, `ephemeral`, `lasting` or `doctor`, ids….

use std::{
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use runtime_embedded::{Config, Embedded, Spawner, SpawnerProgram, network::NetworkConfig};
use sandbox::{Limits, NetworkMode, Runtime as _, Spec};

/// Prints what the doctor finds, one thing per line.
fn doctor(config: &Config) -> Result<(), Box<dyn std::error::Error>> {
    for check in runtime_embedded::doctor::checks(config) {
        writeln!(
            io::stdout(),
            "{:?} {}: {}",
            check.status,
            check.name,
            check.finding
        )?;
    }
    for leak in runtime_embedded::doctor::leaks(config) {
        writeln!(io::stdout(), "Leak {} {}", leak.kind, leak.object)?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, spawner, init, mode, ids @ ..] = arguments.as_slice() else {
        return Err("arguments are missing".into());
    };
    let folder = Path::new(folder);
    let agent: &'static [u8] = Vec::leak(std::fs::read(init)?);
    let config = Config {
        state_dir: folder.join("state"),
        run_dir: folder.join("run"),
        scope: "test".to_owned(),
        ephemeral: mode == "ephemeral",
        json_log: false,
        server_uid: 0,
        server_gid: 0,
        network: NetworkConfig {
            lock_dir: folder.join("host"),
            ..NetworkConfig::default()
        },
        ca_certificates: None,
        agent,
        spawner: SpawnerProgram {
            program: PathBuf::from("unshare"),
            args: vec!["--net".into(), "--".into(), spawner.clone()],
        },
    };
    if mode == "doctor" {
        return doctor(&config);
    }
    let spawner = Spawner::launch(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Kept until the end: dropping it is the server's end to the spawner.
    let _embedded = runtime.block_on(async {
        let embedded = Embedded::start(config, spawner).await?;
        let spec = Spec {
            image: "test/box".parse()?,
            env: Default::default(),
            limits: Limits::default(),
            network: NetworkMode::None,
            lease: Default::default(),
            runtime_class: None,
        };
        for id in ids {
            embedded.create(&id.parse()?, &spec).await?;
        }
        Ok::<Embedded, sandbox::Error>(embedded)
    })?;
    writeln!(io::stdout(), "ready")?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
