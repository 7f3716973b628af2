package admin

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"lanekeeper/admin/ui"
)

// Config is who may use the admin API.
type Config struct {
	// Tokens are the bearer tokens of which each request must carry one. With
	// none of them, none is asked for: then the port must be on loopback.
	Tokens []string

	// AllowedHosts are the names and addresses, without a port, that a request's
	// Host may hold. An empty list refuses every request.
	AllowedHosts []string

	// UI serves the dashboard.
	UI bool

	// Pprof serves Go's profiles.
	Pprof bool
}

// API is the handler of the admin port, and of what other members ask. All answers are JSON;
// errors are application/problem+json.
type API struct {
	*api
	open http.Handler // behind the guard
}

// Handler returns the handler of the admin port of a node.
//
// These answer for the cluster: this node asks the others, each of which has about a second, and
// puts their answers together; "silent":[{"node","why"}] lists who gave none. Each item says its
// node. With ?node=NAME it is that node's answer alone, without "silent".
//
//	GET  /api/v1/status                 Status of this node, with nodes:[Status], numbers:Numbers
//	                                    {time,members,answered,ready,draining,rate,lanes,waiting,running,
//	                                    held,stopped,halted,hot,oldest_wait_seconds,violations,unknown,
//	                                    lane_wait{count,p50_seconds,p99_seconds},upstream{…},warnings,silent}
//	GET  /api/v1/lanes                  Lanes {node,total,lanes:[LaneRow],silent}: those in which nothing
//	                                    begins, and the deepest; &limit=N (100, at most 1000). LaneRow
//	                                    {node,space,key,route,state,waiting,running,seconds,head_ticket,
//	                                    head_state,head_age_seconds,held,held_seconds_left,hold{reason,
//	                                    seconds},cause,ticket,hot,lent_to,wait_seconds_estimate}; state is
//	                                    halted, held, blocked, drained, spilled, hot, ok or idle
//	GET  /api/v1/lanes/{space}/{key}    LanePage: a LaneRow with {partition,partitions,owner,epoch,tickets:
//	                                    [LaneTicket],more,spilled}. LaneTicket {ticket,position,state,
//	                                    seconds,age_seconds,class,route,bytes,ingress,client,trace,lent_to,
//	                                    held_seconds_left}
//	GET  /api/v1/lanes/show?space=S&key=K  the same
//	GET  /api/v1/why/{space}/{key}      Why {owner,epoch,partition_state,lane_state,head:LaneTicket,waiting,
//	                                    reasons:[{node,code,ticket,who,seconds,seconds_left,text,advice}],
//	                                    text:[sentence]}
//	GET  /api/v1/why?space=S&key=K      the same
//	GET  /api/v1/keys                   Keys {sort,keys:[Key]}; &sort=depth|rate|wait, &limit=N. Key {node,space,
//	                                    key,route,state,action,lent_to,since,depth,rate,rate_at_most,
//	                                    wait_seconds_estimate,count,error}
//	GET  /api/v1/hot                    Hot {hot,top,spilled}
//	GET  /api/v1/events                 Events; with &limit=N up to N of them, the newest; with &since=ID
//	                                    this node's first after that one
//	GET  /api/v1/unknown                Unknowns; &limit=N and &since=ID as above
//
// As a stream, if text/event-stream is accepted:
//
//	GET  /api/v1/events                 this node's events, each under the name of its kind
//	GET  /api/v1/events?stream=status,lanes,events
//	                                    the cluster's, as the dashboard wants it. SSE events: status (Numbers),
//	                                    members (Members), ring (Ring with runs), lanes ({lanes:[LaneRow],
//	                                    keys:[Key],silent}), event (Event), silent ([{node,why}]: whose events
//	                                    are missing, when that changes). All there is first, then status
//	                                    and lanes each second, and members and ring when they change. status
//	                                    stands for status, members and ring
//	GET  /api/v1/status                 the same as ?stream=status
//
// Of the answering node:
//
//	GET  /api/v1/members                Members
//	GET  /api/v1/ring                   Ring; with ?partitions its Table too, with ?runs its Runs
//	GET  /api/v1/locate?space=S&key=K   Location; with &without=NAME, which may
//	                                    be repeated, as if those had left
//	GET  /api/v1/locate/{space}/{key}   the same; a / in the key is sent as %2F
//	GET  /api/v1/config                 Configuration {config,settings:[{path,value,origin}]}; ?node=NAME too
//	GET  /openapi.json                  all of this for machines
//	GET  /debug/pprof/                  profiles, with Config.Pprof
//
// Changes. With ?node=NAME they are carried to that node; those of a lane, without one, to the
// owner of the key:
//
//	POST /api/v1/lanes/{space}/{key}/resume  Relieved {node,space,key,action,ticket,cause,seconds,cancelled,
//	POST /api/v1/lanes/resume?space=S&key=K  risk}: a halted lane goes on; skip or fail in the place of
//	                                    resume: without the first one that waits, or without all.
//	                                    hold: nothing begins any more. release: end of a hold, also of one
//	                                    after an upstream timeout (risk: true). cancel: one waiting request
//	                                    is answered 503 lane-cancelled. The body may be
//	                                    {"ticket":"…","reason":"…"}; cancel needs the ticket
//	POST /api/v1/drain                  202 and Status, which says when it is done
//	POST /api/v1/undrain                Status
//	POST /api/v1/reload                 Reloaded; with ?force even if lanes are in use that
//	                                    requests would find by other rules
//	POST /api/v1/loglevel?level=L&for=D LogLevel {node,level,configured,until}; without for until the next
//	                                    change; without level as configured
//
// What it does not know of a query it refuses, so that nothing is taken for something else.
func Handler(config Config, cluster Cluster, log *slog.Logger) *API {
	a := &api{cluster: cluster, ui: config.UI, guard: newGuard(config, log), log: log, streams: make(chan struct{}, streamsMax)}
	a.boards.api = a
	mux := http.NewServeMux()
	for _, r := range a.routes() {
		mux.Handle(r.pattern, &endpoint{api: a, methods: r.methods(), parameters: r.names(), answer: r.answer, stream: r.stream})
	}
	if config.UI {
		mux.Handle("/ui/", ui.Handler())
		mux.Handle("/ui", ui.Handler())
		mux.Handle("/{$}", ui.Handler())
	}
	if config.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index) // and those that have names
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		notFound("see /openapi.json for what there is").write(w)
	})
	return &API{api: a, open: rescued(log, func(w http.ResponseWriter, r *http.Request) {
		// ServeMux would redirect to another path, and so to another key.
		if given := r.URL.EscapedPath(); given != "/" && path.Clean(given) != strings.TrimSuffix(given, "/") {
			badRequest("the path has empty or dot segments; send a key with them as ?space=…&key=…").write(w)
			return
		}
		mux.ServeHTTP(w, r)
	})}
}

