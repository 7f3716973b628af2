package proxy_test

import (
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
)

// TestServerTiming: a client is told how long its request waited, and how long the service
// took, if that is wanted. Mutants: the upstream's time in place of the lane's; a request
// outside lanes has one; all have one.
func TestServerTiming(t *testing.T) {
	bubble(t, "when it is wanted", func(t *testing.T) {
		n := start(t, func(c *proxy.Config) { c.ServerTiming = true })
		first, second := async(n, "POST", "/orders/7", nil, ""), async(n, "POST", "/orders/7", nil, "")
		time.Sleep(20 * time.Millisecond)
		n.service.next().finish(200, "")
		synctest.Wait()
		time.Sleep(5 * time.Millisecond)
		n.service.next().finish(200, "")
		if got := (<-first).header.Get("Server-Timing"); got != "lane;dur=0.000, upstream;dur=20.000" {
			t.Errorf("the first: %q", got)
		}
		if got := (<-second).header.Get("Server-Timing"); got != "lane;dur=20.000, upstream;dur=5.000" {
			t.Errorf("the second: %q", got)
		}
		rest := async(n, "GET", "/rest", nil, "")
		n.service.next().finish(200, "")
		if got := (<-rest).header.Get("Server-Timing"); got != "" {
			t.Errorf("outside lanes: %q", got)
		}
	})
	bubble(t, "else not", func(t *testing.T) {
		n := start(t, nil)
		answer := async(n, "POST", "/orders/7", nil, "")
		n.service.next().finish(200, "")
		if got := (<-answer).header.Get("Server-Timing"); got != "" {
			t.Errorf("%q", got)
		}
	})
}
