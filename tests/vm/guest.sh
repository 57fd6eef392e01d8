#!/bin/bash
# What run.sh's guest does. As `guest.sh init` it is the first process: it mounts
# what systemd would, runs the checks and switches the machine off. The checks
# use the program only as a user does, and the kernel's files to look behind it.
set -u
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C

GROUPS_ROOT=/sys/fs/cgroup/sandboxai
STATE=/var/lib/sandboxai
API=http://127.0.0.1:5266/v1/spaces/default/sandboxes
LOG=/tmp/server.log
# A public address that exists only in this machine.
WORLD=93.184.216.34
HOST=93.184.216.1
# How long anything may take to settle, in tenths of a second; emulation is slow.
PATIENCE=300

init() {
    mount -o remount,rw /
    # As systemd does, whose mounts are shared and whose groups are delegated.
    mount --make-rshared /
    mount -t proc -o nosuid,nodev,noexec proc /proc
    mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
    mountpoint -q /dev || mount -t devtmpfs -o mode=0755 udev /dev
    mkdir -p /dev/shm /dev/pts
    mount -t tmpfs tmpfs /dev/shm
    mount -t devpts -o gid=5,mode=620 devpts /dev/pts
    mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs /run
    mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
    ip link set lo up
    [ -b /dev/vdb ] && mkdir -p $STATE/images && mount /dev/vdb $STATE/images
    "$0" checks
    sync
    busybox reboot -f
}

passed=0
failures=()

# check NAME COMMAND…: the command must succeed; what it says is shown if not.
check() {
    local name="$1" began
    shift
    began=${EPOCHREALTIME/./}
    # Into a file, since what is started here must stay a child of this shell.
    if "$@" >/tmp/said 2>&1; then
        passed=$((passed + 1))
        printf 'ok    %s (%d ms)\n' "$name" $(((${EPOCHREALTIME/./} - began) / 1000))
    else
        failures+=("$name")
        printf 'FAIL  %s\n' "$name"
        sed 's/^/      /' /tmp/said
    fi
}

# is EXPECTED COMMAND…: what the command prints.
is() {
    local expected="$1" said
    shift
    said=$("$@" 2>&1)
    [ "$said" = "$expected" ] && return
    printf 'expected %q, got %q\n' "$expected" "$said"
    return 1
}

# has PATTERN COMMAND…: an extended regular expression in what it prints.
has() {
    local pattern="$1" said
    shift
    said=$("$@" 2>&1)
    grep -qE -- "$pattern" <<<"$said" && return
    printf 'no %q in: %s\n' "$pattern" "$said"
    return 1
}

hasnt() { ! has "$@"; }
refused() { ! "$@"; }

# soon COMMAND…: succeeds within the time to settle.
soon() {
    local try
    for ((try = 0; try < PATIENCE; try++)); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    "$@"
}

