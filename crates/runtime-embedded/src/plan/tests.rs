//! What plans must hold to.

use proptest::prelude::*;

use super::*;

fn plan(slot: u32, env: &[(&str, &str)], ca_layer: Option<&Path>) -> Plan {
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    Plan::new(&Wish {
        id: &"abcdefghijkmnpqrstuvwxyz23".parse().unwrap(),
        slot,
        limits: Limits {
            memory_bytes: 512 << 20,
            cpu_millis: 1500,
            pids: 256,
        },
        network: NetworkMode::Open,
        env: &map(env),
        layers: &[
            "/state/images/layers/one".into(),
            "/state/images/layers/two".into(),
        ],
        image_env: &map(&[("PATH", "/opt/bin:/bin"), ("FROM", "image")]),
        workdir: "/workspace",
        ca_layer,
    })
}

#[test]
fn the_plan_of_a_sandbox_is_reviewed() {
    insta::assert_debug_snapshot!(plan(
        3,
        &[("FROM", "request")],
        Some(Path::new("/state/certificates/one"))
    ));
}

#[test]
fn the_request_wins_over_the_image_and_the_defaults() {
    let plan = plan(
        0,
        &[("FROM", "request"), ("SSL_CERT_FILE", "/mine")],
        Some(Path::new("/c")),
    );
    let has = |text: &str| plan.environment.iter().any(|line| line == text);
    assert!(has("FROM=request") && has("PATH=/opt/bin:/bin") && has("SSL_CERT_FILE=/mine"));
    assert!(has("PIP_CERT=/etc/ssl/certs/ca-certificates.crt") && has("HOME=/root"));
}

#[test]
fn every_mounted_place_is_a_directory_of_the_layer_above_the_image() {
    let plan = plan(0, &[], None);
    for mount in &plan.mounts {
        let first = mount.target.split('/').next().unwrap();
        assert!(
            plan.fresh
                .iter()
                .any(|node| node.path == first && matches!(node.kind, NodeKind::Directory { .. })),
            "{}",
            mount.target
        );
    }
}

proptest! {
    #[test]
    fn id_ranges_of_slots_are_disjoint_and_no_ones_else(a in 0..SLOTS_MAX, b in 0..SLOTS_MAX) {
        let (first, second) = (uid_base(a), uid_base(b));
        prop_assert!(first >= UID_FIRST);
        prop_assert!(first.checked_add(UIDS_PER_SANDBOX).is_some_and(|end| end < 1 << 31));
        prop_assert!(a == b || first.abs_diff(second) >= UIDS_PER_SANDBOX);
    }

    #[test]
    fn nodes_come_after_their_folders_and_stay_inside(cpu in 0u32..1_000_000) {
        let MountKind::Memory { nodes, .. } = content::processors(cpu) else { unreachable!() };
        let mut seen = vec![String::new()];
        for node in nodes {
            let parent = Path::new(&node.path).parent().unwrap();
            prop_assert!(seen.iter().any(|path| Path::new(path) == parent));
            prop_assert!(!node.path.starts_with('/') && !node.path.contains(".."));
            seen.push(node.path);
        }
    }
}
