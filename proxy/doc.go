// Package proxy is the edge: HTTP in, HTTP out. It gives every request its
// lane, its turn, one attempt at the upstream, and exactly one answer.
//
// One request, in the order of the source:
//
//  1. gate.go refuses what could be read in two ways.
//  2. route.go finds the first route that matches; a path that another reading
//     would send to another lane is refused.
//  3. key.go takes the key from the request, or says precisely why it cannot;
//     session.go gives one to clients that have none, if the route says so.
//  4. turn.go takes a ticket in the key's lane and waits for its turn. If the
//     lane is another node's, cluster.go sends the request there, where
//     forwarded.go does that and the next, and relays the answer. Where a route
//     says so, its ticket takes the place of others that it makes needless
//     (coalesce.go). In its turn a request with a number gives the turn back while
//     others are missing before it (sequenced.go), and one with a name of its own is
//     looked up: it may have run before (idempotency.go).
//  5. attempt.go sends the request to a target of upstream.go, once, and reads
//     the response whole, its head not before rawhead.go has looked at it as it came;
//     then the lane is free, and only then is the client answered, but for interim
//     responses, which go on as they come (interim.go). A response too large for
//     that streams under the lane (stream.go); an upstream that does not answer in
//     time has its lane held (hold.go). What has failed may be attempted again in
//     its turn (failure.go), or stop its lane until an operator says so (halt.go).
//  6. outcome.go is the one table of answers that are lanekeeper's own; each
//     says whether the request was executed. unknown.go tells of each request
//     that had a lane and of which nobody can say that.
//
// Requests outside any lane (bypass.go) stream both ways.
//
// Not promised: that an upstream which never saw its caller give up stops
// working. A cancelled call is not a stopped one, which is why lanes are held.
//
// Goroutines: one per client connection, fasthttp's, which itself waits for
// its turn and itself talks to the upstream, so that no request object ever
// changes hands; one per turn of a request that another node accepted, which has
// none while it waits for its first turn, and which ends with its answer; one more per held lane,
// tunnel or upload, which Proxy owns and Stop ends.
package proxy
