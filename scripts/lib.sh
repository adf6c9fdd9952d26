# Shared by the scripts: what they need of the machine, and clear words where it is missing.

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# need COMMAND PACKAGE...: installs Debian packages for a missing command, as root; says what to do otherwise.
need() {
    local command=$1
    shift
    command -v "$command" >/dev/null && return
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "$command is missing: install the packages $* and try again"
    fi
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
        fail "cannot install $*"
}

need_cargo() {
    [ -f "${HOME:-}/.cargo/env" ] && . "${HOME:-}/.cargo/env"
    command -v cargo >/dev/null || fail "cargo is missing: install Rust (https://rustup.rs) and try again"
}

# A thousand connections need as many descriptors on the client's side.
raise_descriptor_limit() {
    ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
}

# A spool without a limit takes nothing any more where its file system is nearly full, and so would the tests' spools.
# Memory serves them as well.
temporary_files_where_there_is_room() {
    local enough=$((4 << 20)) dir
    for dir in "${TMPDIR:-/tmp}" /dev/shm; do
        if [ -w "$dir" ] && [ "$(df --output=avail -k "$dir" | tail -1)" -ge "$enough" ]; then
            export TMPDIR=$dir
            return
        fi
    done
    fail "neither ${TMPDIR:-/tmp} nor /dev/shm has $((enough >> 20)) GiB free, which the tests need"
}

step() {
    local name=$1
    shift
    echo "== $name: $*"
    "$@"
}

# Where a run directory is in memory, as it should be. A container gives its /dev/shm next to nothing unless it is told to.
memory_dir() {
    local enough=$((512 << 10)) dir=/dev/shm
    if [ -d "$dir" ] && [ -w "$dir" ] && [ "$(df --output=avail -k "$dir" | tail -1)" -ge "$enough" ]; then
        echo "$dir"
    else
        echo "${TMPDIR:-/tmp}"
    fi
}