inside() { sandboxai exec "$@"; }
group_of() { echo "$GROUPS_ROOT/$(curl -sS "$API/$1" | sed 's/.*"uid": *"\([^"]*\)".*/\1/')"; }
first_of() { head -n 1 "$(group_of "$1")/agent/cgroup.procs"; }
post() { curl -sS -o /dev/null -w '%{http_code}' -X POST "$API/$1"; }

# A server in a group of its own, as a service would be.
start_server() {
    local group=/sys/fs/cgroup/system.slice/sandboxai.service
    mkdir -p $group
    bash -c "echo \$\$ >$group/cgroup.procs; exec sandboxai serve $*" >>$LOG 2>&1 </dev/null &
    server=$!
    soon curl -sf http://127.0.0.1:5266/v1/healthz
}

end_server() { # end_server SIGNAL
    kill "-$1" "$server"
    wait "$server"
    [ "$1" = KILL ] || [ $? -eq 0 ]
}

# Everything on this machine that belongs to some sandbox.
left_overs() {
    find "$GROUPS_ROOT" -mindepth 1 -type d 2>/dev/null
    ps -eo uid=,pid=,args= | awk '$1 >= 1000000'
    pgrep -a -f '^[^ ]*sandboxai .*spawn' 2>/dev/null
    grep sandboxai /proc/*/mountinfo 2>/dev/null | grep -v "/dev/vdb"
    ls /sys/class/net | grep -E '^sbx[0-9]'
    nft list table inet sandboxai 2>/dev/null | grep -oE '"sbx[0-9]+" \. [0-9.]+'
    find $STATE/sandboxes $STATE/trash /run/sandboxai/agents /run/sandboxai/slots -mindepth 1 2>/dev/null
    return 0
}

# Two hosts on the internet: this one and another, which has a web and a name server.
make_world() {
    ip netns add world
    ip link add wan type veth peer name wan netns world
    ip address add $HOST/24 dev wan
    ip link set wan up
    ip -n world address add $WORLD/24 dev wan
    ip -n world link set wan up
    ip -n world link set lo up
    ip route add default via $WORLD
    mkdir -p /srv/world/cgi-bin
    echo "from the world" >/srv/world/index.html
    printf '#!/bin/sh\necho\necho "$REMOTE_ADDR"\n' >/srv/world/cgi-bin/who
    chmod +x /srv/world/cgi-bin/who
    ip netns exec world busybox httpd -p 80 -h /srv/world
    busybox httpd -p 8080 -h /srv/world
    ip netns exec world perl -e "$NAME_SERVER" $WORLD &
    echo "nameserver $WORLD" >/etc/resolv.conf
}

# Answers every question for an address (type 1) with its argument, others with nothing.
NAME_SERVER='
use Socket;
my $address = inet_aton(shift);
socket(my $socket, PF_INET, SOCK_DGRAM, 0) or die;
bind($socket, sockaddr_in(53, INADDR_ANY)) or die;
while (my $from = recv($socket, my $query, 512, 0)) {
    my ($question) = substr($query, 12) =~ /^((?:[^\0].*?)?\0....)/s or next;
    my $answers = substr($question, -4, 2) eq "\0\1" ? 1 : 0;
    my $answer = substr($query, 0, 2) . pack("n5", 0x8180, 1, $answers, 0, 0) . $question;
    $answer .= pack("n3Nn", 0xc00c, 1, 1, 60, 4) . $address if $answers;
    send($socket, $answer, 0, $from);
}'

check_host() {
    echo "# $(uname -a)"
    echo "# $(</proc/version)"
    echo "# groups: $(</sys/fs/cgroup/cgroup.controllers); $(findmnt -no OPTIONS /sys/fs/cgroup)"
    echo "# security modules: $(cat /sys/kernel/security/lsm 2>/dev/null || echo "not mounted"); $(nft --version)"
    check "this is the unified hierarchy alone" has ' - cgroup2 ' grep cgroup /proc/self/mountinfo
    check "no controller is in the first one" hasnt ' - cgroup ' cat /proc/self/mountinfo
    sandboxai doctor
    check "doctor finds nothing wrong" sandboxai doctor
    check "doctor says so in JSON" hasnt '"fail"' sandboxai --json doctor
}

check_life() {
    check "an image is imported" sandboxai image import /test/busybox.tar --name busybox
    check "the image is listed" has busybox sandboxai image ls
    check "the server starts" start_server
    check "a sandbox is created" sandboxai create one --image busybox --memory 256MiB --cpu 0.5 --pids 64
    check "a command answers" is hello inside one echo hello
    check "its exit code is kept" is 7 sh -c 'sandboxai exec one sh -c "exit 7"; echo $?'
    check "its input is forwarded" is typed sh -c 'echo typed | sandboxai exec -i one cat'
    check "it is root inside" is 0 inside one id -u
    check "and somebody else outside" has '^ +0 +1[0-9]{6} +65536$' inside one cat /proc/self/uid_map
    inside one sh -c 'grep -E "^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp)" /proc/self/status; cat /proc/self/cgroup /proc/self/mountinfo' \
        | sed 's/^/# /'
    check "new privileges are impossible" has '^NoNewPrivs:	1$' inside one cat /proc/self/status
    check "system calls are filtered" has '^Seccomp:	2$' inside one cat /proc/self/status
    check "few capabilities are left" has '^CapBnd:	00000000000405fb$' inside one cat /proc/self/status
    check "its control group is the root" is 0::/ inside one cat /proc/self/cgroup
    check "no mount tells about the host" hasnt 'sysfs|cgroup|/var/lib' inside one cat /proc/self/mountinfo
    check "parts of /proc are hidden" is "" inside one sh -c 'cat /proc/kallsyms /proc/kcore 2>/dev/null'
    check "settings are read-only" refused inside one sh -c 'echo 1 >/proc/sys/kernel/panic'
    check "nothing can be mounted" refused inside one mount -t tmpfs none /tmp
    check "no namespace can be made" refused inside one unshare -U true
    check "no device can be made" refused inside one mknod /tmp/null c 1 3
    check "files of the image have their owners" is "0 0" inside one stat -c '%u %g' /bin/busybox
    check "files of the image can be changed" is new inside one sh -c 'echo new >/etc/passwd && mv /etc /moved && cat /moved/passwd'
    check "a file goes in" sh -c 'head -c 3000000 /dev/urandom >/tmp/in && sandboxai cp /tmp/in one:/root/file'
    check "and comes out the same" sh -c 'sandboxai cp one:/root/file /tmp/out && cmp /tmp/in /tmp/out'
}

check_limits() {
    local group
    group=$(group_of one)
    check "memory is limited" is $((256 << 20)) cat "$group/user/memory.max"
    check "swap is not used" is 0 cat "$group/user/memory.swap.max"
    check "processor time is limited" is "50000 100000" cat "$group/user/cpu.max"
    check "processes are limited" is 64 cat "$group/user/pids.max"
    check "the agent has its reserve" is $((32 << 20)) cat "$group/agent/memory.max"
    check "the agent alone is in its group" is 1 sh -c "wc -l <$group/agent/cgroup.procs"
    check "a memory bomb is killed" has '"out_of_memory": *true' sandboxai --json exec one sh -c 'busybox tail /dev/zero'
    check "and its exit code tells" is 137 sh -c 'sandboxai exec one tail /dev/zero >/dev/null 2>&1; echo $?'
    check "files in memory count" has '"out_of_memory": *true' sandboxai --json exec one \
        sh -c 'dd if=/dev/zero of=/dev/shm/a bs=1M count=120; dd if=/dev/zero of=/tmp/b bs=1M count=120; tail /dev/zero'
    inside one rm -f /dev/shm/a /tmp/b
    check "the kernel counted it" has '"oom_kills": *[1-9]' curl -sS "$API/one/usage"
    check "the sandbox lives on" is alive inside one echo alive
    check "a fork bomb hits the limit" has 'Resource temporarily unavailable|EAGAIN' \
        inside one sh -c 'n=0; while [ $n -lt 200 ]; do sleep 60 & n=$((n + 1)); done'
    check "its limit was the group's" has '^max [1-9]' cat "$group/user/pids.events"
    check "the agent still answers" sandboxai cp one:/root/file /tmp/out2
    inside one sh -c 'kill -9 -1' >/dev/null 2>&1
    check "after killing all a command answers" soon is again inside one echo again
    inside one sh -c 'timeout 3 sh -c "while :; do :; done"' >/dev/null 2>&1
    check "a busy loop was throttled" has '^nr_throttled [1-9]' cat "$group/user/cpu.stat"
}

check_pause() {
    local group
    group=$(group_of one)
    inside one sh -c 'while :; do echo >>/tmp/ticks; sleep 0.2; done >/dev/null 2>&1 &'
    check "it is paused" is 200 post one/pause
    check "its group is frozen" has '^frozen 1$' cat "$group/cgroup.events"
    check "a command is refused meanwhile" refused inside one true
    check "it is resumed" is 200 post one/resume
    check "its group is thawed" has '^frozen 0$' cat "$group/cgroup.events"
    check "processes go on" inside one sh -c 'n=$(wc -l </tmp/ticks); sleep 2; [ $(wc -l </tmp/ticks) -gt $n ]'
}

check_network() {
    local other
    check "it has one link" is "eth0 lo" inside one sh -c 'ip -o link | cut -d: -f2 | cut -d@ -f1 | sort | xargs'
    has 'sbx' nft list table inet sandboxai
    check "its address is known to the firewall" has '"sbx[0-9]+" \. 10\.231\.' nft list set inet sandboxai sources
    check "the world is reached" is "from the world" inside one wget -q -T 10 -O - http://$WORLD/
    check "and sees the host's address" is $HOST inside one wget -q -T 10 -O - http://$WORLD/cgi-bin/who
    check "the host is not reached" refused inside one wget -q -T 3 -O - http://$HOST:8080/
    check "nor by the router's address" refused inside one sh -c \
        'wget -q -T 3 -O - http://$(ip route | sed -n "s/^default via \([^ ]*\).*/\1/p"):8080/'
    check "nor a metadata service" refused inside one nc -w 3 169.254.169.254 80
    check "nor a private network" refused inside one nc -w 3 192.168.1.1 80
    sandboxai create two --image busybox >/dev/null
    inside two sh -c 'echo neighbour >/tmp/index.html; httpd -p 80 -h /tmp'
    other=$(inside two sh -c "ip -4 -o addr show eth0 | sed 's/.*inet \([0-9.]*\).*/\1/'")
    check "a neighbour serves itself" is neighbour inside two wget -q -T 3 -O - "http://$other/"
    check "but not others" refused inside one wget -q -T 3 -O - "http://$other/"
    check "nor users of the host" refused busybox wget -q -T 3 -O - "http://$other/"
    check "another address is not believed" sh -c "
        sandboxai exec one ip addr add $WORLD/32 dev eth0 2>/dev/null && exit 1; exit 0"
    check "names are asked for at the forwarder" has '127\.0\.0\.53' inside one cat /etc/resolv.conf
    check "names are looked up" soon has "$WORLD" inside one nslookup -type=a world.example
    check "without a network there is none" sandboxai create alone --image busybox --network none
    check "only loopback" is lo inside alone sh -c 'ip -o link | cut -d: -f2 | xargs'
    check "and no way out" refused inside alone wget -q -T 3 -O - http://$WORLD/
    check "two are deleted at once" sandboxai rm two alone
}

check_recovery() {
    local ticks
    check "something is started" inside one sh -c 'echo kept >/tmp/kept; sleep 10000 >/dev/null 2>&1 &'
    end_server KILL
    check "after SIGKILL its processes run on" sh -c "grep -q . $GROUPS_ROOT/*/user/cgroup.procs"
    check "the server starts again" start_server
    check "the sandbox is there" has '"one"' sandboxai --json ls
    check "with its files" is kept inside one cat /tmp/kept
    check "and its processes" is 1 inside one sh -c 'ps | grep -c "[s]leep 10000"'
    check "and its network" is "from the world" inside one wget -q -T 10 -O - http://$WORLD/
    check "and its names" soon has "$WORLD" inside one nslookup -type=a world.example
    check "a paused one survives too" is 200 post one/pause
    end_server KILL
    start_server
    check "it is still paused" has '"state": *"paused"' curl -sS "$API/one"
    check "and goes on" is 200 post one/resume
    check "with its processes" is 1 inside one sh -c 'ps | grep -c "[s]leep 10000"'
    check "one more is made" sandboxai create lost --image busybox
    kill -9 "$(first_of lost)"
    check "one whose agent is killed ends" soon hasnt '"lost"' sandboxai --json ls
}

check_python() {
    grep -qs '"sandboxai/box' $STATE/images/names.json || return
    check "a sandbox of the default image" sandboxai create python
    check "a cell answers" is 42 sandboxai cell python 'x = 41; x + 1'
    check "with numpy" is 4950 sandboxai cell python 'import numpy; print(numpy.arange(100).sum())'
    end_server KILL
    start_server
    check "its state survives the server" is 41 sandboxai cell python 'print(x)'
    check "a cell that takes too much memory says so" has '[Mm]emory' sandboxai cell python 'y = bytearray(4 << 30)'
    check "and the next one works" is 3 sandboxai cell python 'print(1 + 2)'
    check "it is deleted" sandboxai rm python
}

check_end() {
    check "a paused one" is 200 post one/pause
    check "is deleted" sandboxai rm one
    check "and is not there any more" refused sandboxai exec one true
    check "many are made and deleted" sh -c '
        for n in 1 2 3 4 5; do sandboxai create many$n --image busybox & done; wait
        sandboxai rm many1 many2 many3 many4 many5'
    check "nothing is left" soon is "" left_overs_but_server
    check "doctor finds no leak" sandboxai doctor --leaks
    sandboxai create gone --image busybox >/dev/null
    inside gone sh -c 'sleep 10000 >/dev/null 2>&1 &'
    check "the server ends by SIGTERM" end_server TERM
    check "sandboxes outlive it" sh -c "grep -q . $GROUPS_ROOT/*/user/cgroup.procs"
    start_server
    check "it is deleted by the next one" sandboxai rm gone
    check "the server ends again" end_server TERM
    check "one that cleans up starts" start_server --scope other --delete-on-shutdown
    check "it makes a sandbox" sandboxai create brief --image busybox
    end_server KILL
    check "which is gone after SIGKILL" soon is "" left_overs
    check "no leak is left" sandboxai doctor --leaks
    echo "# of the firewall: $(nft list ruleset | wc -l) lines"
}

# As long as a server runs, it has a spawner and a mount of its own.
left_overs_but_server() { left_overs | grep -vE "spawn|/mountinfo:.* /run/sandboxai/store"; return 0; }

checks() {
    make_world
    check_host
    check_life
    check_limits
    check_pause
    check_network
    check_recovery
    check_python
    check_end
    echo "# the server's warnings:"
    grep -E ' (WARN|ERROR) |panicked' $LOG
    echo "# the kernel's:"
    dmesg --level=emerg,alert,crit,err,warn 2>/dev/null | grep -viE 'oom|Mem-Info|Tasks state|memory: usage' | tail -n 20
    if [ ${#failures[@]} -eq 0 ]; then
        echo "guest: all $passed checks passed"
    else
        echo "# the server's log:"
        tail -n 60 $LOG
        echo "guest: $passed checks passed, ${#failures[@]} failed:"
        printf '  %s\n' "${failures[@]}"
    fi
}

"${1:-checks}"
