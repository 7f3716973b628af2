package main

import (
	"log/slog"
	"sync"
	"time"

	"lanekeeper/admin"
)

// logLevels is how much a node logs, which an operator may change for a time.
type logLevels struct {
	level *slog.LevelVar

	mu         sync.Mutex // guards the rest
	configured slog.Level
	until      time.Time   // zero: what is set stays
	timer      *time.Timer // that sets it back; nil: none
}

// configure sets what log.level says, and ends whatever was set for a time.
func (l *logLevels) configure(level slog.Level) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.configured = level
	l.set(level, 0)
}

// set needs l.mu.
func (l *logLevels) set(level slog.Level, lasts time.Duration) {
	if l.timer != nil {
		l.timer.Stop()
	}
	l.timer, l.until = nil, time.Time{}
	l.level.Set(level)
	if lasts <= 0 {
		return
	}
	until := time.Now().Add(lasts)
	l.until = until
	l.timer = time.AfterFunc(lasts, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.until.Equal(until) { // else it was set anew in the same moment
			l.set(l.configured, 0)
		}
	})
}

// stop ends the timer.
func (l *logLevels) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
}

// SetLogLevel implements admin.Cluster.
func (n *node) SetLogLevel(level string, lasts time.Duration) admin.LogLevel {
	l := n.reloads.levels
	l.mu.Lock()
	defer l.mu.Unlock()
	if level == "" {
		l.set(l.configured, 0)
	} else {
		l.set((&LogConfig{Level: level}).slogLevel(), lasts)
	}
	set := admin.LogLevel{Node: n.config.name(), Level: levelName(l.level.Level()), Configured: levelName(l.configured)}
	if until := l.until; !until.IsZero() {
		set.Until = &until
	}
	return set
}

// levelName is a level as log.level has it.
func levelName(level slog.Level) string {
	for _, of := range []struct {
		level slog.Level
		name  string
	}{{slog.LevelError, "error"}, {slog.LevelWarn, "warn"}, {slog.LevelInfo, "info"}} {
		if level >= of.level {
			return of.name
		}
	}
	return "debug"
}
