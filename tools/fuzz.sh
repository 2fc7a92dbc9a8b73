#!/usr/bin/env bash
# Fuzzes everything that reads what others wrote: tools/fuzz.sh [MINUTES] [TARGET...]
#
# The minutes (default 10) are shared between the targets, two of which run at a time. What they find is kept in
# target/fuzz/found, what is in the repository (tests/corpus of each crate) is where they begin. Ends with a table; fails
# if an input crashed, hung or used too much memory, and says where it is and how to run it again.
#
#   SANITIZER=address tools/fuzz.sh    with the address sanitizer, which needs a nightly toolchain. Without: outside
#                                      switch::sys nothing is unsafe, and no target goes through it but `sockets`.
#   KEEP=1 tools/fuzz.sh               afterwards the new inputs that reach new code are put into tests/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
minutes=${1:-10}
[[ $minutes =~ ^[0-9]+$ ]] || { echo "usage: tools/fuzz.sh [MINUTES] [TARGET...]" >&2; exit 2; }
shift || true

sanitizer=${SANITIZER:-none}
toolchain=()
[ "$sanitizer" = none ] || toolchain=(+nightly)
export CARGO_TARGET_DIR="$root/target/fuzz"
found=$CARGO_TARGET_DIR/found
seeds=$CARGO_TARGET_DIR/seeds

# target, folder of its crate, folder of its corpus, longest input, other options
targets() {
    cat <<-END
	parse switch switch/tests/corpus/parse 4096
	shapes switch switch/tests/corpus/shapes 600
	segment switch - 4096
	offloads switch switch/tests/corpus/offloads 600
	pipeline tools/vswitchd tools/vswitchd/tests/corpus/pipeline 2048
	translated tools/vswitchd tools/vswitchd/tests/corpus/translated 2048
	sockets tools/vswitchd nat/tests/corpus/sockets 1024
	config tools/vswitchd tools/vswitchd/tests/corpus/config 4096 -dict=$root/tools/vswitchd/fuzz/config.dict
	lines tools/vswitchd - 128
	api tools/vswitchd tools/vswitchd/tests/corpus/api 1024
	messages tools/vswitchd tools/vswitchd/tests/corpus/messages 1024 -dict=$root/tools/vswitchd/fuzz/messages.dict
	states tools/vswitchd tools/vswitchd/tests/corpus/states 1024
	dns tools/vswitchd tools/vswitchd/tests/corpus/dns 1024
	dhcp tools/vswitchd - 600
	END
}

wanted() { # name
    [ $# -eq 1 ] || return 0
    [ ${#only[@]} -eq 0 ] && return 0
    local one
    for one in "${only[@]}"; do [ "$one" = "$1" ] && return 0; done
    return 1
}
only=("$@")
names=()
while read -r name _; do
    if wanted "$name"; then names+=("$name"); fi
done < <(targets)
[ ${#names[@]} -gt 0 ] || { echo "no such target; there are: $(targets | cut -d' ' -f1 | tr '\n' ' ')" >&2; exit 2; }

command -v cargo-fuzz >/dev/null || cargo install --locked --quiet cargo-fuzz
for crate in switch tools/vswitchd; do
    (cd "$crate/fuzz" && cargo "${toolchain[@]}" fuzz build --fuzz-dir . -s "$sanitizer" --codegen-units 16)
done
triple=$(rustc -vV | sed -n 's/^host: //p')

# Each has the same share of the time that two at a time give.
seconds=$((minutes * 60 * 2 / ${#names[@]}))
[ "$seconds" -gt 0 ] || seconds=1
echo "${#names[@]} targets, $seconds s each"

fuzz() { # name crate corpus longest options...
    local name=$1 corpus=$3 longest=$4
    shift 4
    mkdir -p "$found/$name" "$seeds/none"
    [ "$corpus" = - ] && corpus=$seeds/none || corpus=$root/$corpus
    # What was found stays where it is until somebody looks at it.
    local status=0
    nice "$CARGO_TARGET_DIR/$triple/release/$name" "$found/$name" "$corpus" -max_total_time="$seconds" \
        -max_len="$longest" -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
        -artifact_prefix="$CARGO_TARGET_DIR/crash-$name-" "$@" >"$CARGO_TARGET_DIR/$name.log" 2>&1 || status=$?
    echo "$status" >"$CARGO_TARGET_DIR/$name.status"
}

rm -f "$CARGO_TARGET_DIR"/*.status
while read -r name crate corpus longest options; do
    wanted "$name" || continue
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n || true; done
    # shellcheck disable=SC2086 # options are words
    fuzz "$name" "$crate" "$corpus" "$longest" $options &
done < <(targets)
wait

failed=0
total=0
printf '\n%-10s %12s %10s %10s  %s\n' TARGET EXECUTIONS COVERAGE INPUTS VERDICT
for name in "${names[@]}"; do
    log=$CARGO_TARGET_DIR/$name.log
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -1)
    coverage=$(grep -o ' cov: [0-9]*' "$log" | tail -1 | tr -dc 0-9)
    inputs=$(find "$found/$name" -type f | wc -l)
    verdict=sound
    if [ "$(cat "$CARGO_TARGET_DIR/$name.status" 2>/dev/null || echo 1)" != 0 ]; then
        verdict=FAILED failed=1
    fi
    total=$((total + ${executions:-0}))
    printf '%-10s %12s %10s %10s  %s\n' "$name" "${executions:-?}" "${coverage:-?}" "$inputs" "$verdict"
done
printf '%-10s %12s\n' together "$total"

for name in "${names[@]}"; do
    [ "$(cat "$CARGO_TARGET_DIR/$name.status" 2>/dev/null || echo 1)" != 0 ] || continue
    printf '\n%s:\n' "$name"
    grep -m3 -E "panicked|ERROR: |assertion" -A1 "$CARGO_TARGET_DIR/$name.log" | cut -c1-400 || tail -5 "$CARGO_TARGET_DIR/$name.log"
    input=$(sed -n 's/.*Test unit written to //p' "$CARGO_TARGET_DIR/$name.log" | tail -1)
    [ -z "$input" ] || printf 'input: %s\nagain: %s %s\n' "$input" "$CARGO_TARGET_DIR/$triple/release/$name" "$input"
done

if [ "${KEEP:-}" = 1 ] && [ "$failed" = 0 ]; then
    # Beside what is there, the fewest inputs that reach all that was reached.
    while read -r name _ corpus _; do
        case $name in shapes | offloads | pipeline | translated | sockets | states) ;; *) continue ;; esac
        wanted "$name" || continue
        small=$seeds/$name
        rm -rf "$small"
        cp -r "$root/$corpus" "$small"
        "$CARGO_TARGET_DIR/$triple/release/$name" -set_cover_merge=1 -use_counters=0 -use_cmp=0 "$small" "$found/$name" >/dev/null 2>&1
        for input in "$small"/*; do
            [ -e "$corpus/${input##*/}" ] || cp "$input" "$corpus/found-$(sha1sum <"$input" | cut -c1-12)"
        done
        echo "$name: $(find "$corpus" -type f | wc -l) inputs, $(du -sk "$corpus" | cut -f1) KiB in $corpus"
    done < <(targets)
fi
exit "$failed"
