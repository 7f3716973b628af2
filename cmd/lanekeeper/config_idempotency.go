package main

import (
	"fmt"
	"slices"
	"time"

	"lanekeeper/proxy"
)

// IdempotencyConfig is how requests that carry a name of their own are kept from
// running twice.
type IdempotencyConfig struct {
	Mode            string   `json:"mode" doc:"whether an exclusive request may, or must, carry a name by which its repetitions are known. One that has run is answered from its record" enum:"none optional required"`
	Header          string   `json:"header" doc:"that has the name: 1 to 255 visible characters, quoted or bare"`
	TTL             Duration `json:"ttl" doc:"how long a request is remembered, from its beginning" min:"1s"`
	Store           string   `json:"store" doc:"where the records are. owner: in the memory of the key's owner; they move with the key, and are lost when the node crashes. redis, postgres: see stores" enum:"owner redis postgres"`
	AcceptCrashLoss bool     `json:"accept_crash_loss" doc:"must be true for mode required with store owner: after a crash of the owner, a request that is sent again runs again"`
	ClaimLease      Duration `json:"claim_lease" doc:"in a store, a request that runs is claimed for so long, and again while its node lives; when the claim ends, its outcome is unknown" min:"1s"`
	StoreAway       string   `json:"store_away" doc:"while the store does not answer: refuse requests that carry a name (503), or run them, counted" enum:"refuse run"`
	Concurrent      string   `json:"concurrent" doc:"a repetition that comes while the request waits or runs: it waits as well, and gets the same answer, or is a conflict (409)" enum:"wait conflict"`
	Fingerprint     []string `json:"fingerprint" doc:"parts that a request and its repetitions have in common; others are refused (422)" enum:"method path query content_type body"`
	ScopeHeaders    []string `json:"scope_headers" doc:"headers by which callers are told apart, so that none sees another's answers"`
	Replay          []string `json:"replay" doc:"statuses of answers that are kept, like 404 or 4xx; with any other, a repetition runs again. 429, 502, 503 and 504 are never kept"`
	Unknown         string   `json:"unknown" doc:"a repetition of a request that was sent, and whose outcome is not known: a conflict (409), or execute it, if the service itself looks for the name" enum:"conflict execute"`
	MaxEntry        Size     `json:"max_entry" doc:"largest answer, with its headers, that is kept; of a larger one only that it was given" min:"1KiB"`
}

// What the words of the file are called in package proxy.
var (
	idempotencyWords = map[string]proxy.IdempotencyMode{
		"none": proxy.IdempotencyNone, "optional": proxy.IdempotencyOptional, "required": proxy.IdempotencyRequired,
	}
	storeAwayWords  = map[string]proxy.StoreAway{"refuse": proxy.RefuseUnrecorded, "run": proxy.RunUnrecorded}
	concurrentWords = map[string]proxy.Concurrent{"wait": proxy.AwaitOutcome, "conflict": proxy.ConflictAtOnce}
	unknownWords    = map[string]proxy.UnknownOutcome{"conflict": proxy.ConflictOnUnknown, "execute": proxy.ExecuteAgain}
	printWords      = map[string]proxy.Print{
		"method": proxy.PrintMethod, "path": proxy.PrintPath, "query": proxy.PrintQuery,
		"content_type": proxy.PrintContentType, "body": proxy.PrintBody,
	}
)

// proxyIdempotency is also what the answers of numbered requests are kept by.
func (r RouteConfig) proxyIdempotency() proxy.Idempotency {
	i := r.Idempotency
	if i.Mode == "none" && r.Sequence.Mode == "none" {
		return proxy.Idempotency{}
	}
	replay, err := i.replay()
	if err != nil {
		panic("config: unchecked replay: " + err.Error())
	}
	p := proxy.Idempotency{
		Mode: idempotencyWords[i.Mode], Header: i.Header, Store: i.Store,
		TTL: time.Duration(i.TTL), Lease: time.Duration(i.ClaimLease), MaxEntry: int(i.MaxEntry),
		StoreAway: storeAwayWords[i.StoreAway], Concurrent: concurrentWords[i.Concurrent], Unknown: unknownWords[i.Unknown],
		ScopeHeaders: i.ScopeHeaders, Replay: replay,
	}
	for _, part := range i.Fingerprint {
		p.Print |= printWords[part]
	}
	return p
}

// neverKept are answers that say nothing of the request but that it had better be
// sent again.
var neverKept = []string{"429", "502", "503", "504"}

func (i IdempotencyConfig) replay() (proxy.Statuses, error) {
	kept, err := proxy.ParseStatuses(i.Replay)
	return kept.Without(429, 502, 503, 504), err
}

// checkIdempotency judges what a route says of it, with the route's lane.
func (c *checker) checkIdempotency(path string, r RouteConfig) {
	i := r.Idempotency
	if i.Mode == "none" {
		return
	}
	switch {
	case !r.isExclusive():
		c.errorf(path+".mode", "%s, but no request of this route is exclusive: only those carry a name", i.Mode)
	case r.Lane.Mode == "observe":
		c.errorf(path+".mode", "%s, but lane.mode is observe, which changes nothing: write none, or lane.mode: enforce", i.Mode)
	case i.Store == "owner" && i.Mode == "required" && !i.AcceptCrashLoss:
		c.errorf(path+".accept_crash_loss", "must be true, since mode is required and store is owner: when the key's owner crashes its records are lost, and a request that is sent again runs again. Or choose store: redis or postgres")
	case i.Store == "owner" && r.Lane.Hot.Action == "spill":
		c.errorf(path+".store", "owner, but lane.hot.action is spill: requests of a hot key then run at nodes that do not have the owner's records. Choose store: redis or postgres")
	}
	if !tokenText.MatchString(i.Header) || !proxy.CheckHeader(i.Header) {
		c.errorf(path+".header", "%q is not a header that can hold a name", i.Header)
	}
	for n, header := range i.ScopeHeaders {
		if !tokenText.MatchString(header) {
			c.errorf(fmt.Sprintf("%s.scope_headers[%d]", path, n), "%q is not the name of a header", header)
		}
	}
	for n, text := range i.Replay {
		at := fmt.Sprintf("%s.replay[%d]", path, n)
		if _, err := proxy.ParseStatuses([]string{text}); err != nil {
			c.errorf(at, "%v", err)
		} else if slices.Contains(neverKept, text) {
			c.errorf(at, "%s is never kept: it says that the request had better be sent again", text)
		}
	}
	if i.ClaimLease > i.TTL {
		c.errorf(path+".claim_lease", "%s is longer than ttl (%s)", i.ClaimLease, i.TTL)
	}
	c.needStore(path+".store", i.Store)
}
