package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"time"
)

// logAccess writes the request's line of the access log, if it is to have one.
func (c *call) logAccess() {
	status := c.status()
	switch c.config.Access {
	case AccessNone:
		return
	case AccessErrors:
		if c.problem == nil && status < 500 {
			return
		}
	}
	h := &c.ctx.Request.Header
	line := []slog.Attr{
		slog.String("method", string(h.Method())),
		slog.Int("status", status),
		slog.String("mode", c.mode.String()),
		slog.Float64("total_ms", milliseconds(time.Since(c.arrived))),
		slog.Float64("lane_ms", milliseconds(c.laneWait)),
		slog.Float64("upstream_ms", milliseconds(c.upstreamTime)),
		slog.String("client", c.client().String()),
	}
	if c.owner != "" {
		line = append(line, slog.String("owner", c.owner))
	}
	if c.config.Cluster != nil {
		line = append(line, slog.Bool("forwarded", c.owner != ""))
	}
	if c.route != nil {
		line = append(line, slog.String("route", c.route.Name), slog.String("space", c.route.Key.Space))
	}
	if !c.id.IsZero() {
		line = append(line, slog.String("ticket", c.id.String()), slog.Int("depth", c.depth))
		line = append(line, c.config.LogKeys.Attr(c.key))
	}
	if id := c.traceID(); id != "" {
		line = append(line, slog.String("trace_id", id))
	}
	if c.problem != nil {
		line = append(line, slog.String("reason", c.problem.slug), slog.String("executed", string(c.problem.executed)), slog.String("detail", c.problem.detail))
	}
	c.proxy.log.LogAttrs(context.Background(), slog.LevelInfo, "request", line...)
}

// Attr is a lane's name as it is written into logs. The zero Attr, which is
// KeysNone's, is not written.
func (s KeyStyle) Attr(key []byte) slog.Attr {
	switch s {
	case KeysPlain:
		return slog.String("key", string(appendKey(nil, key)))
	case KeysHashed:
		return slog.String("key_hash", hashOf(key))
	}
	return slog.Attr{}
}

func hashOf(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (c *call) status() int {
	if c.problem != nil {
		return c.problem.status
	}
	return c.ctx.Response.StatusCode()
}
