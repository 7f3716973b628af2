package proxy

import (
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Mutants: any one of the steps left out; the loose pass left out; a step applied
// only to the path as sent; slashInValue always true.
func TestASecondSpellingIsNoSecondLane(t *testing.T) {
	orders := keyed("/orders/{id}/{rest...}", Source{Path: "id"})
	list := keyed("/bulk/{$}", Source{Query: "id"})
	p := judge(t, orders, list, open("/"))
	const refused, none = "!malformed-request", ""
	for target, want := range map[string]string{
		"/orders/7": "order:7", "/orders/7/": "order:7", "/orders/7/x/": "order:7", "/orders/A-7/X": "order:A-7", "/orders/7/a.b": "order:7",
		"/else/../../x": none, "/else//x": none, "/else;x": none, `/else\x`: none, "/else/%2e%2e/x": none, "//else": none, "/ELSE/%": none,

		// Dot segments, and how they are hidden.
		"/orders/7/../8": refused, "/orders/7/..": "order:7", "/orders/./7": refused, "/x/../orders/7": refused, "/orders/8/%2e%2E/7": refused,
		"/orders/7/.;/x": "order:7", "/orders/7/..;/8": refused, "/orders/7/..;a=b/8": refused, "/x/..;/orders/7": refused, "/x/%2e%2e;/orders/7": refused,
		`/x\..\orders\7`: refused, `/x/..\orders/7`: refused, "/x%2F..%2Forders/7": refused, "/x/..%5Corders/7": refused, "/orders/7%2F..%2F8": refused,
		"/x/..;%2Forders/7": refused, "/orders/..": "order:..", "/orders/7/...": "order:7", "/orders/.../x": "order:...", "/x/%2e%2e%2forders/7": refused,
		// Which step comes first makes a difference.
		"/orders//7/../../8": refused, "/x//../orders/7": refused, "/bulk//x/..//../?id=7": refused, "/x%2F..;%2Fy/orders/7": refused,

		// Empty segments, and a host.
		"//orders/7": refused, "/orders//7": refused, "/orders/7//x": "order:7", "/orders//": none, "//evil/orders/7": refused,
		`/\evil/orders/7`: refused, "//evil:80@x/orders/7": refused, "///orders/7": refused, `\/evil/orders/7`: "!",

		// Parameters and backslashes.
		"/orders/7;v=1": refused, "/orders;v=1/7": refused, "/orders/7/x;v=1": "order:7", "/;x/orders/7": refused, "/orders/;x/7": refused,
		`/orders\7`: refused, `/orders/7\x`: refused, `/orders/7/a\b`: "order:7", "/orders/7%3Bv": "order:7;v",

		// An encoded slash stays in its value, but decides no route.
		"/orders/7%2Fx": "order:7/x", "/orders/7%2fx/y": "order:7/x", "/orders/7%5Cx": `order:7\x`, "/orders/7%2F": "order:7/", "/orders/%2F7": refused,
		"/orders%2F7": refused, "/orders%5C7": refused, "%2Forders/7": "!", "/orders/7%2F%2Fx": refused, "/bulk%2F?id=7": refused,

		// Letters, the last slash, bad escapes.
		"/Orders/7": refused, "/%4Frders/7": refused, "/%6frders/7": "order:7", "/ORDERS": none, "/ord%rs/7": refused, "/%u006frders/7": refused,
		"/bulk/?id=7": "order:7", "/bulk?id=7": refused, "/BULK/?id=7": refused, "/bulk//?id=7": refused, "/bulk/x?id=7": none, "/x/../bulk/?id=7": refused,
	} {
		request := sent{target: target}
		c, err := read(p, request.String())
		if err != nil {
			if want != "!" {
				t.Errorf("%s: %v", target, err)
			}
			continue
		}
		v := c.decide()
		if have := v.key; have != want && "!"+v.slug != want {
			t.Errorf("%s: got %q %s (%s), want %q", target, have, v.slug, v.detail, want)
		}
	}
}

// Mutants: sharesLanes without Normalize; orders without Observe; shared and
// exclusive not compared.
func TestWhenAnotherRouteIsAnotherLane(t *testing.T) {
	key := []Source{{Path: "id"}, {All: []Source{{Path: "id"}, {Header: "T"}}}}
	for _, test := range []struct {
		name   string
		change func(first, second *Route)
		want   string
	}{
		{"equal", func(a, b *Route) {}, "order:7"},
		{"space", func(a, b *Route) { b.Key.Space = "account" }, "!"},
		{"sources", func(a, b *Route) { b.Key.From = []Source{{Path: "id"}} }, "!"},
		{"part of a source", func(a, b *Route) { b.Key.From = []Source{{Path: "id"}, {All: []Source{{Path: "id"}, {Header: "U"}}}} }, "!"},
		{"wildcard", func(a, b *Route) { b.Match.Path = "/v2/{other}/{id}" }, "!"},
		{"normalisation", func(a, b *Route) { b.Key.Normalize = []string{"lower"} }, "!"},
		{"what happens without a key", func(a, b *Route) { b.Key.Missing = MissingClientIP }, "!"},
		{"the other bypasses", func(a, b *Route) { b.Lane.Bypass = []string{"POST"} }, "order:7"},
		{"the other observes", func(a, b *Route) { b.Lane.Mode = Observe }, "order:7"},
		{"the first bypasses", func(a, b *Route) { a.Lane.Bypass = []string{"POST"} }, "!"},
		{"the first observes", func(a, b *Route) { a.Lane.Mode = Observe }, "!"},
		{"the first shares", func(a, b *Route) { a.Lane.Shared = []string{"POST"} }, "!"},
		{"the other shares", func(a, b *Route) { b.Lane.Shared = []string{"POST"} }, "order:7"},
		{"both share", func(a, b *Route) { a.Lane.Shared, b.Lane.Shared = []string{"POST"}, []string{"POST"} }, "order:7"},
		{"the other wants another method", func(a, b *Route) { b.Match.Methods, b.Key.Space = []string{"PUT"}, "account" }, "order:7"},
	} {
		a, b := keyed("/v1/..;/{x}/{id}/y", key...), keyed("/{x}/{id}/y", key...)
		a.Match.Path, b.Match.Path = "/v1;x/{id}/{y}", "/v1/{id}/{y}"
		if test.name == "wildcard" {
			a.Match.Path = "/v2;x/{id}/{y}"
		}
		test.change(&a, &b)
		target := strings.NewReplacer("{id}", "7", "{y}", "8").Replace(a.Match.Path)
		v := judge(t, a, b).ask(t, sent{target: target, header: []string{"T: t", "U: u"}})
		if got := v.key; got != test.want && !(test.want == "!" && v.slug == "malformed-request") {
			t.Errorf("%s: got %+v, want %s", test.name, v, test.want)
		}
	}
}

// Mutant: samePathValues that does not look into parts.
func TestAPartOfAKeyHasSpellingsToo(t *testing.T) {
	p := judge(t, keyed("/orders/{id}/{$}", Source{All: []Source{{Path: "id"}, {Header: "Tenant"}}}))
	for target, want := range map[string]string{"/orders/7/": "order:7/t", "/orders/7;v=1/": ""} {
		if v := p.ask(t, sent{target: target, header: []string{"Tenant: t"}}); v.key != want {
			t.Errorf("%s: %+v", target, v)
		}
	}
}

// Mutant: no bound.
func TestManyReadingsAreBounded(t *testing.T) {
	const confusing = `//%2Fb//\;\..b/b/;/..;/%2F//`
	ordered, watched := keyed("/orders/{id}", Source{Path: "id"}), keyed("/orders/{id}", Source{Path: "id"})
	watched.Lane.Mode = Observe
	if v := judge(t, ordered, open("/")).ask(t, sent{target: confusing}); v.slug != "malformed-request" {
		t.Errorf("%+v", v)
	}
	if v := judge(t, watched, open("/")).ask(t, sent{target: confusing}); v.slug != "" {
		t.Errorf("a proxy that only watches refuses it: %+v", v)
	}
}

// FuzzReadings spells an accepted path in the ways of other servers, written here
// by other means than the proxy's own. No spelling may be in another lane.
func FuzzReadings(f *testing.F) {
	for _, seed := range []string{
		"/orders/7", "/orders/7/items/", "/orders/7/..;/8", "/x/..%2forders/7", `/x\..\orders\7`, "/files/a//b", "/files/a%2Fb/", "/Orders/%37;v",
		"//h/orders/7", "///h/orders/7", "//a//b//h/orders/7", "/bulk", "/bulk/", "/shops/1/items/2/", "/SHOPS/1/../2/Items/3", "/orders/7/items/../../8", "/orders//7/../../8", "/%u006frders/7", "/x/%2e%2e;/files/..a", "/public/7",
	} {
		f.Add(seed)
	}
	orders, items := keyed("/orders/{id}/{rest...}", Source{Path: "id"}), keyed("/shops/{shop}/items/{id}/{$}", Source{All: []Source{{Path: "shop"}, {Path: "id"}}})
	files, bulk := keyed("/files/{rest...}", Source{Path: "rest"}, Source{Query: "id"}), keyed("/bulk/{$}", Source{Query: "id"})
	items.Name, files.Name, bulk.Name = "items", "files", "bulk"
	files.Key.Space = "file"
	p := judge(f, open("/public/"), items, orders, files, bulk, open("/"))
	f.Fuzz(func(t *testing.T, target string) {
		if len(target) > 60 || target == "" || target[0] != '/' || strings.ContainsAny(target, "?#") || strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return
		}
		ask := func(target string) verdict { return p.ask(t, sent{target: target + "?id=1"}) }
		v := ask(target)
		if v.slug == "no-route" {
			t.Fatal("there is a route for everything")
		}
		if v.slug != "" {
			if simple.MatchString(target) {
				t.Fatalf("%q is refused: %s", target, v.detail)
			}
			return
		}
		if plain([]byte(target)) {
			if others, ok := readings([]byte(target)); len(others) > 0 || !ok {
				t.Fatalf("%q is plain, but can be read as %q", target, others[0].path)
			}
		}
		for _, variant := range variants(target) {
			other := ask(variant)
			if other.laned() && other.key != v.key && !(v.laned() && v.route == other.route && onlySlashesDecoded(target, variant)) {
				t.Fatalf("%q is in lane %q of %s, but %q in %q of %s", target, v.key, v.route, variant, other.key, other.route)
			}
		}
	})
}

