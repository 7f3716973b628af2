package main

import (
	"slices"
	"time"
)

// CoordinatorConfig is the store that says who holds what, for the routes whose
// order must hold whatever happens to nodes and the network. Of the sections
// below, that of the type counts.
type CoordinatorConfig struct {
	Type           string          `json:"type" doc:"the store that strict routes rest on; redlock has no fencing token, so no route can be strict with it" enum:"none etcd zookeeper redis redlock"`
	KeyPrefix      string          `json:"key_prefix" doc:"what all that is kept in the store begins with; the same on all nodes of a cluster, and no other cluster's. For zookeeper a path"`
	LeaseTTL       Duration        `json:"lease_ttl" doc:"a node of which the store hears nothing for so long has lost what it held; the same on all nodes. For zookeeper the session timeout" min:"100ms"`
	SafetyMargin   Duration        `json:"safety_margin" doc:"so long before its lease ends in the store a node stops by itself and cancels its calls; less than half of lease_ttl, with zookeeper less than a third" min:"1ms"`
	AcquireTimeout Duration        `json:"acquire_timeout" doc:"longest wait for the store" min:"1ms"`
	Etcd           EtcdConfig      `json:"etcd" doc:"an etcd cluster, version 3.4 or later"`
	ZooKeeper      ZooKeeperConfig `json:"zookeeper" doc:"a ZooKeeper ensemble"`
	Redis          RedisConfig     `json:"redis" doc:"one Redis master, version 6 or later, that evicts nothing"`
	Redlock        RedlockConfig   `json:"redlock" doc:"several Redis masters that know nothing of each other"`
}

// EtcdConfig is an etcd cluster.
type EtcdConfig struct {
	Endpoints []string `json:"endpoints" doc:"its members: https://host:port, http://host:port, or host:port, which is with TLS if tls is given"`
	StoreAccess
}

// ZooKeeperConfig is a ZooKeeper ensemble.
type ZooKeeperConfig struct {
	Servers []string `json:"servers" doc:"its servers: host:port"`
	StoreAccess
}

// RedisConfig is a Redis master.
type RedisConfig struct {
	Addresses []string `json:"addresses" doc:"the master: one host:port"`
	StoreAccess
	DB    int  `json:"db" doc:"number of the database" min:"0"`
	Grace bool `json:"grace" doc:"a server that lost its data, or is new, grants nothing for one lease_ttl; without this it must keep all that it acknowledged"`
}

// RedlockConfig is several Redis masters.
type RedlockConfig struct {
	Addresses []string `json:"addresses" doc:"the masters, an odd number, at least 3: host:port"`
	StoreAccess
	DB int `json:"db" doc:"number of the database" min:"0"`
}

// StoreAccess is how a node proves itself to a store, and the store to it.
type StoreAccess struct {
	Username     string         `json:"username" doc:"empty is none"`
	PasswordFile string         `json:"password_file" doc:"file with the password, in one line"`
	TLS          StoreTLSConfig `json:"tls" doc:"TLS is used if any of this is given; server_name alone trusts the authorities of this machine"`
}

// StoreTLSConfig is the TLS between a node and a store.
type StoreTLSConfig struct {
	CAFile     string `json:"ca_file" doc:"authorities that sign the store's certificates, in PEM; empty is those of this machine"`
	CertFile   string `json:"cert_file" doc:"this node's certificate, and those between it and the authority, in PEM; with key_file or not at all"`
	KeyFile    string `json:"key_file" doc:"its private key, in PEM"`
	ServerName string `json:"server_name" doc:"the name that the store's certificates are for; empty is the host in its address"`
}

// A storeSection is what the sections of all types have in common.
type storeSection struct {
	kind      string // as of coordinator.type
	within    string // the section that it is in
	list      string // the name of the setting that is addresses
	addresses []string
	access    StoreAccess
	db        int
	grace     bool
}

func (c *CoordinatorConfig) stores() []storeSection {
	stores := []storeSection{
		{kind: "etcd", list: "endpoints", addresses: c.Etcd.Endpoints, access: c.Etcd.StoreAccess},
		{kind: "zookeeper", list: "servers", addresses: c.ZooKeeper.Servers, access: c.ZooKeeper.StoreAccess},
		{kind: "redis", list: "addresses", addresses: c.Redis.Addresses, access: c.Redis.StoreAccess, db: c.Redis.DB, grace: c.Redis.Grace},
		// Masters that lose their data are what redlock is about, so grace is no choice there.
		{kind: "redlock", list: "addresses", addresses: c.Redlock.Addresses, access: c.Redlock.StoreAccess, db: c.Redlock.DB, grace: true},
	}
	for i := range stores {
		stores[i].within = "coordinator"
	}
	return stores
}

// store is the section that counts; ok is false if there is none.
func (c *CoordinatorConfig) store() (_ storeSection, ok bool) {
	stores := c.stores()
	i := slices.IndexFunc(stores, func(s storeSection) bool { return s.kind == c.Type })
	if i < 0 {
		return storeSection{}, false
	}
	return stores[i], true
}

func (s storeSection) path() string     { return s.within + "." + s.kind }
func (s storeSection) listPath() string { return joinPath(s.path(), s.list) }

// fences says whether what the store grants carries a token by which a service
// can refuse whoever comes late.
func (s storeSection) fences() bool { return s.kind != "redlock" }

// validFor is how long a node may count on its lease right after renewing it.
// ZooKeeper's answers prove the least: see package lock/zk.
func (c *CoordinatorConfig) validFor() time.Duration {
	length := time.Duration(c.LeaseTTL)
	if c.Type == "zookeeper" {
		length = 2 * length / 3
	}
	return (length - time.Duration(c.SafetyMargin)).Truncate(time.Millisecond)
}
