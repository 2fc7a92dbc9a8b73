#!/usr/bin/env bash
# Installs what tests and the race need on Debian 12 or later. Run it as root, or with sudo at hand. It is safe to run
# again: what is there is left alone.
#
#   tools/setup-debian.sh           everything (tests, and the peers of the race)
#   tools/setup-debian.sh --tests   only what the tests need
set -euo pipefail

tests=(
    gcc libc6-dev pkg-config        # building
    protobuf-compiler libprotobuf-dev   # building the client of etcd: its messages are made from their definitions
    iproute2 iputils-ping procps    # namespaces, pings, processes
    iperf3 tcpdump ethtool          # loads and captures of the tests
    curl jq                         # the control socket by hand, downloads
    python3                         # servers and clients in containers, and the labs
    traceroute netcat-openbsd       # what leads through the uplink
    busybox                         # udhcpc, a DHCP client
    nftables                        # the kernel's translation, to compare ours with
    dnsutils dnsmasq-base           # dig, and a resolver of the host to ask
    passwd util-linux uidmap        # the ordinary user that tests make
    etcd-server                     # the memory of a cluster
    openvswitch-switch              # the other end of a tunnel
)
peers=(vde2 bridge-utils passt slirp4netns)

wanted=("${tests[@]}")
[ "${1:-}" = --tests ] || wanted+=("${peers[@]}")

missing=()
for package in "${wanted[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    export DEBIAN_FRONTEND=noninteractive
    "${as_root[@]}" apt-get update -qq
    # Packages with services must not start them here: policy-rc.d says no for the length of the installation.
    guard=/usr/sbin/policy-rc.d
    if [ ! -e "$guard" ]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$guard" >/dev/null
        "${as_root[@]}" chmod 755 "$guard"
        trap '"${as_root[@]}" rm -f "$guard"' EXIT
    fi
    "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if ! command -v cargo >/dev/null; then
    echo "setup: cargo is missing: install Rust with rustup (https://rustup.rs)" >&2
    exit 1
fi
command -v cargo-nextest >/dev/null || cargo install --locked --quiet cargo-nextest
echo "setup: ${#missing[@]} packages installed, ${#wanted[@]} there"
