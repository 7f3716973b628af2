package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"lanekeeper/lock/redlock"
)

// online reads the certificates of listeners and upstreams, asks the stores that a configuration
// uses whether they can be used, and adds what is wrong to the report, which has no error yet.
func (c *Config) online(ctx context.Context, report *Report) {
	check := &checker{cfg: c, report: report}
	check.certificateFiles()
	check.checkUpstreamFiles()
	if store, ok := c.Coordinator.store(); ok {
		check.onlineCoordinator(ctx, store)
	}
	leases := c.recordLeases()
	for _, kind := range slices.Sorted(maps.Keys(leases)) {
		check.onlineRecords(ctx, kind, recordTimeout(leases[kind]))
	}
}

// onlineCoordinator asks each address by itself, so that a wrong one does not hide behind
// those that are right.
func (c *checker) onlineCoordinator(ctx context.Context, store storeSection) {
	settings, err := c.cfg.Coordinator.settings(store)
	if wrong := (settingError{}); errors.As(err, &wrong) {
		c.errorf(wrong.path, "%v", wrong.err)
		return
	}
	timeout := time.Duration(c.cfg.Coordinator.AcquireTimeout)
	errs := settings.tryEach(ctx, timeout)
	for i, err := range errs {
		if err != nil {
			c.reportStore(store, i, err, countNil(errs) >= settings.needed())
		}
	}
	if store.kind == "redlock" && countNil(errs) == len(errs) {
		if err := settings.tryTogether(ctx, timeout); err != nil {
			c.errorf(store.listPath(), "%v", err)
		}
	}
}

// onlineRecords opens a store of records as a node does, but creates no table: a node will.
func (c *checker) onlineRecords(ctx context.Context, kind string, timeout time.Duration) {
	stores := c.cfg.Stores
	stores.Postgres.CreateTable = false
	open, err := stores.opener(kind, timeout)
	if wrong := (settingError{}); errors.As(err, &wrong) {
		c.errorf(wrong.path, "%v", wrong.err)
		return
	}
	opening, cancel := context.WithTimeout(ctx, recordTimeoutMax)
	defer cancel()
	store, err := open(opening)
	switch {
	case err == nil:
		store.Close() //nolint:errcheck // nothing was kept in it
	case kind == "redis":
		c.reportStore(stores.Redis.section(), 0, err, false)
	case strings.Contains(err.Error(), "there is no table"):
		if !c.cfg.Stores.Postgres.CreateTable {
			c.errorf("stores.postgres.table", "%v", err)
		}
	case strings.Contains(err.Error(), "is not as it should be"):
		c.errorf("stores.postgres.table", "%v", err)
	default:
		c.errorf("stores.postgres.dsn_file", "%v: check what the file says, and that the server can be reached from here", err)
	}
}

// needed is how many addresses must be of use for a node to go on.
func (s *coordinatorSettings) needed() int {
	if s.kind == "redlock" {
		return len(s.addresses)/2 + 1
	}
	return 1
}

func countNil(errs []error) (n int) {
	for _, err := range errs {
		if err == nil {
			n++
		}
	}
	return n
}

// tryEach says of each address what keeps it from being used.
func (s *coordinatorSettings) tryEach(ctx context.Context, timeout time.Duration) []error {
	errs := make([]error, len(s.addresses))
	var asked sync.WaitGroup
	for i, address := range s.addresses {
		one := *s
		one.addresses = []string{address}
		asked.Go(func() { errs[i] = one.try(ctx, timeout) }) // ends with its timeouts
	}
	asked.Wait()
	return errs
}

// try begins a lease, under which it takes nothing, and ends it.
func (s *coordinatorSettings) try(ctx context.Context, timeout time.Duration) error {
	opening, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	coordinator, err := s.open(opening, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	_, err = coordinator.Begin(opening)
	closing, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return errors.Join(err, coordinator.Close(closing))
}

// tryTogether finds one master under several addresses.
func (s *coordinatorSettings) tryTogether(ctx context.Context, timeout time.Duration) error {
	opening, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	locks, err := redlock.Open(opening, redlock.Config{
		Addresses: s.addresses, Username: s.access.Username, Password: s.password, DB: s.db, TLS: s.tls,
		Prefix: s.prefix, TTL: s.ttl, Margin: s.margin, Grace: s.grace, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	closing, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return locks.Close(closing)
}

// A cure is what a person can do about an error of a store that has the sign in its
// text. The setting is below the store's section; empty is the address. A server
// that is away may be so for a while, and through no fault of the configuration.
type cure struct {
	sign, setting, advice string
	away                  bool
}

// cures are looked through in order; the last one is for all the rest. The signs are
// of the lock packages, and of what is below them.
var cures = []cure{
	{sign: "user name and password", setting: "password_file", advice: "check username and password_file"},
	{sign: "may not do what locks need", setting: "username", advice: "grant it all keys below coordinator.key_prefix"},
	{sign: "minSessionTimeout", setting: leaseSetting}, // says what to do itself
	{sign: "x509: ", setting: "tls", advice: "check tls.ca_file, and that the certificate is for this name, or set tls.server_name"},
	{sign: "tls: ", setting: "tls", advice: "check tls against what the server wants"},
	{sign: "TLS: ", setting: "tls", advice: "check whether the server speaks TLS there"},
	{sign: "DB index is out of range", setting: "db", advice: "write a number that the server has, 0 to 15 unless its databases are set"},
	{sign: "evicts keys"}, // says what to do itself
	{sign: "may not do what records need", setting: "username", advice: "grant it all keys below stores.redis.key_prefix"},
	{sign: " need the master", advice: "give the master's address"},
	{sign: "NOREPLICAS", advice: "it takes no writes before it has the replicas that its min-replicas-to-write asks for"},
	{sign: " is needed", advice: "give one that is new enough"},
	{sign: "no Redis server", advice: "give the host and port of a Redis server"},
	{sign: "is no ZooKeeper", advice: "give the host and client port of a ZooKeeper server"},
	{sign: "as etcd does", advice: "give the host and client port of an etcd member, with https:// if it wants TLS"},
	{sign: "connection refused", advice: "check the host and the port, and that the server runs", away: true},
	{sign: "no such host", advice: "check the host", away: true},
	{advice: "check the host and the port, that it can be reached from here, and whether TLS is spoken there", away: true},
}

// leaseSetting stands for coordinator.lease_ttl, which is in no store's section.
const leaseSetting = "../lease_ttl"

func cureOf(text string) cure {
	return cures[slices.IndexFunc(cures, func(c cure) bool { return strings.Contains(text, c.sign) })]
}

// reportStore reports what came of asking address i. A server that is away is a
// warning if enough others answer: they carry on without it.
func (c *checker) reportStore(s storeSection, i int, err error, enough bool) {
	address := s.addresses[i]
	text := err.Error()
	for _, lead := range []string{s.kind + " [" + address + "]: ", "redis " + address + ": ", s.kind + " " + address + ": ", address + ": "} {
		text = strings.TrimPrefix(text, lead) // each names it in its own way
	}
	found := cureOf(text)
	message := address + ": " + text
	if found.advice != "" {
		message += ": " + found.advice
	}
	path := fmt.Sprintf("%s[%d]", s.listPath(), i)
	switch {
	case found.setting == leaseSetting:
		path = "coordinator.lease_ttl"
	case found.setting != "":
		path = joinPath(s.path(), found.setting)
	}
	if found.away && enough {
		c.warnf(path, "%s", message)
		return
	}
	c.errorf(path, "%s", message)
}
