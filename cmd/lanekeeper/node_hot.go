package main

import (
	"log/slog"
	"math"
	"strings"
	"time"

	"lanekeeper/admin"
	"lanekeeper/queue"
)

const (
	topWindow = 10 * time.Second // in which keys are counted: long enough for a rate, short enough for now
	topShown  = 20               // keys
)

// hotKeys are the keys that were hot at a look, for the next one to compare. Only
// one look is under way at a time.
type hotKeys struct {
	flips uint64 // what Cool returned
	keys  map[hotKey]queue.HotKey
}

// hotKey is one time that a key was hot.
type hotKey struct {
	partition int
	key       string
	since     int64
}

// lookAtHotKeys lets keys cool that nothing comes to any more, and logs which ones
// became hot or cool since the last look.
func (n *node) lookAtHotKeys() {
	flips := n.lanes.Cool()
	if flips == n.hot.flips {
		return
	}
	before, now := n.hot.keys, make(map[hotKey]queue.HotKey)
	hot := n.lanes.Hot()
	for _, k := range hot {
		now[identify(k)] = k
	}
	n.hot = hotKeys{flips, now}
	for id, k := range before { // first: what is hot again was cool in between
		if _, still := now[id]; !still {
			n.log.Info("key is no longer hot", slog.String("event", "key-cooled"), n.routeOf(k), n.keyOf(k), slog.Float64("hot_s", tenths(time.Since(k.Since).Seconds())))
		}
	}
	for _, k := range hot {
		if _, already := before[identify(k)]; !already {
			n.log.Warn("key is hot", slog.String("event", "key-hot"), n.routeOf(k), n.keyOf(k), slog.String("action", n.action(k)),
				slog.Int("depth", k.Depth), slog.Int("bytes", k.Bytes),
				slog.Float64("busy", hundredths(k.Busy)), slog.Float64("share", hundredths(k.Share)), slog.Float64("rate", tenths(k.Rate)),
				slog.Float64("service_ms", float64(k.Service.Microseconds())/1000), slog.Time("since", k.Since))
		}
	}
}

func identify(k queue.HotKey) hotKey { return hotKey{k.Partition, k.Key, k.Since.UnixNano()} }

func (n *node) routeOf(k queue.HotKey) slog.Attr {
	return slog.String("route", n.proxy.RouteOf(k.Tag).Name)
}

// keyOf writes a key as the access log does.
func (n *node) keyOf(k queue.HotKey) slog.Attr { return n.proxy.Config().LogKeys.Attr([]byte(k.Key)) }

func (n *node) action(k queue.HotKey) string {
	switch lane := &n.proxy.RouteOf(k.Tag).Lane; {
	case lane.Shed:
		return "shed"
	case lane.Spill:
		return "spill"
	}
	return "none"
}

func tenths(x float64) float64     { return math.Round(x*10) / 10 }
func hundredths(x float64) float64 { return math.Round(x*100) / 100 }

// Hot implements admin.Cluster.
func (n *node) Hot() admin.Hot {
	h := admin.Hot{Node: n.config.proxy.Node}
	if n.cluster != nil {
		h.Node = n.cluster.self.Name
	}
	hot := make(map[string]bool)
	for _, k := range n.lanes.Hot() {
		hot[k.Key] = true
		space, key, _ := strings.Cut(k.Key, ":")
		h.Hot = append(h.Hot, admin.HotKey{
			Space: space, Key: key, Route: n.proxy.RouteOf(k.Tag).Name, Action: n.action(k), Since: k.Since,
			Depth: k.Depth, Bytes: k.Bytes, Busy: k.Busy, Share: k.Share, Rate: k.Rate,
			ServiceSeconds: k.Service.Seconds(), WaitSeconds: waitFor(k.Depth, k.Service), LentTo: n.proxy.LentTo(k.Key),
		})
	}
	h.Spilled = n.spilled()
	counts, over := n.lanes.Top(topShown)
	h.TopSeconds = over.Seconds()
	for _, c := range counts {
		if c.Partition == queue.Aside {
			continue // it is its owner's, and among the spilled ones
		}
		space, key, _ := strings.Cut(c.Key, ":")
		k := admin.TopKey{Space: space, Key: key, Hot: hot[c.Key], Count: c.Count, Error: c.Error}
		if lane, ok := n.lanes.Lane(c.Partition, []byte(c.Key)); ok {
			k.Depth, k.WaitSeconds = lane.Depth, waitFor(lane.Depth, lane.Service)
			if len(lane.Tickets) > 0 {
				k.Route = n.proxy.RouteOf(lane.Head().Tag).Name
			}
		}
		h.Top = append(h.Top, k)
	}
	return h
}

// spilled are keys of others whose requests wait here.
func (n *node) spilled() (keys []admin.SpilledKey) {
	for _, k := range n.proxy.Spilled() {
		space, key, _ := strings.Cut(k.Key, ":")
		keys = append(keys, admin.SpilledKey{
			Space: space, Key: key, Route: k.Route, Waiting: k.Waiting, Running: k.Running, Asked: k.Asked, HasTurn: k.Open,
		})
	}
	return keys
}

// waitFor is how long a request would wait that came now.
func waitFor(depth int, service time.Duration) float64 {
	return (time.Duration(depth+1) * service).Seconds()
}