// ServeHTTP implements http.Handler: the admin port's.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if problem := a.guard.refuse(r, !a.ui || !ui.Serves(r.URL.Path)); problem != nil {
		problem.write(w)
		return
	}
	a.open.ServeHTTP(w, r)
}

type api struct {
	cluster Cluster
	ui      bool
	guard   *guard
	log     *slog.Logger
	streams chan struct{} // one for each that is open
	boards  boards
}

// route is an endpoint as it is described: what is not here there is not, and the other way
// round.
type route struct {
	pattern    string
	change     bool // POST; else GET and HEAD
	title      string
	parameters []parameter // of the query
	body       any         // of a request; nil: none
	result     any         // of an answer: a value of its type
	status     int         // of that; 0 = 200
	answer     answer
	stream     func(w http.ResponseWriter, r *http.Request, query url.Values) *problem
}

// parameter is one of a query.
type parameter struct{ name, kind, meaning string }

func (r *route) methods() []string {
	if r.change {
		return []string{"POST"}
	}
	return []string{"GET", "HEAD"}
}

func (r *route) names() (names []string) {
	for _, p := range r.parameters {
		names = append(names, p.name)
	}
	return names
}

// The parameters.
var (
	nodeParameter  = parameter{"node", "string", "the node that is meant; for a reading, that node's answer alone"}
	spaceParameter = parameter{"space", "string", "the key's space"}
	keyParameter   = parameter{"key", "string", "the key, as it is"}
	limitParameter = parameter{"limit", "integer", "how many are wanted at most"}
	sinceParameter = parameter{"since", "integer", "only what came after the one with this id, at the node that is asked"}
)

