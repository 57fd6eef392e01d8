#!/usr/bin/env bash
# boot.sh ROOT IMAGES: in namespaces of its own, mounts what a machine has below ROOT
# and becomes its systemd. The images of this host are shared.
set -euo pipefail
root="$1" images="$2"

mount --bind "$root" "$root"
mount --make-private "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
# The control groups as this host has them, in the same places.
findmnt -rn -o TARGET,FSTYPE,OPTIONS -t tmpfs,cgroup,cgroup2 | grep '^/sys/fs/cgroup' | while read -r target type options; do
    mkdir -p "$root$target"
    case "$type" in
        tmpfs) mount -t tmpfs -o mode=755 tmpfs "$root$target" ;;
        cgroup2) mount -t cgroup2 cgroup2 "$root$target" ;;
        cgroup)
            controllers="$(printf %s "$options" | tr , '\n' | grep -vE '^(rw|relatime|nosuid|nodev|noexec)$' | paste -sd,)"
            case "$controllers" in name=*) controllers="none,$controllers" ;; esac
            mount -t cgroup -o "$controllers" cgroup "$root$target"
            ;;
    esac
done
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir -p "$root/var/lib/sandboxai/images" "$root/old"
mount --bind "$images" "$root/var/lib/sandboxai/images"
hostname systemd-test
ip link set lo up
cd "$root"
pivot_root . old
umount -l /old
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --log-target=console --show-status=yes </dev/null
