package proxy_test

import (
	"testing"

	"lanekeeper/proxy"
)

// TestAnswersAreStable holds the status of each answer of lanekeeper's own, and what it
// says of the execution: clients are written against them.
//
// Mutants: a status is another; an answer that cannot know says no.
func TestAnswersAreStable(t *testing.T) {
	const no, unknown = "no", "unknown"
	want := map[string]struct {
		status   int
		executed string
	}{
		"missing-key": {400, no}, "ambiguous-key": {400, no}, "invalid-key": {400, no},
		"malformed-request": {400, no}, "upgrade-refused": {400, no}, "no-route": {404, no}, "method-refused": {405, no},
		"request-timeout": {408, no}, "body-too-large": {413, no}, "uri-too-long": {414, no}, "expectation-refused": {417, no}, "headers-too-large": {431, no}, "transfer-coding-refused": {501, no},
		"idempotency-key-missing": {400, no}, "invalid-idempotency-key": {400, no}, "idempotency-key-reused": {422, no},
		"idempotency-in-progress": {409, no}, "idempotency-outcome-unknown": {409, unknown}, "idempotency-not-replayable": {409, no},
		"idempotency-store-away": {503, no},
		"invalid-sequence":       {400, no}, "sequence-done": {409, no}, "sequence-gap": {409, no}, "sequence-unknown": {409, no}, "sequence-producer-fenced": {409, no},
		"superseded": {409, no}, "lane-halted": {423, no}, "lane-cancelled": {503, no},
		"lane-full": {429, no}, "overloaded": {503, no}, "draining": {503, no}, "lane-timeout": {503, no}, "no-upstream": {503, no}, "reentrant-lane": {508, no},
		"not-ready": {503, no}, "no-owner": {503, no}, "ownership-moved": {503, no}, "peer-lost": {502, unknown},
		"upstream-connect": {502, no}, "upstream-reset": {502, unknown}, "upstream-invalid": {502, unknown}, "upstream-timeout": {504, unknown},
		"client-gone": {499, no}, "internal-error": {500, unknown},
	}
	have := proxy.Answers()
	for slug, w := range want {
		if h, ok := have[slug]; !ok || h.Status != w.status || h.Executed != w.executed {
			t.Errorf("%s: got %+v, want %+v", slug, h, w)
		}
	}
	for slug := range have {
		if _, ok := want[slug]; !ok {
			t.Errorf("%s is new: say here what it is", slug)
		}
	}
}
