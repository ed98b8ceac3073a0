# seconds: 120
set -u
export OSSMITH_NVRTC=$(dirname $(find / -name 'libnvrtc-builtins.so.13.*' 2>/dev/null | head -1))
mkdir -p /tmp/sliding && cd /tmp/sliding && xz -dc $IN/new.xz > new && xz -dc $IN/old.xz > old && chmod +x new old && tar xJf $IN/fixtures.tar.xz
export OSSMITH_CACHE=/tmp/sliding/cache
t() { local s=$(date +%s.%N); "$@"; local rc=$?; echo "# rc $rc, $(echo "$(date +%s.%N) - $s" | bc 2>/dev/null) s: $*" >> $OUT/times; return $rc; }
t timeout 35 ./new check --model nano > $OUT/check-nano.txt 2>&1; echo "check nano rc $?"; tail -3 $OUT/check-nano.txt
t timeout 30 python3 gpu/fixtures.py --ossmith ./new --fixtures fixtures --backend cuda --out $OUT --only window > $OUT/fixtures.txt 2>&1; echo "fixture window rc $?"; tail -12 $OUT/fixtures.txt
for round in 1; do for v in old new; do
  t timeout 14 ./$v bench decode --model synthetic:gpt-oss-20b --batch 1,32,128 --context 1024 --json > $OUT/decode-$v-$round.json 2> $OUT/decode-$v-$round.err; echo "decode $v rc $?"
done; done
for v in old new; do
  t timeout 14 ./$v bench prefill --model synthetic:gpt-oss-20b --tokens 2048,8192 --chunk 2048 --json > $OUT/prefill-$v.json 2> $OUT/prefill-$v.err; echo "prefill $v rc $?"
  t timeout 25 ./$v bench throughput --model synthetic:gpt-oss-20b --backend cuda --max-num-seqs 64 --max-num-batched-tokens 2048 --input-len 1000 --output-len 100 --num-prompts 128 --json > $OUT/throughput-$v.json 2> $OUT/throughput-$v.err; echo "throughput $v rc $?"
done
t timeout 25 ./new bench throughput --model synthetic:gpt-oss-20b --backend cuda --max-num-seqs 256 --max-num-batched-tokens 8192 --input-len 1000 --output-len 64 --num-prompts 256 --json > $OUT/wide-new.json 2> $OUT/wide-new.err &
W=$!; m=0; while kill -0 $W 2>/dev/null; do u=$(nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits | head -1); [ "$u" -gt "$m" ] && m=$u; sleep 0.5; done; wait $W; echo "wide rc $? peak MiB $m"
python3 - <<'P'
import json,os,glob
O=os.environ['OUT']
for f in sorted(glob.glob(O+'/decode-*.json')):
    try: print(os.path.basename(f),[(r['batch'],round(r['step']['median_ms'],4)) for r in json.load(open(f))['runs']])
    except Exception as e: print(f,e)
for f in sorted(glob.glob(O+'/prefill-*.json')+glob.glob(O+'/throughput-*.json')+glob.glob(O+'/wide*.json')):
    try: print(os.path.basename(f),open(f).read()[:1500])
    except Exception as e: print(f,e)
P
cat $OUT/times
