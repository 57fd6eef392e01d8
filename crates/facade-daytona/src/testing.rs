//! What tests of this crate share.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use control::Control;
use sandbox::{Limits, NetworkMode};
use tempfile::TempDir;
use testkit::FakeRuntime;

/// A control whose sandboxes are pretended; its store is in the folder.
pub(crate) async fn control() -> (Control, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let config = control::Config {
        store: folder.path().join("store.db"),
        delete_on_shutdown: false,
        defaults: control::Defaults {
            image: "sandboxai/box".parse().unwrap(),
            limits: Limits::default(),
            network: NetworkMode::Open,
            idle_timeout: None,
            lifetime_max: None,
        },
        limits_max: Limits {
            memory_bytes: 4 << 30,
            cpu_millis: 4000,
            pids: 4096,
        },
        sandboxes_max: 10,
        creations_at_once: 1,
        create_timeout: Duration::from_secs(20),
        tombstone_ttl: Duration::from_secs(60),
        image_aliases: BTreeMap::new(),
    };
    let runtime = Arc::new(FakeRuntime::new());
    runtime.add_image("sandboxai/box");
    let clock = Arc::new(control::SystemClock);
    let control = Control::start(config, runtime, clock).await.unwrap();
    (control, folder)
}
