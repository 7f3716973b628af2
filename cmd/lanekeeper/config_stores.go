package main

import (
	"fmt"
	"regexp"
)

// StoresConfig is where records of requests, and marks of their producers, may be kept.
type StoresConfig struct {
	Redis    RecordRedisConfig    `json:"redis" doc:"one Redis master, version 6 or later, that evicts nothing, for routes that say store: redis"`
	Postgres RecordPostgresConfig `json:"postgres" doc:"a PostgreSQL database, for routes that say store: postgres"`
}

// RecordRedisConfig is a Redis master that keeps records.
type RecordRedisConfig struct {
	Addresses []string `json:"addresses" doc:"the master: one host:port"`
	StoreAccess
	DB        int    `json:"db" doc:"number of the database" min:"0"`
	KeyPrefix string `json:"key_prefix" doc:"what all that is kept there begins with; the same on all nodes"`
}

// RecordPostgresConfig is a database that keeps records.
type RecordPostgresConfig struct {
	DSNFile        string `json:"dsn_file" doc:"file with the connection string, in one line: postgres://user:password@host:5432/database?sslmode=verify-full"`
	Table          string `json:"table" doc:"name of the table of records, with its schema if need be; the same on all nodes. That of producers' numbers is called so too, with _marks behind it"`
	CreateTable    bool   `json:"create_table" doc:"create the tables if they are missing; otherwise run what 'lanekeeper config migration' prints"`
	MaxConnections int    `json:"max_connections" doc:"of this node" min:"1" max:"1000"`
}

// section is the part that it has in common with the stores of coordinators.
func (r RecordRedisConfig) section() storeSection {
	return storeSection{
		kind: "redis", within: "stores", list: "addresses", addresses: r.Addresses, access: r.StoreAccess, db: r.DB,
	}
}

var tableName = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,53}$`)

// needStore has the store judged that the setting at path names, once.
func (c *checker) needStore(path, kind string) {
	if kind != storeOwner && !c.checkedStores[kind] {
		c.checkedStores[kind] = true
		c.checkRecordStore(path, kind)
	}
}

// checkRecordStore judges the store that the setting at path wants.
func (c *checker) checkRecordStore(path, kind string) {
	switch kind {
	case "redis":
		c.checkStore(c.cfg.Stores.Redis.section(), fmt.Sprintf("%s is redis", path))
	case "postgres":
		p := c.cfg.Stores.Postgres
		if p.DSNFile == "" {
			c.errorf("stores.postgres.dsn_file", "required, since %s is postgres: a file with the connection string", path)
		}
		if !tableName.MatchString(p.Table) {
			c.errorf("stores.postgres.table", "%q is not the name of a table: at most 54 letters, digits and _, with or without a schema and a dot", p.Table)
		}
	}
}
