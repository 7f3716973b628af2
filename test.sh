#!/usr/bin/env bash
# Runs every test with the race detector, but for those of the ring, which is a pure
# function of its members, and of files that users copy, which run the program as they
# have it. Then, without it, which is fast enough for many seeds, the
# simulation of whole nodes, strict nodes with each kind of store, nodes that spill keys,
# clients that name and number their requests, the dashboard in a browser, and what an
# operator sees of a cluster in trouble.
# What the tests of real servers and clients need is installed from Debian's packages
# where that is possible (as root); elsewhere those tests say what is missing and are
# skipped. With CI=true a skipped one is a failure.
set -euo pipefail
cd "$(dirname "$0")"

packages=(gcc libc6-dev nginx-light haproxy hey wrk curl python3 iproute2 nodejs chromium redis-server etcd-server zookeeper default-jdk-headless postgresql systemd rpm libjakarta-servlet-api-java libpostgresql-jdbc-java prometheus)
commands=(gcc nginx haproxy hey wrk curl python3 ip node chromium redis-server etcd java javac systemd-analyze rpm prometheus)

# A Node from elsewhere than Debian brings its own npm, and stands for no other.
command -v npm >/dev/null || { packages+=(npm) && commands+=(npm); }

missing=()
for i in "${!commands[@]}"; do
	PATH="$PATH:/usr/sbin:/sbin" command -v "${commands[$i]}" >/dev/null || missing+=("${commands[$i]}")
done
[ -e /usr/share/java/zookeeper.jar ] || missing+=(zookeeper)
[ -e /usr/share/java/jakarta-servlet-api.jar ] || missing+=(libjakarta-servlet-api-java)
[ -e /usr/share/java/postgresql.jar ] || missing+=(libpostgresql-jdbc-java)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
if [ ${#missing[@]} -gt 0 ]; then
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		echo "installing what the tests need: ${missing[*]}"
		apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null
	else
		echo "not installed, and their tests are skipped: ${missing[*]} (as root, this script installs them from Debian's packages)"
	fi
fi

# raced runs packages with the race detector. Its own runtime (ThreadSanitizer, which is
# no Go code) dies now and then in long runs of many goroutines: of a stack of calls that
# it has miscounted (golang/go#78059 is one way to it), or of a clock that ran out. Then
# nothing was judged, no test and no race was at fault, and the package is run once more.
# Whatever else fails has failed.
raced() {
	local report packages status=0
	report=$(mktemp)
	go test -race -timeout 15m "$@" 2>&1 | tee "$report" || status=$?
	if [ "$status" != 0 ] && ! grep -qE '^ *--- FAIL|WARNING: DATA RACE|^panic: |\[build failed\]' "$report" &&
		grep -qE '^(SIGSEGV|SIGBUS): |unexpected signal during runtime execution|ThreadSanitizer: CHECK failed' "$report"; then
		packages=$(awk '$1 == "FAIL" && $2 != "" { print $2 }' "$report")
		printf '\nThe race detector died in these packages, which are run again:\n%s\n\n' "$packages"
		status=0
		go test -race -timeout 15m "${flags[@]}" $packages || status=$?
	fi
	rm "$report"
	return "$status"
}

flags=("$@")
plain='^lanekeeper/(ring|configs(/(clients|docker|kubernetes|packages|systemd))?)$'
raced "$@" $(go list ./... | grep -vE "$plain")
go test -timeout 10m "$@" $(go list ./... | grep -E "$plain")
go test -timeout 10m -run '^Test(Simulation$|Strict|BestEffort|Spilled|Named|CutOff|Dashboard$|Seen$)' "$@" ./cmd/lanekeeper
