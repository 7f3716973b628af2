#!/bin/sh
# Before a removal: "remove" from dpkg, 0 from rpm. An upgrade lets it run on.
set -e
case "${1:-}" in
remove | 0)
	if [ -d /run/systemd/system ]; then systemctl disable --now lanekeeper.service; fi
	;;
esac
