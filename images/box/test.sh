#!/bin/sh
# Checks from inside a sandbox that the image has what it promises. Prints one
# line per check; exits 1 when one of them fails. Needs no network.
set -u
failed=0

check() {
    title=$1
    shift
    if output=$("$@" 2>&1); then
        printf 'ok    %-24s %s\n' "$title" "$(printf %s "$output" | head -n 1)"
    else
        printf 'FAIL  %-24s %s\n' "$title" "$output"
        failed=1
    fi
}

check "Debian release" grep -h VERSION_CODENAME=bookworm /etc/os-release
check "python3" python3 --version
check "python" python -c 'import sys; print(sys.version_info >= (3, 11))'
check "pip" pip --version
check "pip may install" sh -c '! ls /usr/lib/python3*/EXTERNALLY-MANAGED 2>/dev/null'
check "venv" sh -c 'd=$(mktemp -d) && python3 -m venv "$d/v" && "$d/v/bin/pip" --version; r=$?; rm -rf "$d"; exit $r'
check "IPython" python3 -c 'import IPython; print(IPython.__version__)'
check "numpy" python3 -c 'import numpy as n; assert (n.eye(2) @ n.ones(2)).sum() == 2; print(n.__version__)'
check "pandas" python3 -c 'import pandas as p; assert p.DataFrame({"a": [1, 2]}).a.sum() == 3; print(p.__version__)'
check "matplotlib" python3 -c '
import io, matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plot
plot.plot([1, 2]); image = io.BytesIO(); plot.savefig(image, format="png")
assert image.getvalue().startswith(b"\x89PNG"); print(matplotlib.__version__)'
check "requests" python3 -c 'import requests; print(requests.__version__)'
check "git" sh -c 'd=$(mktemp -d) && cd "$d" && git init -q && git -c user.name=a -c user.email=a@a commit -q --allow-empty -m a && git --version; r=$?; rm -rf "$d"; exit $r'
check "curl" curl --version
check "tmux" tmux -V
check "procps" ps --version
check "net-tools" netstat --version
check "iproute2" ip -V
check "ripgrep" rg --version
check "less" less --version
check "unzip" unzip -v
check "node" node -e 'console.log(process.version)'
check "npm" npm --version
check "npx" npx --version
check "certificates" test -s /etc/ssl/certs/ca-certificates.crt
check "apt" apt-get --version
check "working folder" test -d /workspace
check "UTF-8" python3 -c 'import sys; assert sys.getfilesystemencoding() == "utf-8"'
exit "$failed"
