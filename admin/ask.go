package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Any node answers for its cluster. It asks the other members what it was asked itself, each for
// its own part, over the links between members; and says which of them gave no answer, so that
// what is missing is never taken for what is not there. A question is a request to the other's
// admin API: so each endpoint is written once. Who may ask was decided by the guard of the node
// that was asked first; the link proves that it is a member that asks on. A node that is asked by
// a member answers for itself alone: nothing ever goes round.

// Question is a request to a member's admin API.
type Question struct {
	Method string
	Target string // path and query
	Body   []byte
}

// Told is a member's answer to one.
type Told struct {
	Status int
	Type   string // of the body
	Body   []byte
}

// Silent is a member that gave no answer.
type Silent struct {
	Node string `json:"node"`
	Why  string `json:"why"` // for people: may change
}

// How long a member may think. A change may read files, and wait for gossip.
const (
	askWait    = time.Second
	changeWait = 10 * time.Second
)

// asked is set in the context of a request that a member carried here.
type asked struct{}

func isAsked(r *http.Request) bool { return r.Context().Value(asked{}) != nil }

// Answer answers a member's question. Whoever calls it has made sure that it is a member.
func (a *API) Answer(ctx context.Context, from string, q *Question) *Told {
	r, err := http.NewRequestWithContext(context.WithValue(ctx, asked{}, from), q.Method, q.Target, bytes.NewReader(q.Body))
	if err != nil || !strings.HasPrefix(q.Target, "/") {
		return tell(badRequest("the question is not understood"))
	}
	r.RequestURI, r.RemoteAddr = q.Target, from
	w := &recorder{header: make(http.Header), status: http.StatusOK}
	a.open.ServeHTTP(w, r)
	return w.told()
}

// tell is a problem as a member's answer.
func tell(p *problem) *Told {
	w := &recorder{header: make(http.Header), status: http.StatusOK}
	p.write(w)
	return w.told()
}

// recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter, as do the others.
func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) WriteHeader(status int)      { w.status = status }
func (w *recorder) Write(b []byte) (int, error) { return w.body.Write(b) }
func (w *recorder) told() *Told {
	return &Told{Status: w.status, Type: w.header.Get("Content-Type"), Body: w.body.Bytes()}
}

// carry takes a request to the node that it is meant for.
func (a *api) carry(r *http.Request, query url.Values, node string, body []byte) (int, any, *problem) {
	own := a.cluster.Status().Node
	if isAsked(r) || !slices.Contains(a.cluster.Others(), node) {
		return 0, nil, otherNode(own, node)
	}
	wait := changeWait
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		wait = askWait
	}
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	told, err := a.cluster.Ask(ctx, node, questionFor(r, query, node, body))
	if err != nil {
		return 0, nil, &problem{
			status: http.StatusBadGateway, slug: "member-silent", title: "The member gave no answer",
			detail: fmt.Sprintf("%.100q: %v. A change may have been made all the same", node, err),
		}
	}
	return told.Status, told, nil
}

// questionFor is what a request asks of one node. HEAD is asked as GET: only our client wants no
// body.
func questionFor(r *http.Request, query url.Values, node string, body []byte) *Question {
	q := make(url.Values, len(query)+1)
	for name, values := range query {
		q[name] = values
	}
	q.Set("node", node)
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	return &Question{Method: method, Target: r.URL.EscapedPath() + "?" + q.Encode(), Body: body}
}

func otherNode(own, meant string) *problem {
	return &problem{
		status: http.StatusNotFound, slug: "other-node", title: "This is another node",
		detail: fmt.Sprintf("this is %s, and it knows no live member of the name %.100q", own, meant),
	}
}

// reading is an endpoint that answers for the cluster: here is a node's own part, and merge
// makes one of many, of which the first is this node's.
type reading[T any] struct {
	*api
	here  func(r *http.Request, query url.Values) (T, *problem)
	merge func(r *http.Request, query url.Values, all []T, silent []Silent) T
	own   string // a parameter that means this node alone, since each has numbers of its own; empty: none does
}

func (e reading[T]) answer(r *http.Request, query url.Values) (int, any, *problem) {
	own := e.cluster.Status().Node
	if query.Has("node") && query.Get("node") != own {
		return e.carry(r, query, query.Get("node"), nil)
	}
	mine, problem := e.here(r, query)
	if problem != nil || isAsked(r) || query.Has("node") || e.own != "" && query.Has(e.own) {
		return http.StatusOK, mine, problem
	}
	others, silent := everywhere[T](r.Context(), e.cluster, func(node string) *Question { return questionFor(r, query, node, nil) })
	return http.StatusOK, e.merge(r, query, append([]T{mine}, others...), silent), nil
}

// everywhere asks all other members at once.
func everywhere[T any](ctx context.Context, cluster Cluster, question func(node string) *Question) (all []T, silent []Silent) {
	others := cluster.Others()
	answers, failures := make([]*T, len(others)), make([]error, len(others))
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	var wg sync.WaitGroup
	for i, node := range others {
		wg.Go(func() { answers[i], failures[i] = askOne[T](ctx, cluster, node, question(node)) }) // ends with ctx
	}
	wg.Wait()
	for i, node := range others {
		if failures[i] != nil {
			silent = append(silent, Silent{Node: node, Why: failures[i].Error()})
			continue
		}
		all = append(all, *answers[i])
	}
	return all, list(silent)
}

func askOne[T any](ctx context.Context, cluster Cluster, node string, q *Question) (*T, error) {
	told, err := cluster.Ask(ctx, node, q)
	if err != nil {
		return nil, err
	}
	if told.Status != http.StatusOK {
		var p Problem
		if json.Unmarshal(told.Body, &p) == nil && p.Detail != "" {
			return nil, fmt.Errorf("it answers %d: %s", told.Status, p.Detail)
		}
		return nil, fmt.Errorf("it answers %d", told.Status)
	}
	into := new(T)
	if err := json.Unmarshal(told.Body, into); err != nil {
		return nil, fmt.Errorf("its answer makes no sense here: %w", err)
	}
	return into, nil
}
