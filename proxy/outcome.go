package proxy

import (
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// executed says whether a request that lanekeeper answers itself may have
// reached the service.
type executed string

const (
	no      executed = "no"      // never sent: safe to repeat
	unknown executed = "unknown" // sent, and nobody can say what became of it
)

// kind is one of the answers that are lanekeeper's own.
type kind struct {
	slug     string
	status   int
	title    string
	executed executed
	// cause is the error type of the Proxy-Status field (RFC 9209, section 2.3).
	cause string
	close bool // the connection may be out of step, or is no longer wanted
	retry bool // Retry-After is sent
	alone bool // the status is the whole answer
}

// kinds are all answers by their slug.
var kinds = make(map[string]*kind)

func declare(k kind) *kind {
	kinds[k.slug] = &k
	return &k
}

// The answers. This is the only place that knows their status codes.
var (
	missingKey       = declare(kind{slug: "missing-key", status: 400, title: "The request has no key", executed: no, cause: "http_request_error"})
	ambiguousKey     = declare(kind{slug: "ambiguous-key", status: 400, title: "The request has more than one key", executed: no, cause: "http_request_error"})
	invalidKey       = declare(kind{slug: "invalid-key", status: 400, title: "The key cannot be used", executed: no, cause: "http_request_error"})
	malformedRequest = declare(kind{slug: "malformed-request", status: 400, title: "The request can be read in more than one way", executed: no, cause: "http_request_error", close: true})
	upgradeRefused   = declare(kind{slug: "upgrade-refused", status: 400, title: "This route does not switch protocols", executed: no, cause: "http_request_error"})
	noRoute          = declare(kind{slug: "no-route", status: 404, title: "No route matches", executed: no, cause: "destination_not_found"})
	methodRefused    = declare(kind{slug: "method-refused", status: 405, title: "The method is not forwarded", executed: no, cause: "http_request_denied", close: true})
	requestTimeout   = declare(kind{slug: "request-timeout", status: 408, title: "The request did not arrive in time", executed: no, cause: "http_request_error", close: true})
	bodyTooLarge     = declare(kind{slug: "body-too-large", status: 413, title: "The body is larger than this route holds", executed: no, cause: "http_request_error", close: true})
	uriTooLong       = declare(kind{slug: "uri-too-long", status: 414, title: "The request target is too long", executed: no, cause: "http_request_error", close: true})
	expectRefused    = declare(kind{slug: "expectation-refused", status: 417, title: "Only 100-continue can be expected", executed: no, cause: "http_request_error", close: true})
	codingRefused    = declare(kind{slug: "transfer-coding-refused", status: 501, title: "The body's transfer coding is not understood", executed: no, cause: "http_request_error", close: true})
	headersTooLarge  = declare(kind{slug: "headers-too-large", status: 431, title: "The header section is too large", executed: no, cause: "http_request_error", close: true})

	idempotencyKeyMissing     = declare(kind{slug: "idempotency-key-missing", status: 400, title: "The request has no idempotency key", executed: no, cause: "http_request_error"})
	invalidIdempotencyKey     = declare(kind{slug: "invalid-idempotency-key", status: 400, title: "The idempotency key cannot be used", executed: no, cause: "http_request_error"})
	idempotencyKeyReused      = declare(kind{slug: "idempotency-key-reused", status: 422, title: "The idempotency key was used for another request", executed: no, cause: "http_request_denied"})
	idempotencyInProgress     = declare(kind{slug: "idempotency-in-progress", status: 409, title: "The same request is on its way", executed: no, cause: "http_request_denied", retry: true})
	idempotencyOutcomeUnknown = declare(kind{slug: "idempotency-outcome-unknown", status: 409, title: "The same request was sent, and its outcome is unknown", executed: unknown, cause: "http_request_denied"})
	idempotencyNotReplayable  = declare(kind{slug: "idempotency-not-replayable", status: 409, title: "The same request was answered, and its answer was not kept", executed: no, cause: "http_request_denied"})
	idempotencyStoreAway      = declare(kind{slug: "idempotency-store-away", status: 503, title: "The records of earlier requests cannot be read", executed: no, cause: "proxy_internal_response", retry: true})

	invalidSequence = declare(kind{slug: "invalid-sequence", status: 400, title: "The request's number cannot be used", executed: no, cause: "http_request_error"})
	sequenceDone    = declare(kind{slug: "sequence-done", status: 409, title: "The request's number was run before", executed: no, cause: "http_request_denied"})
	sequenceGap     = declare(kind{slug: "sequence-gap", status: 409, title: "Requests before this one are missing", executed: no, cause: "http_request_denied", retry: true})
	sequenceUnknown = declare(kind{slug: "sequence-unknown", status: 409, title: "Nothing is known of the request's producer", executed: no, cause: "http_request_denied"})
	sequenceFenced  = declare(kind{slug: "sequence-producer-fenced", status: 409, title: "The request's producer has been replaced", executed: no, cause: "http_request_denied"})

	laneFull      = declare(kind{slug: "lane-full", status: 429, title: "Too many requests wait for this key", executed: no, cause: "connection_limit_reached", retry: true})
	overloaded    = declare(kind{slug: "overloaded", status: 503, title: "This node is at its limit", executed: no, cause: "connection_limit_reached", retry: true})
	draining      = declare(kind{slug: "draining", status: 503, title: "This node is shutting down", executed: no, cause: "proxy_internal_response", retry: true, close: true})
	laneTimeout   = declare(kind{slug: "lane-timeout", status: 503, title: "The request waited too long for its turn", executed: no, cause: "connection_timeout", retry: true})
	noUpstream    = declare(kind{slug: "no-upstream", status: 503, title: "No target of the upstream can take the request", executed: no, cause: "destination_unavailable", retry: true})
	reentrantLane = declare(kind{slug: "reentrant-lane", status: 508, title: "The request waits for the one that sent it", executed: no, cause: "proxy_loop_detected"})

	laneHalted    = declare(kind{slug: "lane-halted", status: 423, title: "An earlier request of this key failed, and nothing runs until an operator says so", executed: no, cause: "http_request_denied"})
	laneCancelled = declare(kind{slug: "lane-cancelled", status: 503, title: "An operator cancelled the request while it waited", executed: no, cause: "http_request_denied"})

	notReady       = declare(kind{slug: "not-ready", status: 503, title: "The cluster is not ready for this request", executed: no, cause: "proxy_internal_response", retry: true})
	noOwner        = declare(kind{slug: "no-owner", status: 503, title: "No node owns the request's key", executed: no, cause: "destination_unavailable", retry: true})
	ownershipMoved = declare(kind{slug: "ownership-moved", status: 503, title: "The node lost the request's key before its turn", executed: no, cause: "proxy_internal_response", retry: true})
	peerLost       = declare(kind{slug: "peer-lost", status: 502, title: "The node that had the request was lost", executed: unknown, cause: "connection_terminated"})

	upstreamConnect = declare(kind{slug: "upstream-connect", status: 502, title: "The upstream could not be reached", executed: no, cause: "connection_refused"})
	upstreamReset   = declare(kind{slug: "upstream-reset", status: 502, title: "The upstream closed the connection without an answer", executed: unknown, cause: "connection_terminated"})
	upstreamInvalid = declare(kind{slug: "upstream-invalid", status: 502, title: "The upstream's answer is not valid HTTP", executed: unknown, cause: "http_protocol_error"})
	upstreamTimeout = declare(kind{slug: "upstream-timeout", status: 504, title: "The upstream did not answer in time", executed: unknown, cause: "http_response_timeout"})

	superseded = declare(kind{slug: "superseded", status: 409, title: "A later request made this one needless", executed: no, cause: "http_request_denied"})

	// clientGone is never sent: nobody is there. Logs and metrics show nginx's number.
	clientGone = declare(kind{slug: "client-gone", status: 499, title: "The client hung up while it waited", executed: no})

	internalError = declare(kind{slug: "internal-error", status: 500, title: "lanekeeper failed on this request", executed: unknown, cause: "proxy_internal_error", close: true})
)

// problem is one such answer to one request.
type problem struct {
	*kind
	detail     string
	retryAfter time.Duration // 0 = one second, for kinds with retry
}

func (k *kind) because(detail string) *problem { return &problem{kind: k, detail: detail} }

func (k *kind) after(d time.Duration, detail string) *problem {
	return &problem{kind: k, detail: detail, retryAfter: d}
}

// supersededWith is superseded, or, with one of these statuses, an answer that shows
// that to logs and metrics alone: who asks for it has clients that are content with less.
func supersededWith(status int) *kind {
	switch status {
	case 200, 202, 204:
		quiet := *superseded
		quiet.status, quiet.alone = status, true
		return &quiet
	}
	return superseded
}

// bare is the status that is the whole answer, or 0.
func (p *problem) bare() int {
	if p.alone {
		return p.status
	}
	return 0
}

// document is the body of a problem (RFC 9457).
type document struct {
	Type       string   `json:"type"`
	Title      string   `json:"title"`
	Status     int      `json:"status"`
	Detail     string   `json:"detail"`
	Instance   string   `json:"instance,omitempty"`
	Executed   executed `json:"executed"`
	Route      string   `json:"route,omitempty"`
	Space      string   `json:"space,omitempty"`
	QueueDepth *int     `json:"queue_depth,omitempty"`
	RetryAfter int      `json:"retry_after,omitempty"`
}

// write answers with p, in place of whatever the response holds.
func (p *problem) write(response *fasthttp.Response, about document) {
	about.Type = "urn:lanekeeper:problem:" + p.slug
	about.Title, about.Status, about.Detail, about.Executed = p.title, p.status, p.detail, p.executed
	response.Reset()
	if p.alone {
		response.SetStatusCode(p.status)
		return
	}
	if p.retry {
		about.RetryAfter = retrySeconds(p.retryAfter)
		response.Header.Set("Retry-After", strconv.Itoa(about.RetryAfter))
	}
	if p.close {
		response.SetConnectionClose()
	}
	body, err := json.Marshal(about)
	if err != nil {
		panic("proxy: a problem cannot be encoded: " + err.Error())
	}
	response.SetStatusCode(p.status)
	response.Header.SetContentType("application/problem+json")
	response.Header.Set("Proxy-Status", `lanekeeper; error=`+p.cause+`; details="`+p.slug+`"`)
	response.Header.Set("Cache-Control", "no-store")
	response.SetBodyRaw(body)
}

// retrySeconds makes an estimate fit for Retry-After: whole seconds from 1 to
// 30, with up to a fifth added, so that those refused together do not return
// together.
func retrySeconds(estimate time.Duration) int {
	estimate += time.Duration(rand.Float64() * 0.2 * float64(estimate))
	seconds := int((estimate + time.Second - 1) / time.Second)
	return min(max(seconds, 1), 30)
}
