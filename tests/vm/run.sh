#!/usr/bin/env bash
# Runs the program on a stock Debian kernel in a virtual machine: control groups
# of the second version, an ext4 disk, nftables, nothing else installed. What is
# checked is in guest.sh. The machine is emulated, which is slow but works everywhere.
#
#   tests/vm/run.sh [SUITE…]    suites whose kernel to use; default: bookworm
#
#   SANDBOXAI_BINARY            the program to test; default: target/debug/sandboxai, built first
#   SANDBOXAI_SERVER_STATE_DIR  if it holds the image sandboxai/box, Python is checked too
#   VM_ACCELERATOR              kvm, where that works; default: tcg, emulation
#   VM_CMDLINE                  more words for the kernel's command line
#
# Needs root and x86_64. Everything made lies in target/vm, where the packages'
# files are kept for the next run; the disks are removed.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh

# The program under test is linked against this release's libraries.
GUEST_SUITE=bookworm
GUEST_PACKAGES=mount,iproute2,nftables,kmod,curl,busybox-static,procps,libgcc-s1
KERNEL_PACKAGE=linux-image-cloud-amd64
# Given out to sandboxes in the guest; three of them live at once.
MEMORY_MIB=2048
# The slowest emulation needs a tenth of it.
LIMIT_SECONDS=3000
WORK="$PWD/target/vm"

[ "$(id -u)" -eq 0 ] || die "the guest's disk is made with its own users: run this as root"
[ "$(uname -m)" = x86_64 ] || die "this test is for x86_64"

install_missing() {
    local missing=() pair
    for pair in qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap mke2fs:e2fsprogs \
        modprobe:kmod cpio:cpio busybox:busybox-static; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Package sources for a suite: this host's own servers, where it is a Debian.
# Without any, mmdebstrap knows where to look.
sources() {
    apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Origin: Debian' \
        | sort -u | while read -r uri release; do
        case "$release" in
            *-security) echo "deb $uri $1-security main" ;;
            *-*) ;;
            *) echo "deb $uri $1 main" ;;
        esac
    done | sort -u
}

# unpacked FOLDER SUITE OPTION…: packages of the suite in target/vm/FOLDER.
unpacked() {
    local folder="$WORK/$1" suite="$2" list
    shift 2
    [ -e "$folder.complete" ] && return
    say "fetching Debian $suite: $*"
    rm -rf "$folder"
    list="$(mktemp --suffix=.list)"
    sources "$suite" >"$list"
    local from=()
    [ -s "$list" ] && from=("$list")
    mmdebstrap --quiet "$@" "$suite" "$folder" "${from[@]}"
    rm -f "$list"
    touch "$folder.complete"
}

# Finds and mounts the disk. The guest cannot start from an initramfs alone:
# a sandbox's root can only be changed where the root is a real file system.
make_initramfs() {
    local modules="$1" release="$2" target="$3" tree="$disks/initramfs" module
    mkdir -p "$tree"/{bin,dev,proc,modules,root}
    cp "$(command -v busybox)" "$tree/bin/busybox"
    local count=100
    modprobe --dirname "$modules" --set-version "$release" --show-depends --all \
        virtio_pci virtio_blk ext4 | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' \
        | while read -r module; do
            # insmod takes no compressed file.
            case "$module" in
                *.xz) xz -dc "$module" >"$tree/modules/$count.ko" ;;
                *) cp "$module" "$tree/modules/$count.ko" ;;
            esac
            count=$((count + 1))
        done
    cat >"$tree/init" <<'END'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox mount -t proc none /proc
