#!/bin/sh
# One hot key, closed loop, with hey: hey.sh [KEY] [REQUESTS] [CONNECTIONS]
#   URL=http://127.0.0.1:7940 sh hey.sh 7 2000 20
# Install hey: apt-get install hey, or go install github.com/rakyll/hey@latest
set -eu
url=${URL:-http://127.0.0.1:7940}
key=${1:-7} requests=${2:-2000} connections=${3:-20}
command -v hey >/dev/null || { echo "hey.sh: no hey here: apt-get install hey" >&2; exit 127; }

cat >&2 <<END
hey is a CLOSED loop: each of its $connections connections sends its next request
after the last answer. A slow lane makes hey send less, so the waiting that a
real caller would have seen is missing from its percentiles. Requests of one key
run one at a time, so requests/sec can't be above 1 / (upstream latency).
For the wait itself use an open loop: vegeta.sh, or lanekeeper bench.
END
# All requests carry one key; Witness-Key makes a history comparable with one
# made without lanekeeper. hey can't number requests, so order is judged by what
# the witness saw: lanekeeper witness check http://127.0.0.1:7950
exec hey -n "$requests" -c "$connections" -m POST -T application/json -d '{"order_id":"'"$key"'"}' \
	-H "X-Order-Id: $key" -H "Witness-Key: order:$key" "$url/orders/$key"
