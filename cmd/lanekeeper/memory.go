package main

import (
	"errors"
	"log/slog"
	"math"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// memoryShare of what a container may use is what Go's collector keeps below. The rest
// is for what it does not count: the binary, stacks of the kernel, buffers of sockets.
const memoryShare = 0.9

// limitMemory has the collector work harder near the container's limit, before the
// kernel ends the process. GOMEMLIMIT, where it is set, decides instead.
func limitMemory(container memlimit.Provider, log *slog.Logger) {
	limit, err := memlimit.Set(memlimit.WithRatio(memoryShare), memlimit.WithProvider(container))
	switch {
	case errors.Is(err, memlimit.ErrNoCgroup), errors.Is(err, memlimit.ErrCgroupsNotSupported):
	case err != nil:
		log.Warn("the container's memory limit is not known", "err", err)
	case limit < math.MaxInt64:
		log.Info("memory limit", "bytes", limit, "share", memoryShare)
	}
}
