#!/usr/bin/env bash
# Installs what a fresh Debian or Ubuntu machine lacks to build, run and test
# this project. Can be run any number of times; says what it does.
#
#   scripts/setup.sh          to build and run
#   scripts/setup.sh --test   also what the tests need
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh

need_packages=()
need() { # need PROGRAM-OR-FILE PACKAGE
    command -v "$1" >/dev/null 2>&1 || [ -e "$1" ] || need_packages+=("$2")
}
need cc build-essential
need curl curl
need git git
need ip iproute2
need nft nftables
need mmdebstrap mmdebstrap
need python3 python3
python3 -c 'import ensurepip, venv' 2>/dev/null || need_packages+=(python3-venv)
need /etc/ssl/certs/ca-certificates.crt ca-certificates
if [ "${1:-}" = --test ]; then
    need busybox busybox-static
    need docker-registry docker-registry
    need dockerd docker.io
    need promtool prometheus
fi
if [ ${#need_packages[@]} -gt 0 ]; then
    say "installing from Debian's packages: ${need_packages[*]}"
    as_root apt-get update -qq
    case " ${need_packages[*]} " in
    # The tests run the program themselves; its service is not wanted.
    *" prometheus "*) as_root systemctl mask prometheus.service >/dev/null 2>&1 || true ;;
    esac
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need_packages[@]}" >/dev/null
fi

# gVisor is packaged by Debian, and not by every release of Ubuntu: its tests are skipped there.
if [ "${1:-}" = --test ] && ! command -v runsc >/dev/null 2>&1; then
    as_root apt-get update -qq
    if apt-cache show runsc >/dev/null 2>&1; then
        say "installing from Debian's packages: runsc"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends runsc >/dev/null
    else
        say "gVisor (runsc) is not packaged here"
    fi
fi

if ! cargo_is_new_enough; then
    say "installing Rust by rustup for this user"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --component clippy --component rustfmt
    # shellcheck disable=SC1091
    . "$HOME/.cargo/env"
    cargo_is_new_enough || die "cargo is still older than $RUST_VERSION; run: rustup update stable"
fi

# A virtual environment of the project's own: what the client needs, and for
# the tests also the packages that the sandbox image has, pinned.
venv_packages=(httpx pydantic)
venv_stamp=base
if [ "${1:-}" = --test ]; then
    venv_packages+=(-r tests/requirements.txt)
    venv_stamp="test $(sha256sum tests/requirements.txt)"
fi
venv="$VENV"
[ "${1:-}" = --test ] && venv="$TEST_VENV"
if [ "$(cat "$venv/.stamp" 2>/dev/null)" != "$venv_stamp" ]; then
    say "making the Python environment $venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "${venv_packages[@]}"
    echo "$venv_stamp" >"$venv/.stamp"
fi
