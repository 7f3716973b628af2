package admin

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Config is who may use the admin API.
type Config struct {
	// Tokens are the bearer tokens of which each request must carry one. With
	// none of them, none is asked for: then the port must be on loopback.
	Tokens []string

	// AllowedHosts are the names and addresses, without a port, that a request's
	// Host may hold. An empty list refuses every request.
	AllowedHosts []string

	// Pprof serves Go's profiles.
	Pprof bool
}

// Handler returns the handler of the admin port. All answers are JSON; errors
// are application/problem+json.
//
//	GET  /api/v1/status                 Status
//	GET  /api/v1/members                Members
//	GET  /api/v1/ring                   Ring; with ?partitions its Table too
//	GET  /api/v1/locate?space=S&key=K   Location; with &without=NAME, which may
//	                                    be repeated, as if those had left
//	GET  /api/v1/locate/{space}/{key}   the same; a / in the key is sent as %2F
//	GET  /api/v1/hot                    Hot
//	GET  /api/v1/lanes                  Lanes that are halted or held
//	POST /api/v1/lanes/resume?space=S&key=K
//	POST /api/v1/lanes/{space}/{key}/resume
//	                                    Relieved: a halted lane goes on; skip or fail in
//	                                    the place of resume: without the first one that
//	                                    waits, or without all. The body may be
//	                                    {"ticket":"…","reason":"…"}
//	GET  /api/v1/events                 Events of this node; with &limit=N up to N of
//	                                    them, the newest, or with &since=ID the first
//	                                    after that one. As a stream if text/event-stream
//	                                    is accepted
//	GET  /api/v1/unknown                Unknowns of this node; &limit=N and &since=ID as
//	                                    above
//	POST /api/v1/drain                  202 and Status, which says when it is done
//	POST /api/v1/undrain                Status
//	GET  /debug/pprof/                  profiles, with Config.Pprof
//	POST /api/v1/reload                 Reloaded; with ?force even if lanes are in use that
//	                                    requests would find by other rules
//
// A change may say ?node=NAME; a node of another name then refuses it. What it
// does not know of a query it refuses too, so that nothing is taken for
// something else.
func Handler(config Config, cluster Cluster, log *slog.Logger) http.Handler {
	a := &api{cluster: cluster, guard: newGuard(config, log), log: log, streams: make(chan struct{}, streamsMax)}
	mux := http.NewServeMux()
	read := func(pattern string, answer answer, parameters ...string) {
		mux.Handle(pattern, &endpoint{api: a, methods: []string{"GET", "HEAD"}, parameters: parameters, answer: answer})
	}
	change := func(pattern string, answer answer, parameters ...string) {
		mux.Handle(pattern, &endpoint{api: a, methods: []string{"POST"}, parameters: append(parameters, "node"), answer: answer})
	}
	read("/api/v1/status", a.status)
	read("/api/v1/members", a.members)
	read("/api/v1/ring", a.ring, "partitions")
	read("/api/v1/locate", a.locate, "space", "key", "without")
	read("/api/v1/locate/{space}/{key}", a.locate, "without")
	read("/api/v1/hot", a.hot)
	read("/api/v1/lanes", a.lanes)
	for _, action := range []string{Resume, Skip, Fail} {
		change("/api/v1/lanes/"+action, a.relieve(action), "space", "key")
		change("/api/v1/lanes/{space}/{key}/"+action, a.relieve(action))
	}
	mux.Handle("/api/v1/events", &endpoint{
		api: a, methods: []string{"GET", "HEAD"}, parameters: []string{"since", "limit"}, answer: a.events, stream: a.follow,
	})
	read("/api/v1/unknown", a.unknown, "since", "limit")
	change("/api/v1/drain", a.drain)
	change("/api/v1/undrain", a.undrain)
	if config.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index) // and those that have names
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	}
	change("/api/v1/reload", a.reload, "force")
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		notFound("there are /api/v1/status, members, ring, locate, hot, lanes, events, unknown, drain, undrain and reload").write(w)
	})
	return rescued(log, func(w http.ResponseWriter, r *http.Request) {
		if problem := a.guard.refuse(r); problem != nil {
			problem.write(w)
			return
		}
		// ServeMux would redirect to another path, and so to another key.
		if given := r.URL.EscapedPath(); given != "/" && path.Clean(given) != strings.TrimSuffix(given, "/") {
			badRequest("the path has empty or dot segments; send a key with them as ?space=…&key=…").write(w)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

type api struct {
	cluster Cluster
	guard   *guard
	log     *slog.Logger
	streams chan struct{} // one for each that is open
}

// answer is what an endpoint answers: 200 unless status is another one.
type answer func(r *http.Request, query url.Values) (status int, body any, _ *problem)

// endpoint is what stands at one path.
type endpoint struct {
	*api
	methods    []string
	parameters []string // of the query
	answer     answer

	// stream answers those who ask for a stream, unless it returns a problem; nil:
	// they get the answer, too.
	stream func(w http.ResponseWriter, r *http.Request, query url.Values) *problem
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !slices.Contains(e.methods, r.Method) {
		allowed := strings.Join(e.methods, ", ")
		(&problem{
			status: http.StatusMethodNotAllowed, slug: "method-not-allowed", title: "The method does not exist here",
			detail: "use " + allowed, header: [2]string{"Allow", allowed},
		}).write(w)
		return
	}
	query, problem := e.query(r)
	if problem != nil {
		problem.write(w)
		return
	}
	if e.stream != nil && r.Method == http.MethodGet && wantsStream(r) {
		if problem := e.stream(w, r, query); problem != nil {
			problem.write(w)
		}
		return
	}
	status, body, problem := e.answer(r, query)
	if problem != nil {
		problem.write(w)
		return
	}
	writeJSON(w, status, "application/json", body)
}

// query reads the query, all of which must be understood.
func (e *endpoint) query(r *http.Request) (url.Values, *problem) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("the query is not well formed")
	}
	for name, values := range query {
		switch {
		case !slices.Contains(e.parameters, name) && len(e.parameters) == 0:
			return nil, badRequest("no parameters are known here")
		case !slices.Contains(e.parameters, name):
			return nil, badRequest("the only parameters here are " + strings.Join(e.parameters, ", "))
		case len(values) > 1 && name != "without":
			return nil, badRequest(name + " is given more than once")
		}
	}
	return query, nil
}

func (a *api) status(*http.Request, url.Values) (int, any, *problem) {
	status := a.cluster.Status()
	status.NotReady = list(status.NotReady)
	return http.StatusOK, status, nil
}

func (a *api) members(*http.Request, url.Values) (int, any, *problem) {
	members := a.cluster.Members()
	members.Members = list(members.Members)
	return http.StatusOK, members, nil
}

func (a *api) ring(_ *http.Request, query url.Values) (int, any, *problem) {
	partitions := false
	if query.Has("partitions") {
		switch query.Get("partitions") {
		case "", "true":
			partitions = true
		case "false":
		default:
			return 0, nil, badRequest("partitions is true or false")
		}
	}
	ring := a.cluster.Ring(partitions)
	ring.Members = list(ring.Members)
	return http.StatusOK, ring, nil
}

// keyMax bounds a key that is asked for, well above the longest that a
// configuration would allow.
const keyMax = 8 << 10

var spaceText = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)

