#!/usr/bin/env bash
# Runs the unit of deploy/systemd under a real systemd, which is the first process of
# a container made for it: start, restart with sandboxes that go on, a server that is
# killed, an upgrade, the end of the power, backup and restore. What is checked is in
# checks.sh; docs/operations.md says the same to people.
#
#   tests/systemd/run.sh
#
#   SANDBOXAI_BINARY            the program to test; default: target/debug/sandboxai, built first
#   SANDBOXAI_SERVER_STATE_DIR  holds the image sandboxai/box
#
# Needs root. Debian's files are kept in target/systemd for the next run.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh

PACKAGES=systemd,systemd-sysv,dbus,curl,iproute2,nftables,procps
# How long systemd may take until it runs commands, and then a part of the checks, seconds.
BOOT_SECONDS=60
PART_SECONDS=300
WORK="$PWD/target/systemd"
GROUP="sandboxai-systemd-test-$$"
HERE="$PWD/tests/systemd"
# Nothing of this host's environment, which names files that the container has not.
CLEAN=(env --ignore-environment PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root)

[ "$(id -u)" -eq 0 ] || die "a container is made: run this as root"
[ -d "$STATE_DIR/images" ] || die "$STATE_DIR has no images: build images/box first"
if [ -z "${SANDBOXAI_BINARY:-}" ]; then
    cargo build --quiet --locked --package sandboxai-server
    SANDBOXAI_BINARY="$PWD/target/debug/sandboxai"
fi
if ! command -v mmdebstrap >/dev/null; then
    say "installing mmdebstrap"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap >/dev/null
fi
if [ ! -e "$WORK/guest.complete" ]; then
    say "fetching Debian: $PACKAGES"
    rm -rf "$WORK"
    mkdir -p "$WORK"
    mmdebstrap --quiet --variant=minbase --include="$PACKAGES" bookworm "$WORK/guest"
    touch "$WORK/guest.complete"
fi

root="$(mktemp -d "$WORK/run.XXXXXX")"
first=
end() {
    power_off
    for mount in /sys/fs/cgroup /sys/fs/cgroup/*; do
        [ -d "$mount/$GROUP" ] && find "$mount/$GROUP" -depth -type d -exec rmdir {} + 2>/dev/null
    done
    rm -rf --one-file-system "$root"
}
trap end EXIT

# Ends the container as the end of the power does: nobody is told.
power_off() {
    [ -n "$first" ] || return 0
    kill -KILL "$first" 2>/dev/null || true
    while kill -0 "$first" 2>/dev/null; do sleep 0.1; done
    first=
}

# Groups of the container's own, so that those of this host are not touched.
own_groups() {
    local mount folder
    for mount in $(findmnt -rn -o TARGET -t cgroup,cgroup2); do
        folder="$mount/$GROUP"
        mkdir -p "$folder"
        if [ -e "$folder/cpuset.cpus" ] && [ ! -e "$folder/cgroup.type" ]; then
            cat "$mount/cpuset.cpus" >"$folder/cpuset.cpus"
            cat "$mount/cpuset.mems" >"$folder/cpuset.mems"
        fi
        echo "$BASHPID" >"$folder/cgroup.procs"
    done
}

power_on() {
    (
        own_groups
        exec "${CLEAN[@]}" unshare --mount --pid --fork --ipc --uts --net --cgroup --propagation private \
            bash "$HERE/boot.sh" "$root" "$STATE_DIR/images"
    ) >"$WORK/console.log" 2>&1 &
    local parent=$! tries=0
    until inside systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded'; do
        first="$(pgrep --parent "$parent" || true)"
        tries=$((tries + 1))
        [ $tries -lt $((BOOT_SECONDS * 5)) ] || die "systemd does not start: $WORK/console.log"
        sleep 0.2
    done
}

inside() {
    [ -n "$first" ] && nsenter --target "$first" --mount --pid --ipc --uts --net --cgroup --root --wd "${CLEAN[@]}" "$@"
}

part() {
    say "$1"
    inside timeout "$PART_SECONDS" bash /root/checks.sh "$1" && return
    inside journalctl --unit sandboxai --no-pager --output cat --lines 30 >&2
    die "$1 failed"
}

cp -a "$WORK/guest/." "$root"
install -m 755 "$SANDBOXAI_BINARY" "$root/usr/local/bin/sandboxai"
install -m 644 deploy/systemd/sandboxai.service "$root/etc/systemd/system/"
install -m 755 "$HERE/checks.sh" "$root/root/checks.sh"
power_on
for name in service upgrade backup; do part "$name"; done
power_off
power_on
for name in power restore; do part "$name"; done
say "the unit works under systemd $(inside systemctl --version | head -1)"