// routes are all of them.
func (a *api) routes() []route {
	status := reading[Status]{api: a, here: a.statusHere, merge: mergeStatus}
	lanes := reading[Lanes]{api: a, here: a.lanesHere, merge: mergeLanes}
	lane := reading[LanePage]{api: a, here: a.laneHere, merge: mergeLane}
	why := reading[Why]{api: a, here: a.whyHere, merge: mergeWhy}
	keys := reading[Keys]{api: a, here: a.keysHere, merge: mergeKeys}
	hot := reading[Hot]{api: a, here: a.hotHere, merge: mergeHot}
	events := reading[Events]{api: a, here: a.eventsHere, merge: mergeEvents, own: "since"}
	unknown := reading[Unknowns]{api: a, here: a.unknownHere, merge: mergeUnknown, own: "since"}
	named := []parameter{spaceParameter, keyParameter}
	without := parameter{"without", "string", "a member that is taken to have left; may be repeated"}
	routes := []route{
		{pattern: "/api/v1/status", title: "How the cluster is, and each node", result: Status{}, answer: status.answer, stream: a.watchStatus,
			parameters: []parameter{nodeParameter}},
		{pattern: "/api/v1/members", title: "Who the members are, as the answering node sees them", result: Members{}, answer: a.members},
		{pattern: "/api/v1/ring", title: "Which partitions are meant for whom, and who has them", result: Ring{}, answer: a.ring,
			parameters: []parameter{{"partitions", "boolean", "each partition"}, {"runs", "boolean", "each run of equal partitions"}}},
		{pattern: "/api/v1/locate", title: "Where a key belongs", result: Location{}, answer: a.locate, parameters: append(named, without)},
		{pattern: "/api/v1/locate/{space}/{key}", title: "Where a key belongs", result: Location{}, answer: a.locate, parameters: []parameter{without}},
		{pattern: "/api/v1/hot", title: "Hot keys, and those with most requests", result: Hot{}, answer: hot.answer, parameters: []parameter{nodeParameter}},
		{pattern: "/api/v1/keys", title: "The keys with most to do", result: Keys{}, answer: keys.answer,
			parameters: []parameter{{"sort", "string", "depth, rate or wait; the most first"}, limitParameter, nodeParameter}},
		{pattern: "/api/v1/lanes", title: "Lanes in which nothing begins, and the deepest", result: Lanes{}, answer: lanes.answer,
			parameters: []parameter{limitParameter, nodeParameter}},
		{pattern: "/api/v1/lanes/{space}/{key}", title: "One lane with its tickets", result: LanePage{}, answer: lane.answer, parameters: []parameter{nodeParameter}},
		{pattern: "/api/v1/lanes/show", title: "One lane with its tickets", result: LanePage{}, answer: lane.answer, parameters: append(named, nodeParameter)},
		{pattern: "/api/v1/why/{space}/{key}", title: "Why a key's requests wait", result: Why{}, answer: why.answer, parameters: []parameter{nodeParameter}},
		{pattern: "/api/v1/why", title: "Why a key's requests wait", result: Why{}, answer: why.answer, parameters: append(named, nodeParameter)},
		{pattern: "/api/v1/events", title: "What has happened", result: Events{}, answer: events.answer, stream: a.follow,
			parameters: []parameter{sinceParameter, limitParameter, nodeParameter, {"stream", "string", "with Accept: text/event-stream: which of status, lanes and events are wanted, with commas between them"}}},
		{pattern: "/api/v1/unknown", title: "Requests whose outcome nobody can say", result: Unknowns{}, answer: unknown.answer,
			parameters: []parameter{sinceParameter, limitParameter, nodeParameter}},
		{pattern: "/api/v1/config", title: "What a node runs by", result: Configuration{}, answer: a.at(a.config), parameters: []parameter{nodeParameter}},

		{pattern: "/openapi.json", title: "This description", answer: a.describe},

		{pattern: "/api/v1/drain", change: true, title: "Let a node give everything away", result: Status{}, status: http.StatusAccepted, answer: a.at(a.drain), parameters: []parameter{nodeParameter}},
		{pattern: "/api/v1/undrain", change: true, title: "Make a draining node an ordinary one again", result: Status{}, answer: a.at(a.undrain), parameters: []parameter{nodeParameter}},
		{pattern: "/api/v1/reload", change: true, title: "Have a node read its configuration again", result: Reloaded{}, answer: a.at(a.reload),
			parameters: []parameter{{"force", "boolean", "even if the order of keys in use may break"}, nodeParameter}},
		{pattern: "/api/v1/loglevel", change: true, title: "Set how much a node logs", result: LogLevel{}, answer: a.at(a.logLevel),
			parameters: []parameter{{"level", "string", "debug, info, warn or error; without it, as configured"}, {"for", "string", "a duration such as 10m; without it, until the next change"}, nodeParameter}},
	}
	for _, action := range []string{Resume, Skip, Fail, Hold, Release, Cancel} {
		for pattern, parameters := range map[string][]parameter{
			"/api/v1/lanes/" + action: append(named, nodeParameter), "/api/v1/lanes/{space}/{key}/" + action: {nodeParameter},
		} {
			routes = append(routes, route{
				pattern: pattern, change: true, title: reliefTitles[action], body: Relief{}, result: Relieved{},
				answer: a.relieve(action), parameters: parameters,
			})
		}
	}
	return routes
}

