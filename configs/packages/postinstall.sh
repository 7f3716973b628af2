#!/bin/sh
# After an installation or an upgrade: dpkg says "configure" and the version before, rpm how
# many versions there are.
set -e
if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers /usr/lib/sysusers.d/lanekeeper.conf
elif ! getent passwd lanekeeper >/dev/null; then
	useradd --system --user-group --home-dir /var/lib/lanekeeper --no-create-home --shell /usr/sbin/nologin lanekeeper
fi
# It is not started by itself: first somebody has to say what it is in front of. One that
# runs drains, and goes on as what was installed now.
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart lanekeeper.service
fi
