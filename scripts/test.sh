#!/usr/bin/env bash
# Sets up and runs the tests. Can be run any number of times.
#
#   scripts/test.sh          what also the gate runs
#   scripts/test.sh --all    and the slow ones: SUNA's scenario with its screen and browser,
#                            for which images/suna and images/browser are built (7 minutes, once)
#
# Other arguments go to pytest, and restrict every run of it, e.g. -k preview.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
all=
if [ "${1:-}" = --all ]; then
    all=yes
    shift
fi
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

say "Daytona's SDKs, each in an environment of its own"
daytona=tests/conformance/daytona
generations="0.21.0 0.115.0 0.226.1"
for generation in $generations; do
    python_environment ".venv-daytona-$generation" "$daytona/python_${generation//./_}/requirements.txt"
done
npm_packages "$daytona/typescript/legacy"
npm_packages "$daytona/typescript/current"
if [ -n "$all" ]; then
    say "the image for browser tools"
    "$SANDBOXAI_BINARY" image build images/browser
    say "a stand-in for SUNA's image"
    "$SANDBOXAI_BINARY" image build images/suna
    export SUNA_IMAGE=sandboxai/suna
    set -- -m "slow or not slow" "$@"
fi

say "the wheel"
(cd python && "../$TEST_VENV/bin/maturin" build --quiet --profile dev --out ../target/wheels)

say "end-to-end tests over the real server"
(cd python && "../$TEST_VENV/bin/mypy" --strict sandboxai)
"$TEST_VENV/bin/pytest" -q tests "$@"

# Each interpreter collects the suite of the SDK that it has; 5: with these arguments, none.
for generation in $generations; do
    say "unmodified Daytona SDK $generation"
    ".venv-daytona-$generation/bin/pytest" -q --timeout 200 "$daytona" tests/conformance/suna tests/rollout "$@" || [ $? -eq 5 ]
done

# The same suites for sandboxes that only the upstream has. Left out is what the way there makes
# no difference to, and snapshots, which are this server's own.
ignored=()
for subject in git lsp move snapshots; do
    ignored+=("--ignore=$daytona/python_0_226_1/test_$subject.py")
done
say "unmodified Daytona SDKs for TypeScript, through a server in front of another"
SANDBOXAI_TEST_THROUGH_FRONT=1 "$TEST_VENV/bin/pytest" -q "$daytona" "$@" || [ $? -eq 5 ]
for generation in $generations; do
    say "unmodified Daytona SDK $generation, through a server in front of another"
    SANDBOXAI_TEST_THROUGH_FRONT=1 \
        ".venv-daytona-$generation/bin/pytest" -q --timeout 200 "$daytona" "${ignored[@]}" "$@" || [ $? -eq 5 ]
done

if [ -n "$all" ]; then
    say "the unit under a real systemd"
    tests/systemd/run.sh
fi