func (a *api) locate(r *http.Request, query url.Values) (int, any, *problem) {
	space, key, wrong := keyOf(r, query)
	if wrong != nil {
		return 0, nil, wrong
	}
	without := query["without"]
	if len(without) > 0 {
		known := a.cluster.Members().Members
		for _, name := range without {
			if !slices.ContainsFunc(known, func(m Member) bool { return m.Name == name && m.Live() }) {
				return 0, nil, &problem{
					status: http.StatusNotFound, slug: "unknown-member", title: "There is no such member",
					detail: fmt.Sprintf("%.100q is not a member now", name),
				}
			}
		}
	}
	location := a.cluster.Locate(space, key, without)
	location.Space, location.Key, location.Without, location.Next = space, escapeKey(key), without, list(location.Next)
	return http.StatusOK, location, nil
}

// keyOf is the key that a request's path or query names.
func keyOf(r *http.Request, query url.Values) (space, key string, _ *problem) {
	space, key = r.PathValue("space"), r.PathValue("key")
	if space == "" {
		space, key = query.Get("space"), query.Get("key")
	}
	switch {
	case !spaceText.MatchString(space):
		return "", "", badRequest("space is required: 1 to 32 of a-z, 0-9, _ and -")
	case key == "":
		return "", "", badRequest("key is required")
	case len(key) > keyMax:
		return "", "", badRequest(fmt.Sprintf("key has more than %d bytes", keyMax))
	}
	return space, key, nil
}

func (a *api) hot(*http.Request, url.Values) (int, any, *problem) {
	hot := a.cluster.Hot()
	hot.Hot, hot.Top, hot.Spilled = list(hot.Hot), list(hot.Top), list(hot.Spilled)
	for i := range hot.Hot {
		hot.Hot[i].Key = escapeKey(hot.Hot[i].Key)
	}
	for i := range hot.Top {
		hot.Top[i].Key = escapeKey(hot.Top[i].Key)
	}
	for i := range hot.Spilled {
		hot.Spilled[i].Key = escapeKey(hot.Spilled[i].Key)
	}
	return http.StatusOK, hot, nil
}

func (a *api) drain(r *http.Request, query url.Values) (int, any, *problem) {
	return a.change("drain", a.cluster.Drain, http.StatusAccepted, r, query)
}

func (a *api) undrain(r *http.Request, query url.Values) (int, any, *problem) {
	return a.change("undrain", a.cluster.Undrain, http.StatusOK, r, query)
}

// change answers with the status that it leads to.
func (a *api) change(name string, do func() error, done int, r *http.Request, query url.Values) (int, any, *problem) {
	if problem := a.isMeant(query); problem != nil {
		return 0, nil, problem
	}
	if err := do(); err != nil {
		a.log.Info("admin: "+name+" refused", "why", err.Error(), "remote", r.RemoteAddr)
		return 0, nil, &problem{status: http.StatusConflict, slug: "refused", title: "The node cannot do this now", detail: err.Error()}
	}
	a.log.Info("admin: "+name, "remote", r.RemoteAddr)
	_, body, _ := a.status(r, query)
	return done, body, nil
}

// isMeant returns nil unless a change names another node.
func (a *api) isMeant(query url.Values) *problem {
	own := a.cluster.Status().Node
	if !query.Has("node") || query.Get("node") == own {
		return nil
	}
	return &problem{
		status: http.StatusNotFound, slug: "other-node", title: "This is another node",
		detail: fmt.Sprintf("this is %s; send it to the admin port of the node that is meant", own),
	}
}

// list makes an absent list an empty one, for JSON.
func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

// escapeKey writes a key as Lanekeeper-Key does: whatever its bytes, it can be
// printed, and read back.
func escapeKey(key string) string {
	const hexDigits = "0123456789ABCDEF"
	var out strings.Builder
	for _, c := range []byte(key) {
		if c > 0x20 && c < 0x7f && c != '%' {
			out.WriteByte(c)
			continue
		}
		out.WriteByte('%')
		out.WriteByte(hexDigits[c>>4])
		out.WriteByte(hexDigits[c&15])
	}
	return out.String()
}
