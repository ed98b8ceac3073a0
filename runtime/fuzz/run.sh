#!/bin/sh
# Runs a target for some seconds, or on given files: run.sh TARGET SECONDS [FILE…]
set -eu
cd "$(dirname "$0")"
target=$1
seconds=$2
shift 2
# What `cargo fuzz` passes, without what only a nightly compiler takes.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Cforce-frame-pointers"
# With a target named, the flags leave build scripts and macros alone.
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --target "$host" --bin "$target"
program=target/$host/release/$target
mkdir -p artifacts "target/corpus/$target"
if [ $# -gt 0 ]; then
    exec "$program" -timeout=60 -rss_limit_mb=2048 "$@"
fi
exec "$program" -max_total_time="$seconds" -max_len=32768 -timeout=60 -rss_limit_mb=2048 \
    -artifact_prefix=artifacts/ -print_final_stats=1 "target/corpus/$target" "corpus/$target"
