#!/bin/sh
# Checks that the machine has what the Makefile needs, and names what installs the rest: preflight.sh [--install] [WHAT…]
# With --install (as root, on Debian) installs it instead. WHAT is more than running needs: redis, for tests and clusters;
# fuzz; clients, for test-clients; deploy, for test-deploy.
set -eu

install=
if [ "${1-}" = --install ]; then
    install=1
    shift
fi
packages=
require() { # require PACKAGES COMMAND...: the command succeeds where the packages are installed
    wanted=$1
    shift
    "$@" >/dev/null 2>&1 || packages="$packages $wanted"
}

require make command -v make
require curl command -v curl
# zstd and mimalloc are C libraries that Cargo builds; the headers come with libc6-dev.
require "gcc libc6-dev" sh -c 'echo "#include <stdlib.h>" | cc -E -'
require python3 python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'
require python3-venv python3 -c 'import venv, ensurepip'
for what in "$@"; do
    case $what in
    redis) require redis-server sh -c 'command -v redis-server && command -v redis-cli' ;;
    # libFuzzer is C++.
    fuzz) require g++ command -v g++ ;;
    # Only installs the Node packages: they bring the Node that runs them, newer than Debian's.
    clients) require npm sh -c 'command -v node && command -v npm' ;;
    # For a network of its own, and for readelf and strip, which the build of the image needs as well.
    deploy)
        require npm sh -c 'command -v node && command -v npm'
        require redis-server sh -c 'command -v redis-server && command -v redis-cli'
        require iproute2 command -v ip
        require binutils sh -c 'command -v readelf && command -v strip'
        ;;
    esac
done

if [ -n "$packages" ]; then
    if [ -n "$install" ]; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get update
        # The list is split into words on purpose.
        # shellcheck disable=SC2086
        apt-get install -y --no-install-recommends $packages
    else
        echo "Missing system packages:$packages" >&2
        echo "Install them with: sudo apt-get update && sudo apt-get install -y$packages" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null 2>&1; then
    echo "Missing: Rust. Install it with: curl -sSf https://sh.rustup.rs | sh" >&2
    exit 1
fi
