#!/bin/sh
# Rotating keys as fast as it goes, closed loop, with wrk:
#   wrk.sh [SECONDS] [CONNECTIONS] [KEYS]
#   URL=http://127.0.0.1:7940 sh wrk.sh 10 32 1000
# Install wrk: apt-get install wrk
set -eu
url=${URL:-http://127.0.0.1:7940}
seconds=${1:-10} connections=${2:-32} keys=${3:-1000}
command -v wrk >/dev/null || { echo "wrk.sh: no wrk here: apt-get install wrk" >&2; exit 127; }

cat >&2 <<END
wrk is a CLOSED loop: it measures how fast $connections connections can be served,
not how long a caller waits at a given rate. With fewer keys than connections it
measures the lanes' waiting instead of the proxy.
END
KEYS=$keys CLIENT=wrk-$$ exec wrk -t2 -c"$connections" -d"${seconds}s" --latency \
	-s "$(dirname "$0")/wrk.lua" "$url"
