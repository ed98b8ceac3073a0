#!/bin/sh
# Runs the target `grammars` for some seconds, or on given files: run.sh SECONDS [FILE…]
set -eu
cd "$(dirname "$0")"
seconds=$1
shift
# What `cargo fuzz` passes, without what only a nightly compiler takes.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Cforce-frame-pointers"
# With a target named, the flags leave build scripts and macros alone.
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --target "$host"
program=target/$host/release/grammars
mkdir -p artifacts target/corpus
if [ $# -gt 0 ]; then
    exec "$program" -timeout=300 -rss_limit_mb=4096 "$@"
fi
exec "$program" -max_total_time="$seconds" -max_len=4096 -timeout=300 -rss_limit_mb=4096 \
    -artifact_prefix=artifacts/ -print_final_stats=1 target/corpus corpus/grammars
