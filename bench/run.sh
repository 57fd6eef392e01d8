#!/usr/bin/env bash
# Builds the release program and runs the benchmark beside its peers, which it
# installs: bubblewrap from Debian, ipykernel from PyPI.
#
#   bench/run.sh [--rounds N] [--out FILE]             the program: bench.py
#   bench/run.sh --daytona [--rounds N] [--out FILE]   through Daytona's SDK: through_daytona.py
#   bench/run.sh --front [--rounds N] [--out FILE]     through a server in front: through_front.py
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
scripts/setup.sh
cargo_is_new_enough || true
what=bench
case "${1:-}" in
    --daytona) what=through_daytona ;;
    --front) what=through_front ;;
esac
if [ "$what" != bench ]; then
    shift
    python_environment .venv-daytona-0.226.1 tests/conformance/daytona/python_0_226_1/requirements.txt
fi
[ "$what" != bench ] || command -v bwrap >/dev/null || { as_root apt-get update -qq; as_root apt-get install -y -qq bubblewrap >/dev/null; }
if [ "$what" = bench ] && [ ! -f .venv-bench/.stamp ]; then
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
python=.venv-bench/bin/python3
[ "$what" != bench ] && python=.venv-daytona-0.226.1/bin/python3
exec nice -n -10 "$python" "bench/$what.py" --binary "$binary" "$@"
