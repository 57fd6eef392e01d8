#!/bin/sh
# Checks from inside a sandbox that the image's services come up and do their work.
# Prints one line per check; exits 1 when one of them fails. Needs no network.
#     sandboxai run --image sandboxai/suna --memory 4GiB -i -- sh < images/suna/test.sh
set -u
failed=0

check() {
    title=$1
    shift
    if output=$("$@" 2>&1); then
        printf 'ok    %-24s %s\n' "$title" "$(printf %s "$output" | head -n 1 | cut -c 1-80)"
    else
        printf 'FAIL  %-24s %s\n' "$title" "$(printf %s "$output" | tail -n 5)"
        failed=1
    fi
}

# Waits for a command to succeed, up to 20 seconds.
within() {
    for _ in $(seq 200); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    "$@"
}

post() { # post URL JSON
    curl -fsS --max-time 90 -X POST -H 'Content-Type: application/json' -d "$2" "$1"
}

/usr/bin/supervisord -n -c /etc/supervisor/conf.d/supervisord.conf >/tmp/supervisord.log 2>&1 &
supervisor=$!

check "all services" within curl -fsS localhost:8080/health
for program in xvfb x11vnc x11vnc_log novnc http_server browserApi; do
    check "$program" sh -c "supervisorctl -c /etc/supervisor/conf.d/supervisord.conf status $program | grep RUNNING"
done
check "VNC speaks" sh -c 'python3 -c "
import socket
print(socket.create_connection((\"127.0.0.1\", 5901), 5).recv(11).decode())" | grep "^RFB 003"'
check "noVNC page" sh -c 'curl -fsS localhost:6080/vnc_lite.html | grep -o "<title>.*</title>"'
check "no browser yet" sh -c '[ "$(curl -s -o /dev/null -w "%{http_code}" localhost:8004/api)" = 500 ]'
check "browser starts" post http://localhost:8004/api/init '{}'
mkdir -p /workspace/presentations/check
echo '<title>Checked</title><h1>Slide one</h1>' >/workspace/presentations/check/1.html
echo '{"title": "Check", "slides": {"1": {"file_path": "presentations/check/1.html"}}}' \
    >/workspace/presentations/check/metadata.json
check "browser navigates" sh -c 'curl -fsS --max-time 60 -X POST -H "Content-Type: application/json" \
    -d "{\"url\": \"http://localhost:8080/presentations/check/1.html\"}" localhost:8004/api/navigate \
    | jq -e ".title == \"Checked\" and (.screenshot_base64 | length > 1000)"'
check "slides as PDF" post http://localhost:8080/presentation/convert-to-pdf '{"presentation_path": "presentations/check"}'
check "text of the PDF" sh -c 'pdftotext /workspace/downloads/check.pdf - | grep "Slide one"'
check "no way out" sh -c '[ "$(curl -s -o /dev/null -w "%{http_code}" --path-as-is localhost:8080/../etc/passwd)" = 404 ]'
check "tmux" sh -c 'tmux -f /dev/null new-session -d "sleep 5" && tmux ls'
check "node" node --version
check "npm" npm --version
check "tsc" tsc --version
for program in git curl jq netstat ps lsof antiword catdoc unrtf pdftotext xmlstarlet rsync zip wget pylsp sudo; do
    check "$program" which "$program"
done
check "Python packages" python3 -c 'import docx, fastapi, numpy, openpyxl, pandas, PIL, playwright, pptx, PyPDF2, requests'
check "working folder" sh -c '[ "$PWD" = /app ]'

kill "$supervisor"
exit "$failed"
