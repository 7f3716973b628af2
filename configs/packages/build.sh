#!/bin/sh
# Builds lanekeeper's .deb and .rpm from this source:
#
#   configs/packages/build.sh VERSION DIRECTORY [amd64|arm64]
#
# BINARY names a program that is built already, and is taken as it is. MAINTAINER is whom
# the packages name. nfpm is built from its own go.mod beside this file, so that nothing of
# it is among the program's dependencies.
set -eu
[ $# -ge 2 ] || { echo "usage: $0 VERSION DIRECTORY [ARCH]" >&2; exit 2; }
source=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
host=$(go env GOHOSTARCH)
VERSION=$1 ARCH=${3:-$host} MAINTAINER=${MAINTAINER:-lanekeeper <root@localhost>}
export VERSION ARCH MAINTAINER

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
ln -s "$source" "$stage/source"

build() { (cd "$source" && CGO_ENABLED=0 GOOS=linux GOARCH=$1 go build -trimpath -ldflags='-s -w' -o "$2" ./cmd/lanekeeper); }
if [ -n "${BINARY:-}" ]; then cp "$BINARY" "$stage/lanekeeper"; else build "$ARCH" "$stage/lanekeeper"; fi
# What the program says of itself, it says here.
own=$stage/lanekeeper
if [ "$ARCH" != "$host" ]; then
	own=$stage/own
	build "$host" "$own"
fi
for shell in bash zsh fish; do "$own" completion $shell >"$stage/completion.$shell"; done

cp "$source/configs/packages/nfpm.yaml" "$stage/nfpm.yaml"
if "$own" man --help >/dev/null 2>&1; then
	mkdir "$stage/man"
	"$own" man "$stage/man"
	for page in "$stage"/man/*.[1-8]; do
		gzip -9n "$page"
		name=${page##*/}
		echo "  - {src: man/$name.gz, dst: /usr/share/man/man${name##*.}/$name.gz, file_info: {mode: 0644}}" >>"$stage/nfpm.yaml"
	done
fi
if [ -e "$source/LICENSE" ]; then
	echo "  - {src: source/LICENSE, dst: /usr/share/doc/lanekeeper/copyright, file_info: {mode: 0644}}" >>"$stage/nfpm.yaml"
fi

nfpm=$(cd "$source" && go tool -modfile=configs/packages/nfpm.mod -n nfpm)
cd "$stage"
for kind in deb rpm; do "$nfpm" package --config nfpm.yaml --packager $kind --target "$out"; done
