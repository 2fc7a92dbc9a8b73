#!/bin/bash
# Three hosts on one machine, each a namespace with a vswitchd of its own, that find each other through etcd:
#
#   tools/labs/three-hosts.sh            starts them, says what to try, and removes everything at Ctrl-C
#   tools/labs/three-hosts.sh --check    starts them, pings from each to each, removes everything; 0: all was answered
#
# Needs root, etcd (tools/setup-debian.sh) and the programs (cargo build --release --workspace). Only the first host's file
# has the network: the others get it from the cluster, and need their own address and that of etcd.
set -eu

check=no
case "$*" in
"") ;;
--check) check=yes ;;
*) echo "three-hosts.sh: only --check is known, not: $*" >&2; exit 2 ;;
esac
[ "$(id -u)" = 0 ] || { echo "three-hosts.sh: needs root, to put namespaces on one cable" >&2; exit 1; }
command -v etcd > /dev/null || { echo "three-hosts.sh: there is no etcd; tools/setup-debian.sh installs it" >&2; exit 1; }
bin=${VSWITCH_BIN:-$(dirname "$0")/../../target/release}
[ -x "$bin/vswitchd" ] || { echo "three-hosts.sh: no $bin/vswitchd; cargo build --release --workspace" >&2; exit 1; }
bin=$(cd "$bin" && pwd)

dir=$(mktemp -d /tmp/three-hosts.XXXXXX)
tag=${dir##*.}
cable=cable-$tag
pids=

clean() {
    trap - EXIT INT TERM
    for pid in $pids; do kill "$pid" 2> /dev/null || true; done
    for pid in $pids; do wait "$pid" 2> /dev/null || true; done
    for name in "$cable" "h1-$tag" "h2-$tag" "h3-$tag"; do ip netns del "$name" 2> /dev/null || true; done
    rm -rf "$dir"
}
trap clean EXIT
trap 'exit 130' INT TERM

# Looks until the words succeed, for 20 s.
until_so() {
    for _ in $(seq 200); do "$@" > /dev/null 2>&1 && return 0; sleep 0.1; done
    echo "three-hosts.sh: waited in vain for: $*" >&2
    tail -n 5 "$dir"/*.log >&2
    exit 1
}

ctl() { "$bin/vswitchctl" --socket "$dir/h$1.sock" "${@:2}"; }

ip netns add "$cable"
ip -n "$cable" link add br0 type bridge
ip -n "$cable" address add 198.18.1.254/24 dev br0
ip -n "$cable" link set br0 up
ip -n "$cable" link set lo up
url=http://198.18.1.254:2379 peer=http://127.0.0.1:2380
nsenter --net="/run/netns/$cable" etcd --data-dir "$dir/etcd" --log-level error \
    --listen-client-urls $url --advertise-client-urls $url --listen-peer-urls $peer \
    --initial-advertise-peer-urls $peer --initial-cluster default=$peer > "$dir/etcd.log" 2>&1 &
pids="$pids $!"

for n in 1 2 3; do
    host=h$n-$tag
    ip netns add "$host"
    ip -n "$host" link add u0 type veth peer name "leg$n" netns "$cable"
    ip -n "$cable" link set "leg$n" master br0 up
    ip -n "$host" address add "198.18.1.$n/24" dev u0
    ip -n "$host" link set u0 up
    ip -n "$host" link set lo up
    {
        printf '[daemon]\ncontrol = "%s/h%s.sock"\nstate = "%s/state%s"\n' "$dir" $n "$dir" $n
        printf '[vxlan]\nlocal = "198.18.1.%s"\n[cluster]\netcd = ["%s"]\nname = "h%s"\n' $n $url $n
        [ $n != 1 ] || printf '[[network]]\nname = "blue"\nsubnet = "10.1.0.0/24"\nvni = 100\n'
        printf '[uplink]\nkind = "none"\n'
    } > "$dir/host$n.toml"
    nsenter --net="/run/netns/$host" "$bin/vswitchd" --config "$dir/host$n.toml" > "$dir/h$n.log" 2>&1 &
    pids="$pids $!"
done

for n in 1 2 3; do
    until_so ctl $n network inspect blue
    ctl $n network connect blue c$n --netns "c$n-$tag" --create > /dev/null
done
for n in 1 2 3; do
    for to in 1 2 3; do
        until_so ctl $n exec c$n -- ping -c 1 -W 1 c$to
    done
done
echo "three hosts, each with a container on network blue; every container reaches every other by its name"
[ $check = no ] || exit 0
cat << END
  $bin/vswitchctl --socket $dir/h1.sock exec c1 -- ping c3
  $bin/vswitchctl --socket $dir/h1.sock show vxlan
  $bin/vswitchctl --socket $dir/h2.sock show cluster
Ctrl-C ends them all.
END
while :; do sleep 3600 & wait $! || true; done