// onlySlashesDecoded is the documented exception: an encoded slash stays inside
// the value it stands in.
func onlySlashesDecoded(target, variant string) bool {
	essence := func(p string) string { return strings.TrimSuffix(dotEscape.ReplaceAllString(p, "."), "/") }
	return essence(slashEscape.ReplaceAllString(target, "/")) == essence(variant)
}

var (
	simple      = regexp.MustCompile(`^/(orders|files)(/[a-z0-9_~-][A-Za-z0-9._~-]*)+$`)
	slashEscape = regexp.MustCompile(`(?i)%2f|%5c`)
	parameters  = regexp.MustCompile(`;[^/]*`)
	dotEscape   = regexp.MustCompile(`(?i)%2e`)
	slashes     = regexp.MustCompile(`/+`)
	host        = regexp.MustCompile(`^//[^/]*`)
	anyHost     = regexp.MustCompile(`^//+[^/]*`)
)

// variants are the paths that up to three servers in a row make of one.
func variants(target string) []string {
	ways := []func(string) string{
		path.Clean,
		func(p string) string { return slashes.ReplaceAllString(p, "/") },
		func(p string) string { return parameters.ReplaceAllString(p, "") },
		func(p string) string { return strings.ReplaceAll(p, `\`, "/") },
		func(p string) string { return slashEscape.ReplaceAllString(p, "/") },
		func(p string) string { return path.Clean(dotEscape.ReplaceAllString(p, ".")) },
		func(p string) string { return host.ReplaceAllString(p, "") },
		func(p string) string { return anyHost.ReplaceAllString(p, "") }, // WHATWG: however many slashes
		func(p string) string { return strings.TrimSuffix(p, "/") },
		func(p string) string { return (&url.URL{Path: "/"}).ResolveReference(&url.URL{Path: p}).Path },
		func(p string) string { // routes without regard to case
			parts := strings.Split(p, "/")
			for i := range parts {
				if i == 1 || i == 3 && parts[1] == "shops" {
					parts[i] = strings.ToLower(parts[i])
				}
			}
			return strings.Join(parts, "/")
		},
	}
	all := []string{target}
	for depth, from := 0, 0; depth < 3; depth++ {
		end := len(all)
		for ; from < end; from++ {
			for _, way := range ways {
				if p := way(all[from]); strings.HasPrefix(p, "/") && !slices.Contains(all, p) {
					all = append(all, p)
				}
			}
		}
	}
	return append(all[1:], strings.TrimSuffix(target, "/")+"/")
}
