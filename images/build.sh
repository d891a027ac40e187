#!/bin/sh
# Builds supervisor and dindd into the folder $1 as the images have them: static, stripped, and from
# the same commit with the same compilers always the same bytes. Both Dockerfiles call it, with the
# same context, so that Docker runs it once for both.
set -eu
cd "$(dirname "$0")/.."
out=$1
sources=$PWD
host=$(rustc -vV | sed -n 's/^host: //p')
crates=${CARGO_HOME:-$HOME/.cargo}
target=${CARGO_TARGET_DIR:-$sources/target/images/cargo}
toolchain=$(rustc --print sysroot)

# The folders of this build do not get into the programs: neither by panics' places, nor by C's
# __FILE__ (the TLS library). glibc is linked in, so that the Debian below the image does not matter.
# --target keeps these flags from what cargo runs while it builds, which cannot be static.
RUSTFLAGS="-C target-feature=+crt-static"
CFLAGS=
for map in "$sources=/src" "$target=/target" "$crates=/cargo" "$toolchain=/rust"; do
    RUSTFLAGS="$RUSTFLAGS --remap-path-prefix=$map"
    CFLAGS="$CFLAGS -ffile-prefix-map=$map"
done
export RUSTFLAGS CFLAGS CARGO_INCREMENTAL=0
# For whatever writes a date.
export SOURCE_DATE_EPOCH=0 LC_ALL=C TZ=UTC

cargo build --release --locked --target "$host" --target-dir "$target" -p supervisor -p dindd
mkdir -p "$out"
for program in supervisor dindd; do
    install -m 0755 "$target/$host/release/$program" "$out/$program"
done