for module in /modules/*.ko; do /bin/busybox insmod "$module"; done
for try in 1 2 3 4 5 6 7 8 9 10; do
    [ -b /dev/vda ] && break
    /bin/busybox sleep 1
done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox umount /proc
exec /bin/busybox switch_root /root /test/guest.sh init
END
    chmod +x "$tree/init"
    (cd "$tree" && find . | cpio --quiet --create --format newc) | gzip -1 >"$target"
}

# The guest's root: Debian, the kernel's modules, the program and the test.
make_disk() {
    local modules="$1" release="$2" target="$3" tree="$disks/root"
    cp -a --reflink=auto "$WORK/guest" "$tree"
    mkdir -p "$tree/lib/modules" "$tree/test" "$tree/image"/{bin,etc,tmp,root,proc,dev,sys}
    cp -a "$modules/lib/modules/$release" "$tree/lib/modules/"
    install -m 755 "$binary" "$tree/usr/local/bin/sandboxai"
    strip --strip-debug "$tree/usr/local/bin/sandboxai" 2>/dev/null || true
    install -m 755 tests/vm/guest.sh "$tree/test/guest.sh"
    cp "$(command -v busybox)" "$tree/image/bin/busybox"
    chroot "$tree/image" /bin/busybox --install -s /bin
    echo "root:x:0:0:root:/root:/bin/sh" >"$tree/image/etc/passwd"
    tar -C "$tree/image" --numeric-owner -cf "$tree/test/busybox.tar" .
    rm -rf "$tree/image"
    mke2fs -q -t ext4 -d "$tree" "$target" 3G
}

# A second disk with the images of this machine, if the default one is there.
make_image_disk() {
    local target="$1"
    grep -qs '"sandboxai/box' "$STATE_DIR/images/names.json" || return 0
    mke2fs -q -t ext4 -d "$STATE_DIR/images" "$target" 3G
}

run_suite() {
    local suite="$1" kernel="$WORK/kernel-$1" release console images=()
    unpacked "kernel-$suite" "$suite" --variant=extract --include="$KERNEL_PACKAGE"
    release="$(basename "$(echo "$kernel"/boot/vmlinuz-*)")"
    release="${release#vmlinuz-}"
    console="$WORK/console-$suite.log"
    [ -e "$kernel/lib/modules" ] || ln -s usr/lib "$kernel/lib"
    depmod --basedir "$kernel" "$release"
    disks="$(mktemp -d "$WORK/run.XXXXXX")"
    say "making the disks of a guest with Linux $release"
    make_initramfs "$kernel" "$release" "$disks/initramfs.gz"
    make_disk "$kernel" "$release" "$disks/root.img"
    make_image_disk "$disks/images.img"
    [ -e "$disks/images.img" ] && images=(-drive "file=$disks/images.img,format=raw,if=virtio,cache=unsafe")
    say "running the guest; its console is kept in ${console#"$PWD"/}"
    timeout --foreground "$LIMIT_SECONDS" qemu-system-x86_64 \
        -accel "${VM_ACCELERATOR:-tcg}" -cpu max -smp 2 -m "$MEMORY_MIB" \
        -nodefaults -no-user-config -no-reboot -display none -serial stdio -nic none \
        -kernel "$kernel/boot/vmlinuz-$release" -initrd "$disks/initramfs.gz" \
        -append "console=ttyS0 quiet panic=-1 ${VM_CMDLINE:-}" \
        -drive "file=$disks/root.img,format=raw,if=virtio,cache=unsafe" "${images[@]}" \
        </dev/null 2>&1 | sed -u 's,\r$,,' | tee "$console" || true
    rm -rf "$disks"
    grep -q '^guest: all [0-9]* checks passed$' "$console" || failed+=("$suite")
}

disks=
trap '[ -z "$disks" ] || rm -rf "$disks"' EXIT
install_missing
binary="${SANDBOXAI_BINARY:-}"
if [ -z "$binary" ]; then
    say "building the program"
    cargo_is_new_enough || die "cargo is missing; run scripts/setup.sh"
    cargo build --locked --package sandboxai-server
    binary="$PWD/target/debug/sandboxai"
fi
mkdir -p "$WORK"
unpacked guest "$GUEST_SUITE" --variant=essential --include="$GUEST_PACKAGES"
failed=()
for suite in "${@:-bookworm}"; do
    run_suite "$suite"
done
[ ${#failed[@]} -eq 0 ] || die "the guest failed with the kernel of: ${failed[*]}"
say "all guests passed"
