package main

import (
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// serviceManager is systemd, or who else speaks its protocol, if it has started this
// process and wants to hear how it fares: see sd_notify(3). A nil one wants nothing.
//
// It hears that the process is ready when all ports are open, not when the node is: a
// node that waits for the others of its cluster has nothing left to do that whoever is
// started after it should wait for. It hears of the watchdog only from a look at the lanes
// that has returned, so it restarts a process whose dispatcher stands still, and not one
// whose peers or upstreams do.
type serviceManager struct {
	log      *slog.Logger
	watchdog time.Duration // by which it wants to hear; 0 = never
	said     atomic.Pointer[string]
	deaf     atomic.Bool // the last thing could not be told
}

// newServiceManager returns nil if nobody wants to hear.
func newServiceManager(log *slog.Logger) *serviceManager {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the service manager's watchdog is not fed", "err", err)
	}
	return &serviceManager{log: log, watchdog: watchdog}
}

// every is how often to look at the lanes: twice while the watchdog waits, at least.
func (m *serviceManager) every(usually time.Duration) time.Duration {
	if m == nil || m.watchdog == 0 {
		return usually
	}
	return min(usually, m.watchdog/2)
}

// ready tells that the process serves, at its start or after a reload.
func (m *serviceManager) ready() { m.tell(daemon.SdNotifyReady) }

// reloading tells that a reload begins; ready has to follow. The time lets systemd tell
// the reload that it asked for from one that was going on.
func (m *serviceManager) reloading() {
	if m == nil {
		return
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		m.log.Warn("the service manager does not hear of a reload", "err", err)
		return
	}
	m.tell(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/int64(time.Microsecond)))
}

// stopping tells that the process ends, and needs so long at most: a drain is as long as
// the configuration says, which the unit's own time limit knows nothing of.
func (m *serviceManager) stopping(within time.Duration) {
	m.tell(fmt.Sprintf("%s\nEXTEND_TIMEOUT_USEC=%d", daemon.SdNotifyStopping, within.Microseconds()))
}

// looked tells that the lanes move, and of a status that has changed.
func (m *serviceManager) looked(status string) {
	if m == nil {
		return
	}
	var state string
	if last := m.said.Swap(&status); last == nil || *last != status {
		state = "STATUS=" + status
	}
	if m.watchdog > 0 {
		if state != "" {
			state += "\n"
		}
		state += daemon.SdNotifyWatchdog
	}
	if state != "" {
		m.tell(state)
	}
}

func (m *serviceManager) tell(state string) {
	if m == nil {
		return
	}
	_, err := daemon.SdNotify(false, state)
	if err != nil && !m.deaf.Load() {
		m.log.Warn("the service manager does not hear", "err", err)
	}
	m.deaf.Store(err != nil)
}
