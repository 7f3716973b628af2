package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lanekeeper/admin"
)

// fakeCluster is a cluster of three as lk-0 sees it, behind the real admin API.
type fakeCluster struct {
	mu       sync.Mutex     // guards the rest
	statuses []admin.Status // what Status returns, one after the other; the last one stays
	members  admin.Members
	lane     *admin.Lane
	record   *admin.Record
	hot      admin.Hot
	lanes    admin.Lanes
	page     admin.LanePage
	why      admin.Why
	others   []string
	tells    func(node string, q *admin.Question) (*admin.Told, error)
	relief   admin.Relief
	relieved admin.Relieved
	journal  *admin.Journal
	ledger   *admin.Ledger
	owner    string
	asked    []string // keys
	refuses  error

	reloaded, forced admin.Reloaded
	refusesReload    *admin.ReloadError
	looks            int
	looked           func(n int) // nil, or called with each Status
}

func number(n int) *int { return &n }

func newFakeCluster() *fakeCluster {
	since := time.Now().Add(-3*24*time.Hour - time.Minute)
	member := func(name, address, state string) admin.Member {
		return admin.Member{
			Name: name, Incarnation: "18c2f", State: state, Address: address + ":7943", PeerAddress: address + ":7944",
			Zone: "a", Target: 1365, Config: "9f31c2", Version: "1.4.0", Since: since,
		}
	}
	c := &fakeCluster{owner: "lk-1", journal: admin.NewJournal("lk-0"), ledger: admin.NewLedger("lk-0", 10), statuses: []admin.Status{{Node: "lk-0", Ready: true, InRing: true, Members: 3, Owned: 1365}}}
	own := member("lk-0", "10.1.4.7", admin.StateAlive)
	own.Owned, own.Queued = number(1365), number(12)
	other, near := member("lk-1", "10.1.4.8", admin.StateAlive), 0.00043
	other.RTT = &near
	gone := member("lk-2", "10.1.4.9", admin.StateDraining)
	far := 1.2051
	gone.RTT = &far
	gone.Owned, gone.Target, gone.Config = number(341), 0, "77ab01"
	dead := admin.Member{Name: "lk-3", State: admin.StateDead, Address: "10.1.4.10:7943", Since: time.Now().Add(-41 * time.Second)}
	c.members = admin.Members{Cluster: "prod", Node: "lk-0", View: 7, MinMembers: 2, Members: []admin.Member{own, other, gone, dead}}
	return c
}

func (c *fakeCluster) Status() admin.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.looks++; c.looked != nil {
		c.looked(c.looks)
	}
	status := c.statuses[0]
	if len(c.statuses) > 1 {
		c.statuses = c.statuses[1:]
	}
	return status
}

func (c *fakeCluster) Members() admin.Members { return c.members }

func (c *fakeCluster) Ring(partitions bool) admin.Ring {
	ring := admin.Ring{
		Cluster: "prod", Node: "lk-0", Version: 88, Hash: "c0ffee", Layout: "1a2b", Partitions: 4096, Moving: 1,
		Members: []admin.Share{{Name: "lk-0", Target: 2048, Owned: number(2047)}, {Name: "lk-1", Target: 2048}},
	}
	if partitions {
		ring.Table = []admin.Partition{
			{Partition: 0, Target: "lk-0", Owner: "lk-0", Epoch: 3, State: "owned"},
			{Partition: 1, Target: "lk-0", Owner: "lk-1", Epoch: 2, State: "claiming", Draining: 1},
			{Partition: 2, Target: "lk-1", State: "foreign"},
		}
	}
	return ring
}

func (c *fakeCluster) Locate(space, key string, without []string) admin.Location {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, space+" "+key)
	l := admin.Location{Node: "lk-0", Partition: 417, Of: 4096, Owner: c.owner, OwnerAddress: "10.1.4.8:7944", Epoch: 5, Target: "lk-1", Next: []string{"lk-2", "lk-0"}, Lane: c.lane, Record: c.record}
	if c.owner == "" {
		l.OwnerAddress = ""
	}
	if len(without) > 0 {
		l.Target, l.Next = "lk-2", []string{"lk-0"}
	}
	return l
}

func (c *fakeCluster) Hot() admin.Hot {
	hot := c.hot
	hot.Hot, hot.Top = slices.Clone(hot.Hot), slices.Clone(hot.Top) // the caller's
	return hot
}

func (c *fakeCluster) Journal() *admin.Journal { return c.journal }
func (c *fakeCluster) Ledger() *admin.Ledger   { return c.ledger }

func (c *fakeCluster) Drain() error   { return c.refuses }
func (c *fakeCluster) Undrain() error { return c.refuses }

func (c *fakeCluster) Reload(force bool, _ string) (admin.Reloaded, *admin.ReloadError) {
	if force {
		return c.forced, nil
	}
	return c.reloaded, c.refusesReload
}

const fakeToken = "0123456789abcdef"

// serve runs the admin API and returns its address.
func (c *fakeCluster) serve(t *testing.T, tokens ...string) string {
	t.Helper()
	handler := admin.Handler(admin.Config{Tokens: tokens, AllowedHosts: []string{"127.0.0.1"}}, c, slog.New(slog.DiscardHandler))
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

var errRefused = errors.New("the process is ending")

// lines drops the line break at the start of a text, for tests whose tables are
// to be read.
func lines(text string) string { return strings.TrimPrefix(text, "\n") }

func (c *fakeCluster) Lanes(int) admin.Lanes {
	lanes := c.lanes
	lanes.Lanes = slices.Clone(lanes.Lanes) // the caller's
	return lanes
}

func (c *fakeCluster) Lane(space, key string) admin.LanePage {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, space+"/"+key)
	return c.page
}

func (c *fakeCluster) Why(space, key string) admin.Why {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, space+"/"+key)
	return c.why
}

func (c *fakeCluster) Others() []string { return c.others }

func (c *fakeCluster) Ask(_ context.Context, node string, q *admin.Question) (*admin.Told, error) {
	if c.tells == nil {
		return nil, errRefused
	}
	return c.tells(node, q)
}

func (c *fakeCluster) Configuration() admin.Configuration { return admin.Configuration{Node: "lk-0"} }

func (c *fakeCluster) SetLogLevel(level string, lasts time.Duration) admin.LogLevel {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, strings.TrimSpace("loglevel "+level+" "+lasts.String()))
	return admin.LogLevel{Node: "lk-0", Level: cmp.Or(level, "info"), Configured: "info"}
}

func (c *fakeCluster) Relieve(space, key string, r admin.Relief) (admin.Relieved, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked, c.relief = append(c.asked, space+"/"+key), r
	done := c.relieved
	done.Space, done.Key, done.Action = space, key, r.Action
	return done, c.refuses
}
