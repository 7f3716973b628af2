package upstream

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"time"
)

// health is what the checks have said of a target.
type health struct {
	checked bool // at least once
	down    bool
	row     int // results in a row that contradict down
}

// note takes the result of a check, and reports whether it has turned the target.
func (h *health) note(policy *Health, ok bool) (turned bool) {
	first := !h.checked
	h.checked = true
	if ok != h.down { // as it was
		h.row = 0
		return false
	}
	h.row++
	enough := policy.Fall
	if h.down {
		enough = policy.Rise
	}
	if !first && h.row < enough {
		return false
	}
	h.down, h.row = !h.down, 0
	return true
}

// watch checks a target until it is gone, or the upstream closed. The caller holds u.mu.
func (u *Upstream) watch(t *Target) {
	if u.Health.Path == "" || !u.running || t.ignore != nil {
		return
	}
	ctx, ignore := context.WithCancel(u.life)
	t.ignore = ignore
	u.wg.Go(func() { // ends with ctx
		for {
			err := u.check(ctx, t)
			if ctx.Err() != nil {
				return
			}
			u.checked(t, err)
			if !sleep(ctx, jitter(u.Health.Interval)) {
				return
			}
		}
	})
}

func (u *Upstream) checked(t *Target, err error) {
	u.mu.Lock()
	var c change
	if t.health.note(&u.Health, err == nil) {
		c = u.turned(t, err != nil)
	}
	u.mu.Unlock()
	if c.target != nil && err != nil {
		u.log.Warn("a health check has failed", "event", "upstream-health", "target", t.Name, "error", err)
	}
	u.tell(c)
}

// check asks a target, over a connection of its own: requests' connections may all be in use.
func (u *Upstream) check(ctx context.Context, t *Target) error {
	ctx, cancel := context.WithTimeout(ctx, u.Health.Timeout)
	defer cancel()
	conn, err := u.dial(ctx, t, u.Health.Timeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	conn.SetDeadline(time.Now().Add(u.Health.Timeout)) //nolint:errcheck // a dead connection fails the write
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: lanekeeper-health\r\nConnection: close\r\n\r\n", u.Health.Path, t.Host)
	if err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 399 {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	return nil
}
