#!/bin/sh
# Everything that needs a GPU, on a machine that has one: sh run.sh [step...]
# Packed by `cargo xtask gpu-bundle`; needs the NVIDIA driver, NVRTC of CUDA 13, and python3 with numpy.
# Steps: doctor check fixtures sanitizer bench. Results land in out/; the exit code counts the steps that failed.
cd "$(dirname "$0")" || exit 1
mkdir -p out
export OSSMITH_CACHE="${OSSMITH_CACHE:-$PWD/out/cache}"
ossmith=./ossmith

# NVRTC: from OSSMITH_NVRTC, else from Python's CUDA packages, else from an installed toolkit (which the dynamic linker finds).
if [ -z "$OSSMITH_NVRTC" ]; then
  for found in $(find / -xdev -name 'libnvrtc-builtins.so.13.*' 2>/dev/null); do
    folder=$(dirname "$found")
    [ -e "$folder/libnvrtc.so.13" ] && export OSSMITH_NVRTC="$folder" && break
  done
fi
echo "NVRTC: ${OSSMITH_NVRTC:-wherever the dynamic linker finds it}"

doctor() { $ossmith doctor; }

# Every kernel of both models against the CPU executor.
check() { $ossmith check --model gpt-oss-20b && $ossmith check --model gpt-oss-120b; }

# Whole models against stored references, in bf16 bounds: one shot, in chunks, a token at a time, and greedy runs.
fixtures() { python3 gpu/fixtures.py --ossmith "$ossmith" --fixtures fixtures --backend cuda --out out; }

# Memory errors and races: the whole prompt of tiny runs the batch kernels, a token at a time the decode kernels, and the
# longer prompts of window and deep-rope those of prompts, without wgmma and with it in wide and in narrow tiles.
sanitizer() {
  for fixture in tiny window deep-rope; do
    python3 gpu/fixtures.py --fixtures fixtures --out out --only $fixture --prepare || return 1
  done
  for tool in memcheck racecheck; do
    for run in tiny "tiny --step" window deep-rope "deep-rope --chunk 500"; do
      fixture=${run%% *}
      compute-sanitizer --tool "$tool" --error-exitcode 9 "$ossmith" logits --backend cuda ${run#"$fixture"} \
        --model fixtures/$fixture --tokens out/$fixture.tokens.json --out "out/sanitizer.$tool.safetensors" || return 1
    done
  done
}

bench() {
  for model in gpt-oss-20b gpt-oss-120b; do
    $ossmith bench decode --model "synthetic:$model" --batch 1 --json >"out/decode-$model.json" || return 1
    cat "out/decode-$model.json"
  done
}

failed=0
for step in ${*:-doctor check fixtures sanitizer bench}; do
  echo "== $step"
  start=$(date +%s)
  if $step; then verdict=ok; else verdict=FAILED failed=$((failed + 1)); fi
  echo "== $step: $verdict, $(($(date +%s) - start)) s"
done
exit $failed
