#!/usr/bin/env bash
# Builds the release program and runs the benchmark beside its peers, which it
# installs: bubblewrap from Debian, ipykernel from PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
scripts/setup.sh
cargo_is_new_enough || true
command -v bwrap >/dev/null || { as_root apt-get update -qq; as_root apt-get install -y -qq bubblewrap >/dev/null; }
if [ ! -f .venv-bench/.stamp ]; then
    python3 -m venv .venv-bench
    .venv-bench/bin/pip install --quiet --disable-pip-version-check ipykernel==6.29.5 jupyter_client==8.6.3
    touch .venv-bench/.stamp
fi
cargo build --release --locked --package sandboxai-server
export SANDBOXAI_SERVER_STATE_DIR="$STATE_DIR"
ca="$(ca_certificates)"
[ -n "$ca" ] && export SANDBOXAI_SANDBOX_CA_CERTIFICATES="$ca"
binary=target/release/sandboxai
as_root env "SANDBOXAI_SERVER_STATE_DIR=$STATE_DIR" ${ca:+"SANDBOXAI_SANDBOX_CA_CERTIFICATES=$ca"} "$binary" image build images/box
exec nice -n -10 .venv-bench/bin/python3 bench/bench.py --binary "$binary" "$@"
