#!/bin/sh
# Rotating keys at a fixed rate, open loop, with vegeta:
#   vegeta.sh [RATE per second] [SECONDS] [KEYS]
#   URL=http://127.0.0.1:7940 sh vegeta.sh 500 10 50
# Install vegeta: go install github.com/tsenart/vegeta/v12@v12.13.0; without it,
# this script uses "go run".
set -eu
url=${URL:-http://127.0.0.1:7940}
rate=${1:-500} seconds=${2:-10} keys=${3:-50}
vegeta=${VEGETA:-$(command -v vegeta || true)}
vegeta=${vegeta:-go run github.com/tsenart/vegeta/v12@v12.13.0}

cat >&2 <<END
vegeta is an OPEN loop: it sends $rate requests/s whatever comes back, and counts
latency from when a request was due. That is what callers feel when lanes fill;
if the rate is above what the keys can take one at a time (keys / upstream
latency), the wait grows until the lanes refuse with 429: no fault, but the limit.
It sends from many connections, so its order of sending is not a promise.
END
# One target per request, each with its own number: the client's name changes
# with each run, so runs may share a history.
client=vegeta-$$
awk -v url="$url" -v keys="$keys" -v total=$((rate * seconds)) -v client="$client" 'BEGIN {
	for (i = 0; i < total; i++) {
		key = i % keys
		printf "POST %s/orders/%d\nX-Order-Id: %d\nContent-Type: application/json\n", url, key, key
		printf "Witness-Key: order:%d\nWitness-Client: %s\nWitness-Seq: %d\n\n", key, client, int(i / keys) + 1
	}
}' | $vegeta attack -lazy -rate="$rate" -duration="${seconds}s" | $vegeta report
