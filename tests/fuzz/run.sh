#!/bin/sh
# Builds the fuzz targets with coverage and runs them: tests/fuzz/run.sh [SECONDS] [TARGET…]
#
# Works with stable Rust and a C++ compiler, without cargo-fuzz: the flags are those that cargo-fuzz passes, less the
# address sanitizer, which needs nightly and would find nothing in a crate without unsafe code. What is found lies in
# target/fuzz/artifacts; a crash is run again by giving its file to the target's binary.
#
# The core's targets (sse, request, chunks) build in seconds; those of the shells (record, config, envoy_check,
# exchange) are a package of their own, because they need the whole router.
set -eu
seconds=${1:-10}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- sse request chunks record config envoy_check exchange
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=$root/target/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags="$flags -Cllvm-args=-sanitizer-coverage-trace-compares"
# With --target the flags reach the crates, but not build scripts and macros.
build() {
  RUSTFLAGS="$flags" cargo build --manifest-path "$1" --release --locked --target "$host" --target-dir "$out"
}
case " $* " in *" sse "* | *" request "* | *" chunks "*) build "$here/Cargo.toml" ;; esac
case " $* " in *" record "* | *" config "* | *" envoy_check "* | *" exchange "*) build "$here/shell/Cargo.toml" ;; esac
for target in "$@"; do
  corpus=$out/corpus/$target
  mkdir -p "$corpus" "$out/artifacts"
  longest=4096
  case $target in
    sse | chunks) more=$root/tests/golden/stream ;;
    record) more=$root/tests/golden/foreign ;;
    config) more=$root/config ;;
    envoy_check) more=$root/envoy longest=16384 ;;
    *) more= ;;
  esac
  echo "fuzzing $target for $seconds s"
  "$out/$host/release/$target" -max_total_time="$seconds" -max_len="$longest" -timeout=20 -rss_limit_mb=2048 \
    -dict="$here/json.dict" -verbosity=0 -print_final_stats=1 -artifact_prefix="$out/artifacts/$target-" \
    "$corpus" "$here/seeds/$target" $more
done
