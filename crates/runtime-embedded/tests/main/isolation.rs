//! What a sandbox can see, reach and use up, looked at from inside.

use std::{fs, path::Path};

use runtime_embedded::Embedded;
use sandbox::{Id, Runtime as _, Spec};

use crate::support::{Place, append_folder, append_link, shell, spec};

/// A running sandbox of its own place.
struct Inside {
    place: Place,
    embedded: Embedded,
    id: Id,
}

impl Inside {
    async fn new() -> Self {
        Self::with(Place::new(), spec()).await
    }

    async fn with(place: Place, spec: Spec) -> Self {
        let embedded = place.start().await;
        let id = Id::random().unwrap();
        embedded.create(&id, &spec).await.unwrap();
        Self {
            place,
            embedded,
            id,
        }
    }

    async fn shell(&self, script: &str) -> String {
        shell(&self.embedded, &self.id, script).await
    }

    async fn end(self) {
        self.embedded.destroy(&self.id).await.unwrap();
        self.place.assert_nothing_left();
    }
}

#[tokio::test]
async fn k01_to_k04_identity_capabilities_and_filter() {
    let inside = Inside::new().await;
    let map = inside.shell("busybox cat /proc/self/uid_map").await;
    let numbers: Vec<u64> = map.split_whitespace().map(|n| n.parse().unwrap()).collect();
    assert!(
        matches!(numbers[..], [0, base, 65_536] if base >= 1_000_000),
        "{map}"
    );
    for process in ["1", "self"] {
        let status = inside
            .shell(&format!("busybox cat /proc/{process}/status"))
            .await;
        let line = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_once(':').unwrap().1.trim().to_owned()
        };
        // chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service sys_chroot
        for set in ["CapPrm", "CapEff", "CapBnd", "CapInh"] {
            assert_eq!(line(set), "00000000000405fb", "{set} of {process}");
        }
        assert_eq!(line("CapAmb"), "0000000000000000");
        assert_eq!(
            (line("NoNewPrivs"), line("Seccomp")),
            ("1".into(), "2".into())
        );
        assert_eq!(line("Uid"), "0\t0\t0\t0");
        assert_eq!(line("Groups"), "");
    }
    inside.end().await;
}

#[tokio::test]
async fn k07_to_k31_the_host_cannot_be_seen_or_reached() {
    let inside = Inside::new().await;
    let host = |path: &str| fs::read_link(path).unwrap().to_string_lossy().into_owned();
    for namespace in ["mnt", "pid", "net", "ipc", "uts", "user", "cgroup"] {
        let path = format!("/proc/self/ns/{namespace}");
        let seen = inside.shell(&format!("busybox readlink {path}")).await;
        assert_ne!(seen.trim_end(), host(&path), "{namespace}");
    }
    let refused = [
        "busybox unshare -U busybox true",
        "busybox mount -t tmpfs none /mnt",
        "busybox mount -o remount,rw /proc/sys",
        "busybox umount /proc/kcore",
        "busybox mknod /tmp/disk b 254 0",
        "busybox hostname other",
        "busybox chroot / busybox mount -t proc proc /proc",
        "echo 1 > /proc/sys/kernel/core_pattern",
        "echo b > /proc/sysrq-trigger",
        "echo -1000 > /proc/1/oom_score_adj",
        "echo x > /proc/1/environ",
        "busybox cat /proc/1/environ",
        "busybox readlink /proc/1/fd/3",
        "busybox dmesg",
    ];
    for command in refused {
        let output = inside
            .shell(&format!("({command}) >/dev/null 2>&1 && echo worked; true"))
            .await;
        assert_eq!(output, "", "{command}");
    }
    let groups = inside.shell("busybox cat /proc/self/cgroup").await;
    assert!(groups.lines().all(|line| line.ends_with(":/")), "{groups}");
    let mounts = inside.shell("busybox cat /proc/self/mountinfo").await;
    let folder = inside.place.path().to_str().unwrap();
    assert!(
        !mounts.contains(folder) && !mounts.contains("sysfs"),
        "{mounts}"
    );
    let descriptors = inside.shell("busybox ls /proc/self/fd").await;
    let high = descriptors
        .split_whitespace()
        .filter(|fd| fd.parse::<u32>().unwrap() > 2);
    // Standard streams, and the folder that ls itself has open.
    assert!(high.count() <= 2, "{descriptors}");
    inside.end().await;
}

