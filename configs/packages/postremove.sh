#!/bin/sh
# After a removal. A purge, which rpm does not know, takes along what lanekeeper has kept.
# The user stays: files may be his, and his number must not become another's.
set -e
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
if [ "${1:-}" = purge ]; then rm -rf /var/lib/lanekeeper; fi
