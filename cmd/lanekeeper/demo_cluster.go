package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"lanekeeper/proxy/upstream"
	"lanekeeper/queue"
)

// demoCluster is nodes as serve runs them, in one process, on free ports of
// loopback.
type demoCluster struct {
	out       io.Writer
	upstreams []string
	nodes     []*node
	failed    error // of a change in the middle
}

const demoNodes = 3

func (c *demoCluster) start() error {
	for range demoNodes {
		if err := c.join(); err != nil {
			return err
		}
	}
	return c.settle(10 * time.Second)
}

// addresses are where clients find the nodes.
func (c *demoCluster) addresses() (addresses []string) {
	for _, n := range c.nodes {
		addresses = append(addresses, "http://"+n.traffic.Addr().String())
	}
	return addresses
}

// join starts one more node.
func (c *demoCluster) join() error {
	config, err := c.config(fmt.Sprintf("node-%d", len(c.nodes)+1))
	if err != nil {
		return err
	}
	for _, n := range c.nodes {
		if n.stopping.Load() {
			continue
		}
		config.cluster.join = append(config.cluster.join, n.cluster.members.GossipAddress())
	}
	n, err := startNode(config, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	c.nodes = append(c.nodes, n)
	return nil
}

// config is a node's: lanes are deep, because the point is to see all of the
// traffic in order, not some of it refused.
func (c *demoCluster) config(name string) (nodeConfig, error) {
	const any = "127.0.0.1:0"
	settings, report := Load(LoadOptions{
		Quick: &Quick{Upstream: c.upstreams[0], Key: "path:/orders/{id}"},
		Flags: map[string]string{
			"server.listen": any, "node.name": name,
			"cluster.enabled": "true", "cluster.gossip.listen": any, "cluster.peer.listen": any, "cluster.gossip.profile": "local",
		},
	})
	if report.Errors() > 0 {
		return nodeConfig{}, errors.New("the demo's configuration is refused: " + report.Problems[0].Message)
	}
	config, err := settings.nodeConfig()
	if err != nil {
		return nodeConfig{}, err
	}
	config.observe, config.admin, config.delay = "", "", 0
	config.cluster.settle = 50 * time.Millisecond
	config.proxy.Upstreams[0].Targets = c.upstreams
	config.proxy.Upstreams[0].Balance = upstream.RoundRobin
	for i := range config.proxy.Routes {
		config.proxy.Routes[i].Lane.MaxDepth = 1 << 16
		config.proxy.Routes[i].Lane.QueueTimeout = time.Minute
	}
	config.lanes = queue.Config{MaxQueued: 1 << 20, MaxQueuedBytes: 1 << 30, MaxLanes: 1 << 16, Tags: len(config.proxy.Routes)}
	return config, nil
}

// settle waits until the nodes that stay know each other, and each partition has
// its owner among them.
func (c *demoCluster) settle(most time.Duration) error {
	for until := time.Now().Add(most); !c.settled(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			return fmt.Errorf("the nodes have not shared the orders in %s", most)
		}
	}
	return nil
}

func (c *demoCluster) settled() bool {
	owned, all := 0, 0
	var staying []*node
	for _, n := range c.nodes {
		if !n.stopping.Load() {
			staying = append(staying, n)
			owned += n.cluster.owners.Owned()
			all = n.cluster.layout.Partitions
		}
	}
	for _, n := range staying {
		if len(n.cluster.view.Load().Members) != len(staying) {
			return false
		}
	}
	return owned == all
}

// change lets the last node leave, and another join.
func (c *demoCluster) change(length time.Duration, done <-chan struct{}) {
	wait(length/3, done)
	began := time.Now()
	leaver := c.nodes[len(c.nodes)-1]
	owned := leaver.cluster.owners.Owned()
	if err := leaver.stop(nil); err != nil {
		c.failed = fmt.Errorf("a node left, and %w", err)
		return
	}
	fmt.Fprintf(c.out, "  %s left: its %d partitions went to the others, and it was gone in %s\n", leaver.cluster.self.Name, owned, time.Since(began).Round(time.Millisecond))
	wait(length/3, done)
	began = time.Now()
	if c.failed = c.join(); c.failed != nil {
		return
	}
	newcomer := c.nodes[len(c.nodes)-1]
	for newcomer.cluster.owners.Owned() == 0 && time.Since(began) < 10*time.Second {
		time.Sleep(time.Millisecond)
	}
	if c.failed = c.settle(10 * time.Second); c.failed == nil {
		fmt.Fprintf(c.out, "  %s joined: it had its %d partitions after %s\n", newcomer.cluster.self.Name, newcomer.cluster.owners.Owned(), time.Since(began).Round(time.Millisecond))
	}
}

func (c *demoCluster) stop() {
	now := make(chan struct{})
	close(now)
	for _, n := range c.nodes {
		if !n.stopping.Load() {
			n.stop(now) //nolint:errcheck // all requests have been answered
		}
	}
}