#[tokio::test]
async fn k14_masked_parts_of_proc_are_empty_and_not_from_dev() {
    let inside = Inside::new().await;
    for name in [
        "kcore",
        "keys",
        "timer_list",
        "kallsyms",
        "interrupts",
        "kmsg",
    ] {
        if !Path::new("/proc").join(name).exists() {
            continue;
        }
        let size = inside
            .shell(&format!("busybox cat /proc/{name} | busybox wc -c"))
            .await;
        assert_eq!(size.trim(), "0", "{name}");
        let kind = inside
            .shell(&format!("busybox stat -c %F /proc/{name}"))
            .await;
        assert_eq!(kind, "regular empty file\n", "{name}");
    }
    let mounts = inside.shell("busybox cat /proc/self/mountinfo").await;
    assert!(
        mounts.lines().any(|line| line.contains(" /proc/sys ro")),
        "{mounts}"
    );
    inside.end().await;
}

#[tokio::test]
async fn fresh_places_are_as_planned() {
    let inside = Inside::new().await;
    let devices = inside.shell("busybox ls /dev").await;
    let devices: Vec<&str> = devices.split_whitespace().collect();
    let expected = [
        "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    ];
    assert_eq!(devices, expected);
    assert_eq!(
        inside
            .shell("echo x > /dev/null; busybox head -c 2 /dev/zero | busybox wc -c")
            .await
            .trim(),
        "2"
    );
    assert_eq!(
        inside
            .shell("busybox ls -A /tmp; busybox stat -c %a /tmp")
            .await,
        "1777\n"
    );
    assert_eq!(
        inside
            .shell("busybox cat /sys/devices/system/cpu/online")
            .await,
        "0\n"
    );
    assert_eq!(
        inside
            .shell("busybox touch /sys/x 2>&1 | busybox grep -c -i read-only")
            .await,
        "1\n"
    );
    let name: String = inside.id.as_str().chars().take(12).collect();
    assert_eq!(
        inside
            .shell("busybox hostname; busybox cat /etc/hostname")
            .await,
        format!("{name}\n{name}\n")
    );
    assert_eq!(
        inside.shell("ulimit -n; ulimit -Hn; ulimit -c").await,
        "1024\n4096\n0\n"
    );
    // The image's root belongs to the sandbox's root, and can be written to.
    assert_eq!(
        inside
            .shell(
                "busybox stat -c %u /bin/busybox; echo x > /bin/new && busybox rm /bin/new; echo $?"
            )
            .await,
        "0\n0\n"
    );
    // A folder of the image can be renamed.
    assert_eq!(
        inside
            .shell("busybox mv /root /home2 && busybox ls -d /home2")
            .await,
        "/home2\n"
    );
    inside.end().await;
}

#[tokio::test]
async fn r01_and_r02_limits_hold_and_the_agent_lives() {
    let inside = Inside::new().await;
    let output = inside
        .shell("i=0; while [ $i -lt 100 ]; do busybox sleep 100 & i=$((i+1)); done 2>&1; echo end")
        .await;
    assert!(output.contains("can't fork"), "{output}");
    let usage = inside.embedded.usage(&inside.id).await.unwrap();
    assert!(usage.pids >= 32 && usage.pids <= 40, "{usage:?}");
    // Still answers, with the workload's processes used up.
    let refused = inside.shell("echo hi").await;
    assert!(refused == "hi\n" || refused.contains("fork"), "{refused}");
    inside.end().await;

    let inside = Inside::new().await;
    let script = "busybox dd if=/dev/zero of=/dev/null bs=200M count=1 2>&1; echo status $?";
    let output = inside.shell(script).await;
    assert!(output.contains("status 137"), "{output}");
    assert!(inside.embedded.usage(&inside.id).await.unwrap().oom_kills >= 1);
    assert_eq!(inside.shell("echo hi").await, "hi\n");
    // A tmpfs counts too.
    let output = inside
        .shell("busybox dd if=/dev/zero of=/dev/shm/x bs=1M count=100 2>&1; echo")
        .await;
    assert!(output.contains("No space left"), "{output}");
    inside.end().await;
}

#[tokio::test]
async fn r04_sandboxes_do_not_share_kernel_quotas() {
    let place = Place::new();
    let embedded = place.start().await;
    let ids = [Id::random().unwrap(), Id::random().unwrap()];
    let mut maps = Vec::new();
    for id in &ids {
        embedded.create(id, &spec()).await.unwrap();
        maps.push(shell(&embedded, id, "busybox cat /proc/self/uid_map").await);
    }
    assert_ne!(maps[0], maps[1]);
    // The kernel counts them by the user who has made the user namespace.
    let first = shell(&embedded, &ids[0], "take watches").await;
    let second = shell(&embedded, &ids[1], "take watches").await;
    assert!(first.parse::<u32>().unwrap() > 10, "{first}");
    assert_eq!(first, second);
    for id in &ids {
        embedded.destroy(id).await.unwrap();
    }
    place.assert_nothing_left();
}

/// CVE-2026-41579 and its relatives: a link in the image where something is mounted.
#[tokio::test]
async fn k32_cve_2026_41579_dev_as_a_link_is_contained() {
    let outside = tempfile::tempdir().unwrap();
    let place = Place::new();
    let target = outside.path().to_str().unwrap().to_owned();
    place.import("test/hostile", |archive| {
        append_link(archive, "dev", &target)
    });
    let mut hostile = spec();
    hostile.image = "test/hostile".parse().unwrap();
    let inside = Inside::with(place, hostile).await;
    let kind = inside
        .shell("busybox stat -c %F /dev; busybox ls /dev/null")
        .await;
    assert_eq!(kind, "directory\n/dev/null\n");
    inside.end().await;
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: the same for `/proc` and others.
#[tokio::test]
async fn k33_cve_2019_19921_links_at_mount_points_are_contained() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("resolv.conf"), "untouched").unwrap();
    let target = outside.path().to_str().unwrap().to_owned();
    let ways = [
        target.clone(),
        format!("../../../..{target}"),
        "/proc/self/root".to_owned(),
    ];
    for place_of_link in [
        "proc",
        "sys",
        "run",
        "tmp",
        "etc",
        "dev/shm",
        "dev/pts",
        "etc/resolv.conf",
        "etc/hosts",
    ] {
        for way in &ways {
            let place = Place::new();
            place.import("test/hostile", |archive| {
                if let Some(parent) = Path::new(place_of_link).parent().and_then(Path::to_str)
                    && !parent.is_empty()
                {
                    append_folder(archive, parent);
                }
                if place_of_link != "tmp" {
                    append_link(archive, place_of_link, way);
                }
            });
            let mut hostile = spec();
            hostile.image = "test/hostile".parse().unwrap();
            let inside = Inside::with(place, hostile).await;
            let script = "busybox stat -c %F /proc /sys /run /tmp /etc /dev/shm /dev/pts; \
                echo changed > /etc/resolv.conf; echo x > /tmp/x; echo x > /run/x; echo x > /dev/shm/x";
            let output = inside.shell(script).await;
            assert_eq!(output, "directory\n".repeat(7), "{place_of_link} -> {way}");
            inside.end().await;
            assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
            assert_eq!(
                fs::read_to_string(outside.path().join("resolv.conf")).unwrap(),
                "untouched"
            );
        }
    }
}

#[tokio::test]
async fn certificates_of_the_operator_replace_those_of_the_image() {
    let place = Place::new();
    let bundle = place.path().join("bundle.pem");
    fs::write(&bundle, "PEM of the operator\n").unwrap();
    let mut config = place.config(false);
    config.ca_certificates = Some(bundle);
    let embedded = place.start_with(config).await;
    let id = Id::random().unwrap();
    embedded.create(&id, &spec()).await.unwrap();
    let output = shell(&embedded, &id, "busybox cat $SSL_CERT_FILE $PIP_CERT").await;
    assert_eq!(output, "PEM of the operator\n".repeat(2));
    embedded.destroy(&id).await.unwrap();
    place.assert_nothing_left();
}