// at is an endpoint of one node: the answering one, or the one that is named.
func (a *api) at(here answer) answer {
	return func(r *http.Request, query url.Values) (int, any, *problem) {
		if query.Has("node") && query.Get("node") != a.cluster.Status().Node {
			return a.carry(r, query, query.Get("node"), nil)
		}
		return here(r, query)
	}
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
	if told, ok := body.(*Told); ok {
		writeHead(w, told.Status, told.Type)
		w.Write(told.Body) //nolint:errcheck // nobody is left to hear of it
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

func (a *api) members(*http.Request, url.Values) (int, any, *problem) {
	members := a.cluster.Members()
	members.Members = list(members.Members)
	return http.StatusOK, members, nil
}

func (a *api) ring(_ *http.Request, query url.Values) (int, any, *problem) {
	partitions, wrong := truth(query, "partitions")
	if wrong != nil {
		return 0, nil, wrong
	}
	runs, wrong := truth(query, "runs")
	if wrong != nil {
		return 0, nil, wrong
	}
	return http.StatusOK, a.ringNow(partitions, runs), nil
}

func (a *api) ringNow(partitions, runs bool) Ring {
	ring := a.cluster.Ring(partitions || runs)
	ring.Members = list(ring.Members)
	if runs {
		ring.Runs = runsOf(ring.Table)
	}
	if !partitions {
		ring.Table = nil
	}
	return ring
}

// runsOf puts equal neighbours together.
func runsOf(table []Partition) (runs []Run) {
	for i := range table {
		p := &table[i]
		next := Run{From: p.Partition, To: p.Partition, Owner: p.Owner, Target: p.Target, Moving: p.Epoch > 0 && p.Owner != p.Target}
		if last := len(runs) - 1; last >= 0 && runs[last].To == p.Partition-1 && runs[last].Owner == next.Owner && runs[last].Target == next.Target && runs[last].Moving == next.Moving {
			runs[last].To = p.Partition
			continue
		}
		runs = append(runs, next)
	}
	return runs
}

// truth reads a parameter that is true or false, and true without a value.
func truth(query url.Values, name string) (bool, *problem) {
	if !query.Has(name) {
		return false, nil
	}
	switch query.Get(name) {
	case "", "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, badRequest(name + " is true or false")
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

func (a *api) hotHere(*http.Request, url.Values) (Hot, *problem) { return a.hotNow(), nil }

func (a *api) hotNow() Hot {
	hot := a.cluster.Hot()
	hot.Hot, hot.Top, hot.Spilled = list(hot.Hot), list(hot.Top), list(hot.Spilled)
	for i := range hot.Hot {
		hot.Hot[i].Key, hot.Hot[i].Node = escapeKey(hot.Hot[i].Key), hot.Node
	}
	for i := range hot.Top {
		hot.Top[i].Key, hot.Top[i].Node = escapeKey(hot.Top[i].Key), hot.Node
	}
	for i := range hot.Spilled {
		hot.Spilled[i].Key, hot.Spilled[i].Node = escapeKey(hot.Spilled[i].Key), hot.Node
	}
	return hot
}

func mergeHot(_ *http.Request, _ url.Values, all []Hot, silent []Silent) Hot {
	whole := all[0]
	whole.Silent = silent
	for _, h := range all[1:] {
		whole.Hot, whole.Top, whole.Spilled = append(whole.Hot, h.Hot...), append(whole.Top, h.Top...), append(whole.Spilled, h.Spilled...)
		whole.TopSeconds = max(whole.TopSeconds, h.TopSeconds)
	}
	slices.SortStableFunc(whole.Hot, func(a, b HotKey) int { return cmp.Compare(b.Depth, a.Depth) })
	slices.SortStableFunc(whole.Top, func(a, b TopKey) int { return cmp.Compare(b.Count, a.Count) })
	slices.SortStableFunc(whole.Spilled, func(a, b SpilledKey) int { return cmp.Compare(b.Waiting, a.Waiting) })
	return whole
}

func (a *api) drain(r *http.Request, _ url.Values) (int, any, *problem) {
	return a.change("drain", a.cluster.Drain, http.StatusAccepted, r)
}

func (a *api) undrain(r *http.Request, _ url.Values) (int, any, *problem) {
	return a.change("undrain", a.cluster.Undrain, http.StatusOK, r)
}

// change answers with the status that it leads to.
func (a *api) change(name string, do func() error, done int, r *http.Request) (int, any, *problem) {
	if err := do(); err != nil {
		a.log.Info("admin: "+name+" refused", "why", err.Error(), "remote", r.RemoteAddr)
		return 0, nil, &problem{status: http.StatusConflict, slug: "refused", title: "The node cannot do this now", detail: err.Error()}
	}
	a.log.Info("admin: "+name, "remote", r.RemoteAddr)
	return done, a.ownStatus(), nil
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
