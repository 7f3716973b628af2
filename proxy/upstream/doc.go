// Package upstream is a service behind the node: targets that come and go, which of
// them gets a request, and how many requests they bear.
//
// # One place to wait
//
// A request asks once, with Acquire, and gets three things at once: a target that is
// available, a place among the requests in flight there (max_connections), and a permit of
// the upstream (limit). What cannot be had waits in one queue, first come first served, so that
// neither the pool of one target nor the limiter has an order of its own. After
// everything that could let somebody in, the queue is walked from its front (admit), so nobody
// waits beside what he could have, and whoever comes then can be let in at once without
// overtaking: who waits waits for something else. Nothing global is held meanwhile.
//
// # Whether a target is available
//
// It is, unless its health checks have failed (Health) or its circuit is open (Circuit).
//
// A target of which nothing is known counts as healthy: else a node that starts would refuse
// everything until the first checks are done. The first check decides alone, and later
// ones by fall and rise.
//
// A failure, for the circuit, is what says that the target is in trouble: no connection, a reset,
// no answer in time, an answer that is not HTTP. A response with status 5xx is none: it is
// an answer, perhaps to a request that cannot be served, and one such request, repeated,
// would take the target from everybody else. Who wants statuses to count has them checked by
// health. Failures in a row open the circuit; after open_for one request at a time is let
// through, and its answer closes it. No request is sent twice for any of this.
//
// With no target available a request is refused at once (ErrNone). Nothing was sent.
//
// # Lifetime
//
// New starts nothing. Start begins to look up names and to check health. Close ends that, and
// may come before the last request is done: no connection is kept from then on. One that is in
// use is closed when its request ends, and a request that waits, or still comes, has one
// of its own.
package upstream
