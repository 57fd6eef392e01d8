#!/usr/bin/env bash
# Sets up and runs every test. Can be run any number of times.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
scripts/setup.sh --test
[ "$(id -u)" -eq 0 ] || die "the tests make namespaces, cgroups and networks: run them as root (sudo -E scripts/test.sh)"
cargo_is_new_enough || true

say "checks and tests of the Rust code"
export SANDBOXAI_TEST_PYTHON="$PWD/$TEST_VENV/bin/python3"
cargo xtask check

say "building the program"
cargo build --locked --package sandboxai-server
export SANDBOXAI_BINARY="$PWD/target/debug/sandboxai"
export SANDBOXAI_SERVER_STATE_DIR="$STATE_DIR"
ca="$(ca_certificates)"
[ -n "$ca" ] && export SANDBOXAI_SANDBOX_CA_CERTIFICATES="$ca"
# Does nothing when the image was made from the same recipe before.
"$SANDBOXAI_BINARY" image build images/box

say "the original SDK, in an environment of its own"
original=.venv-original
if [ ! -f "$original/.stamp" ]; then
    python3 -m venv "$original"
    "$original/bin/pip" install --quiet --disable-pip-version-check sandboxai-client==0.0.2 pytest==8.3.4
    touch "$original/.stamp"
fi

say "the wheel"
(cd python && "../$TEST_VENV/bin/maturin" build --quiet --profile dev --out ../target/wheels)

say "end-to-end tests over the real server"
(cd python && "../$TEST_VENV/bin/mypy" --strict sandboxai)
"$TEST_VENV/bin/pytest" -q tests "$@"
