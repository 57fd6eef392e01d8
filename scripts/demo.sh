#!/usr/bin/env bash
# The main job, end to end: sets up, builds the program and the default image,
# starts the server on the embedded runtime, runs a few things in a sandbox
# through the Python client, and leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
scripts/setup.sh
cargo_is_new_enough || true

say "building the program (release)"
cargo build --release --locked --package sandboxai-server
binary="$PWD/target/release/sandboxai"

# sudo clears the environment: what the program needs is passed by name.
settings=("SANDBOXAI_SERVER_STATE_DIR=$STATE_DIR")
ca="$(ca_certificates)"
[ -n "$ca" ] && settings+=("SANDBOXAI_SANDBOX_CA_CERTIFICATES=$ca")

say "the default image sandboxai/box (made once, a few minutes)"
as_root env "${settings[@]}" "$binary" image build images/box

say "starting the server on a free port"
address="$(mktemp)"
log="$(mktemp)"
# The server ends, and removes its sandboxes, when this pipe's reader is gone.
exec 3< <(as_root env "${settings[@]}" "$binary" serve --port 0 --scope "demo-$$" \
    --delete-on-shutdown --exit-with-client 2>"$log")
if ! IFS= read -r -t 30 line <&3; then
    cat "$log" >&2
    die "the server did not start"
fi
echo "$line" >"$address"

say "running the main job"
status=0
PYTHONPATH=python "$VENV/bin/python3" scripts/demo.py "$address" || status=$?

say "stopping the server"
exec 3<&-
for _ in $(seq 100); do
    "$binary" ls --server "$("$VENV/bin/python3" scripts/demo.py --url "$address")" >/dev/null 2>&1 || break
    sleep 0.1
done
as_root env "${settings[@]}" "$binary" doctor --leaks
rm -f "$address" "$log"
exit "$status"
