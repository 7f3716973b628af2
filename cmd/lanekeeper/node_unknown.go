package main

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"lanekeeper/admin"
	"lanekeeper/proxy"
)

// unknown takes what the edge knows of a request whose outcome nobody can say.
func (n *node) unknown(u *proxy.Unknown) {
	record := &admin.Unknown{
		Ticket: u.Ticket.String(), Space: u.Space, Key: u.Key, Route: u.Route, Method: u.Method,
		Node: u.Node, Owner: u.Owner, Ingress: u.Ingress, Client: u.Client, Upstream: u.Upstream, Target: u.Target,
		Slug: u.Slug, Detail: u.Detail, Arrived: u.Arrived, SentBytes: u.Sent, Ended: u.Ended,
	}
	if u.Status != 0 {
		record.Status = &u.Status
	}
	if !u.Dispatched.IsZero() {
		record.Dispatched = &u.Dispatched
	}
	n.ledger.Add(record)
	if n.unknowns != nil {
		n.unknowns.put(record)
	}
}

// Ledger implements admin.Cluster.
func (n *node) Ledger() *admin.Ledger { return n.ledger }

func (n *node) recordCollector() prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "lanekeeper_journal_dropped_total",
		Help: "Requests with an unknown outcome that could not be written to journal.file.",
	}, func() float64 {
		if n.unknowns == nil {
			return 0
		}
		return float64(n.unknowns.dropped.Load())
	})
}

// closeUnknowns writes what is left of them. No request is left to make another one.
func (n *node) closeUnknowns() {
	if n.unknowns == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	n.unknowns.stop(ctx)
}
