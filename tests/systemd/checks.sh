#!/usr/bin/env bash
# checks.sh PART: what run.sh does inside. Uses the program as an operator does.
set -euo pipefail
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
# How long anything may take to settle, in tenths of a second.
PATIENCE=300
PROGRAM=/usr/local/bin/sandboxai

# eventually COMMAND…
eventually() {
    { local tries=0 -; set +x; } 2>/dev/null
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt $PATIENCE ] || { echo "never: $*" >&2; return 1; }
        sleep 0.1
    done
}

healthy() { curl --silent --fail http://127.0.0.1:5266/v1/healthz; }

# is EXPECTED COMMAND…: what the command prints.
is() {
    local expected="$1" said
    shift
    said="$("$@" 2>&1)" || true
    [ "$said" = "$expected" ] || { echo "$* said: $said, not: $expected" >&2; return 1; }
}

# fails COMMAND…
fails() {
    if "$@"; then
        echo "it was to fail: $*" >&2
        return 1
    fi
}

main_pid() { systemctl show --property MainPID --value sandboxai; }

# Everything that must outlive a server: the kernel's variables, files, processes.
went_on() {
    is 42 sandboxai cell demo 'print(x)'
    is kept sandboxai exec demo cat /workspace/file
    is "$(cat /root/background)" sandboxai exec demo pgrep -f 'sleep 5000'
}

service() {
    systemctl daemon-reload
    systemctl enable --now sandboxai
    eventually healthy
    sandboxai doctor
    sandboxai create demo
    is '' sandboxai cell demo 'x = 42'
    sandboxai exec demo sh -c 'echo kept >/workspace/file; nohup sleep 5000 >/dev/null 2>&1 &'
    sandboxai exec demo pgrep -f 'sleep 5000' >/root/background
    went_on
    systemctl restart sandboxai
    eventually healthy
    went_on
    local killed
    killed="$(main_pid)"
    systemctl kill --signal KILL --kill-whom=main sandboxai
    eventually healthy
    [ "$(main_pid)" != "$killed" ]
    went_on
}

upgrade() {
    sandboxai ls --json >/root/before
    cp $PROGRAM /root/new
    install -m 755 /root/new $PROGRAM
    systemctl restart sandboxai
    eventually healthy
    went_on
    journalctl -u sandboxai --output cat | grep 'took over' | tail -1 | grep 'adopted=1 removed=0'
    # Files of what was deleted go on their own time.
    eventually sandboxai doctor --leaks
    fails sh -c "journalctl -u sandboxai --grep 'WARN|ERROR' --quiet --output cat | grep ."
}

backup() {
    sandboxai create stopped --stop-after-idle 1h
    sandboxai exec stopped sh -c 'rm -r /etc/apt; mkdir /etc/apt; echo new >/etc/apt/file; chown 1000:1000 /etc/apt/file'
    sandboxai stop stopped
    systemctl stop sandboxai
    # The images are this host's, and shared.
    tar -C /var/lib/sandboxai --exclude ./images --xattrs --xattrs-include='*' --numeric-owner -cf /backup.tar .
    systemctl start sandboxai
    eventually healthy
    went_on
    sandboxai create lives-on --stop-after-idle 1h
    sandboxai exec lives-on sh -c 'echo kept >/workspace/file; sync'
}

# After the machine lost its power: the unit has started by itself.
power() {
    eventually healthy
    is "lives-on stopped" sh -c "sandboxai ls | awk '/lives-on/ {print \$1, \$3}'"
    sandboxai start lives-on
    is kept sandboxai exec lives-on cat /workspace/file
    # It could not be stopped, so nothing is left of it.
    sandboxai logs demo | tail -1 | grep 'ended: '
    fails sandboxai exec demo true
    sandboxai rm lives-on stopped
}

restore() {
    systemctl stop sandboxai
    find /var/lib/sandboxai -mindepth 1 -maxdepth 1 ! -name images -exec rm -r {} +
    tar -C /var/lib/sandboxai --xattrs --xattrs-include='*' --numeric-owner -xpf /backup.tar
    systemctl start sandboxai
    eventually healthy
    sandboxai start stopped
    is file sandboxai exec stopped ls /etc/apt
    is 1000:1000 sandboxai exec stopped stat -c %u:%g /etc/apt/file
    sandboxai rm stopped
    # Files of what was deleted go on their own time.
    eventually sandboxai doctor --leaks
}

set -x
"$1"
