#!/bin/sh
# The build steps of the Dockerfile, so that they also run, and are tested, without Docker. From the root of the sources:
#
#   build.sh dependencies    compiles what Cargo.lock names, without src
#   build.sh router          compiles the router
#   build.sh rootfs DIR      puts into DIR what the image adds to its base, and checks that the base can run it
#
# PROFILE is release unless it is set; CARGO_TARGET_DIR as Cargo has it.
set -eu

profile=${PROFILE:-release}
target_dir=${CARGO_TARGET_DIR:-target}
case $profile in
dev) binary=$target_dir/debug/responses-router ;;
*) binary=$target_dir/$profile/responses-router ;;
esac

# What gcr.io/distroless/cc-debian12 has; anything else would be missing when the container starts.
libraries_of_the_base='ld-linux-x86-64.so.2 ld-linux-aarch64.so.1 libc.so.6 libgcc_s.so.1 libm.so.6'

dependencies() {
    # Nearly empty sources in place of ours: Cargo compiles the dependencies alone, and keeps them for the next step.
    stubs=$(mktemp -d)
    trap 'rm -rf "$stubs"' EXIT
    mkdir -p "$stubs/src" "$stubs/tests" "$stubs/benches/stack" "$stubs/benches/core"
    cp -R Cargo.toml Cargo.lock build.rs proto "$stubs/"
    echo '#![allow(missing_docs)]' >"$stubs/src/lib.rs"
    echo '#![allow(missing_docs)] fn main() {}' |
        tee "$stubs/src/main.rs" "$stubs/tests/main.rs" "$stubs/benches/core/main.rs" >"$stubs/benches/stack/main.rs"
    mkdir -p "$target_dir"
    CARGO_TARGET_DIR=$(cd "$target_dir" && pwd) cargo build --profile "$profile" --locked --manifest-path "$stubs/Cargo.toml"
}

router() {
    # Cargo compares times, and those of a checkout are older than what it made of the stubs.
    touch src/lib.rs src/main.rs
    cargo build --profile "$profile" --locked --bin responses-router
}

rootfs() {
    dir=$1
    unknown=$(readelf --dynamic "$binary" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    for library in $libraries_of_the_base; do
        unknown=$(echo "$unknown" | grep -vx "$library" || true)
    done
    if [ -n "$unknown" ]; then
        echo "the base image does not have: $unknown" >&2
        exit 1
    fi
    mkdir -p "$dir/usr/bin" "$dir/etc/responses-router"
    # Without debug information, with the symbols that a backtrace names functions by.
    strip --strip-debug -o "$dir/usr/bin/responses-router" "$binary"
    chmod 0755 "$dir/usr/bin/responses-router"
    install -m 0644 config/config.yaml "$dir/etc/responses-router/config.yaml"
    "$dir/usr/bin/responses-router" --config "$dir/etc/responses-router/config.yaml" --check
}

case ${1-} in
dependencies | router) "$1" ;;
rootfs) rootfs "${2:?build.sh rootfs DIR}" ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 64
    ;;
esac
