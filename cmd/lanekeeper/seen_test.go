//go:build linux

package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"lanekeeper/admin"
	"lanekeeper/loadtest"
	"lanekeeper/lock/locktest"
)

// What the person on call sees: real nodes are brought into a situation, and the commands that he
// would type are run. What they print has to name the cause, and it is what the guide shows.

var seenWrite = flag.Bool("seen.write", false, "have TestSeen write the guide's page anew")

// sight is one situation: a section of the page.
type sight struct {
	t     *testing.T
	title string
	text  strings.Builder
	c     *testCluster
	names []string // pairs: what this run is made of, and what the page calls it

	// exec runs a command at a node; nil: in this process, by the address of its admin API.
	exec func(node int, args []string) (code int, out string)
}

func newSight(t *testing.T, title, about string, c *testCluster, names ...string) *sight {
	s := &sight{t: t, title: title, c: c, names: names}
	for i, file := range c.files {
		s.names = append(s.names, addressesOf(t, file, i)...)
	}
	s.names = append(s.names, c.dir, "/etc/lanekeeper")
	fmt.Fprintf(&s.text, "## %s\n\n%s\n", title, about)
	return s
}

// addressesOf pairs the ports of a node's configuration with those of a machine of its own.
func addressesOf(t *testing.T, file string, i int) (pairs []string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for section, port := range map[string]string{"server": "7940", "observe": "7941", "admin": "7942", "gossip": "7943", "peer": "7944"} {
		if m := regexp.MustCompile(`(?m)^ *` + section + `: \{listen: "([^"]*)"`).FindSubmatch(text); m != nil {
			pairs = append(pairs, string(m[1]), fmt.Sprintf("10.1.4.%d:%s", i+1, port))
		}
	}
	return pairs
}

// says runs a command at a node, and adds it to the page. What it prints has to contain all wants.
// keep are the parts of lines that the page is to have; none: all of them.
func (s *sight) says(note string, node, code int, wants []string, args []string, keep ...string) {
	s.t.Helper()
	run := s.exec
	if run == nil {
		run = s.ask
	}
	got, out := run(node, args)
	line := "lanekeeper " + strings.Join(quoted(args), " ")
	if got != code {
		s.t.Errorf("%s: exit code %d, want %d\n%s", line, got, code, out)
	}
	for _, want := range wants {
		if !strings.Contains(out, want) {
			s.t.Errorf("%s: want %q in\n%s", line, want, out)
		}
	}
	if len(keep) > 0 {
		out, line = kept(out, keep), line+" | grep -E '"+strings.Join(keep, "|")+"'"
	}
	prompt := fmt.Sprintf("n%d$ %s\n%s", node+1, line, out)
	if code != 0 && len(keep) == 0 {
		prompt += fmt.Sprintf("n%d$ echo $?\n%d\n", node+1, code)
	}
	s.add(note, prompt)
}

func quoted(args []string) (all []string) {
	for _, a := range args {
		if strings.ContainsAny(a, " '") {
			a = "'" + a + "'"
		}
		all = append(all, a)
	}
	return all
}

func kept(out string, keep []string) string {
	var some strings.Builder
	for line := range strings.Lines(out) {
		for _, part := range keep {
			if strings.Contains(line, part) {
				some.WriteString(line)
				break
			}
		}
	}
	return some.String()
}

// ask runs a command in this process.
func (s *sight) ask(node int, args []string) (int, string) {
	code, out, errs := runArgs(s.t, append(args[:len(args):len(args)], "--admin", s.c.admins[node])...)
	return code, out + errs
}

// inheritedBy is a key of which locate says all that.
func (s *sight) inheritedBy(node int, wants ...string) string {
	s.t.Helper()
	for k := range 100 {
		_, out := s.exec(node, []string{"locate", fmt.Sprint("order/", k)})
		all := true
		for _, want := range wants {
			all = all && strings.Contains(out, want)
		}
		if all {
			return fmt.Sprint(k)
		}
	}
	s.t.Fatalf("no key has %q", wants)
	return ""
}

// untilAny runs commands in turn until one prints that.
func (s *sight) untilAny(want string, node int, commands ...[]string) {
	s.t.Helper()
	out := ""
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		for _, args := range commands {
			if _, out = s.exec(node, args); strings.Contains(out, want) {
				return
			}
		}
	}
	s.t.Fatalf("none of %q says %q; at last\n%s", commands, want, out)
}

// until runs a command until what it prints contains all of that, off the page.
func (s *sight) until(node int, args []string, wants ...string) {
	s.t.Helper()
	run := s.exec
	if run == nil {
		run = s.ask
	}
	out := ""
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		all := true
		_, out = run(node, args)
		for _, want := range wants {
			all = all && strings.Contains(out, want)
		}
		if all {
			return
		}
	}
	s.t.Fatalf("%q never says %q; at last\n%s", args, wants, out)
}

// answers adds what a client is told.
func (s *sight) answers(note string, node int, path, answer string, wants ...string) {
	s.t.Helper()
	for _, want := range wants {
		if !strings.Contains(answer, want) {
			s.t.Errorf("the client is told %s, without %q", answer, want)
		}
	}
	s.add(note, fmt.Sprintf("client$ curl -sS -X POST -w ' %%{http_code}' http://n%d:7940%s\n%s", node+1, path, lastly(answer)))
}

// lastly has the status, which post puts in front, where curl puts it.
func lastly(answer string) string {
	status, body, _ := strings.Cut(answer, " ")
	return strings.TrimSpace(body) + " " + status + "\n"
}

// why asks for what is waited for, as data.
func (s *sight) why(node int, space, key string) admin.Why {
	s.t.Helper()
	var why admin.Why
	s.c.get(node, "/api/v1/why/"+space+"/"+key, &why)
	return why
}

// add adds a step to the page.
func (s *sight) add(note, block string) {
	for i := 0; i+1 < len(s.names); i += 2 {
		block = strings.ReplaceAll(block, s.names[i], s.names[i+1])
	}
	fmt.Fprintf(&s.text, "\n%s\n\n```text\n%s```\n", note, folded(aligned(block)))
}

// TestSeen shows what the person on call sees in each situation, and that it names the cause.
func TestSeen(t *testing.T) {
	unhurried(t)
	all := &sights{text: make(map[string]string)}
	titles := make([]string, len(situations))
	see := func(t *testing.T, i int) {
		t.Run(situations[i].name, func(t *testing.T) {
			s := situations[i].see(t)
			titles[i] = s.title
			all.hold(s)
		})
	}
	t.Run("seen", func(t *testing.T) {
		t.Run("at_once", func(t *testing.T) {
			t.Parallel()
			for i := range situations {
				if !situations[i].waits {
					see(t, i)
				}
			}
		})
		for i := range situations {
			if situations[i].waits {
				t.Run("later", func(t *testing.T) { t.Parallel(); see(t, i) })
			}
		}
	})
	if !*seenWrite {
		if page, err := os.ReadFile(seenPage); err != nil || !strings.HasPrefix(string(page), seenHead) || strings.Count(string(page), "\n## ") != len(situations) {
			t.Errorf("the page does not begin as the test has it, or has other sections: %v", err)
		}
		return
	}
	var page strings.Builder
	page.WriteString(seenHead)
	for _, title := range titles {
		if title == "" || t.Failed() {
			t.Fatal("not all situations were seen: the page stays as it is")
		}
		page.WriteString("\n" + all.text[title])
	}
	if err := os.WriteFile(seenPage, []byte(page.String()), 0o644); err != nil { //nolint:gosec // everybody may read it
		t.Fatal(err)
	}
}

// TestWhyIsQuoted: what the guide has why say, the program says, in these words.
//
// Mutants: a sentence of node_why.go, or a quotation, in other words.
func TestWhyIsQuoted(t *testing.T) {
	var program strings.Builder
	for _, file := range []string{"node_why.go", "../../admin/why.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		program.Write(text)
	}
	page, err := os.ReadFile("../../configs/guide/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	quotations := regexp.MustCompile("(?m)^\\| `([^`]*)` \\|").FindAllStringSubmatch(sectionOf(string(page), "Requests of one key hang"), -1)
	if len(quotations) < 10 {
		t.Errorf("there are %d quotations: are they still written so?", len(quotations))
	}
	for _, q := range quotations {
		if !strings.Contains(program.String(), q[1]) {
			t.Errorf("nothing in the program says %q", q[1])
		}
	}
}

// situations are in the order of the page. Those that mostly wait run beside each other.
var situations = []struct {
	name  string
	waits bool
	see   func(t *testing.T) *sight
}{
	{"stuck", false, seeStuck},
	{"held", false, seeHeld},
	{"split", true, seeSplit},
	{"config", false, seeConfig},
	{"coordinator", true, seeCoordinator},
	{"moving", false, seeMoving},
	{"lease", true, seeLease},
}

// edit changes a node's file.
func (c *testCluster) edit(i int, from, to string) {
	c.t.Helper()
	text, err := os.ReadFile(c.files[i])
	if err != nil {
		c.t.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		c.t.Fatalf("%s has no %q", c.files[i], from)
	}
	writeFile(c.t, c.files[i], strings.Replace(string(text), from, to, 1))
}

// queued waits until that many requests of route order wait at a node.
func (c *testCluster) queued(i int, n float64) {
	c.t.Helper()
	c.await("requests to wait", func() bool { return c.metric(i, `lanekeeper_queued_requests{route="order"}`) == n })
}

const (
	seenService = "http://10.1.5.1:9000"
	seenStore   = "10.1.6.1:6379"
)

func startSeen(t *testing.T) (*testCluster, *blocking) {
	t.Helper()
	service := newBlocking(t)
	return startMembers(t, 3, service.URL, ""), service
}

// A service that does not answer: the head is at it, for so long, and who waits is counted.
//
// Mutants: the head's reason names no upstream; of the nodes' answers the first is taken.
func seeStuck(t *testing.T) *sight {
	c, service := startSeen(t)
	s := newSight(t, "The service does not answer", "Requests of one key hang, others go on: `app` has taken a request of `order/0`, and does nothing.", c, service.URL, seenService)
	defer service.open()
	path := "/orders/0/pay"
	for n := range 3 {
		post(c.targets[1]+path, "x")
		c.await("the request to take its place", func() bool { return s.why(0, "order", "0").Waiting == n && s.why(0, "order", "0").Head != nil })
	}
	c.await("the service to be slow", func() bool { return s.why(0, "order", "0").Head.Seconds > 2 })
	s.says("All nodes are well; one has requests that wait, and `OLDEST` grows.", 2, exitOK, []string{"n1    ready"}, []string{"status"})
	s.says("Which key: the one with a request that is `ok`, and for long. `FOR` is how long its head has run.", 2, exitOK, []string{"order/0", "1 lane, 0 stopped"}, []string{"lanes", "list"})
	s.says("Why: its service. Look there, not here.", 2, exitOK, []string{"has been at its upstream app for ", "it is given up ", "See what app does with it."}, []string{"why", "order/0"})
	if why := s.why(2, "order", "0"); len(why.Reasons) != 1 || why.Reasons[0].Code != admin.WhyUpstream {
		t.Errorf("why: %+v", why.Reasons)
	}
	s.says("Who waits behind it, and where each came in. One that waits can be taken out by its ticket.", 2, exitOK, []string{"running", "waiting", "n2"}, []string{"lanes", "show", "order/0"})
	return s
}

// A lane that is held: after an upstream timeout, and by an operator.
//
// Mutants: an operator's hold is no reason; a hold says nothing of its end.
func seeHeld(t *testing.T) *sight {
	c, service := startSeen(t)
	for i := range c.nodes {
		c.edit(i, "guarantee: best_effort}", "guarantee: best_effort, upstream_timeout: 500ms, hold_for: 1m}")
		c.cli(t, exitOK, "in force", "reload", "--admin", c.admins[i])
	}
	s := newSight(t, "A lane is held", "The service did not answer in `upstream_timeout`. The client has its 504; the lane waits, for the service may still be at work. Nothing else of the key runs until the service's work is known to be over, `hold_for` has passed, or you say so.", c, service.URL, seenService)
	defer service.open()
	path := "/orders/0/pay"
	s.answers("What the client is told: nobody knows whether it ran.", 1, path, <-post(c.targets[1]+path, "x"), "504", "upstream-timeout", `"executed":"unknown"`)
	post(c.targets[1]+path, "y")
	c.queued(0, 1)
	s.says("Why the next one waits, for how long yet, and what ends it.", 2, exitOK,
		[]string{"Its lane is held; 1 request waits.", "its upstream app may still be at work on it", "It goes on by itself in ", "lanekeeper lanes release 'order/0'"}, []string{"why", "order/0"})
	s.says("Which requests somebody has to look after: the ticket is what the service saw as `Lanekeeper-Ticket`.", 2, exitOK, []string{"order/0", "upstream-timeout"}, []string{"unknown"})
	s.ask(2, []string{"lanes", "hold", "order/9", "--reason", "restoring"})
	s.says("All lanes in which nothing begins, and whose doing that is. `order/9` is held by an operator, who said why: such a hold has no end of its own.", 2, exitOK,
		[]string{"left", "held, by an operator", "restoring", "2 lanes, 2 stopped"}, []string{"lanes", "list", "--stopped"})
	s.says("The same of one key.", 2, exitOK, []string{"An operator holds the lane for ", "restoring", "It is ended by lanekeeper lanes release 'order/9' alone."}, []string{"why", "order/9"})
	s.says("If you know that the service has stopped: the lane goes on, and you are told what you risk.", 2, exitOK, []string{"released at n1", "the order is at risk"}, []string{"lanes", "release", "order/0"})
	return s
}

// A split: one node of three hears nothing of the others, which hear nothing of it.
//
// Mutants: Ready does not look at Enough; a claim says nothing of who is silent; who is taken for dead is not said.
func seeSplit(t *testing.T) *sight {
	n := newNetwork(t, 3)
	c := startInNetwork(t, n, loadtest.WitnessConfig{}, "  min_members: 2\n")
	s := newSight(t, "The cluster is split", "`n3` has lost its network to the others, and clients still reach it. `cluster.min_members` is 2.", c, "10.77.0.254:7950", "10.1.5.1:9000", "10.77.0.", "10.1.4.")
	s.exec = func(node int, args []string) (int, string) {
		command := exec.Command("ip", append([]string{"netns", "exec", n.hosts[node], os.Args[0]}, args...)...)
		command.Env = append(os.Environ(), runVariable+"=1")
		var out, errs bytes.Buffer
		command.Stdout, command.Stderr = &out, &errs
		if err := command.Run(); err != nil && command.ProcessState == nil {
			t.Fatal(err)
		}
		return command.ProcessState.ExitCode(), out.String() + errs.String()
	}
	next := s.inheritedBy(2, "owner      n2 ", "(next: n3,")
	for _, other := range []int{0, 1} {
		n.ip(n.hosts[2], "route add unreachable "+n.address(other)+"/32")
		n.ip(n.hosts[other], "route add unreachable "+n.address(2)+"/32")
	}
	s.until(2, []string{"why", "order/0"}, "does not answer n3: dial tcp", "What n2 knows of it is missing here: dial tcp")
	s.says("In the first seconds the nodes miss each other, and do not take each other for dead. The key's owner does not answer, and nothing is known of the key: that is not the same as nothing to do.", 2, exitOK,
		[]string{"What of it waits or runs there is not known.", "n1, which has the key, does not answer n3", "See whether n1 runs, and whether it can be reached."}, []string{"why", "order/0"})
	// Each of the two is taken for dead after a second or more beside the other: meanwhile n3 asks for the
	// keys of the one, and waits for the word of the other.
	s.untilAny("n3 takes the partition over, and has not heard from n", 2, []string{"why", "order/0"}, []string{"why", "order/" + next})
	c.nodes[2].says("too few members are alive")
	s.until(0, []string{"status"}, "take n3 for dead")
	s.says("On the side of two: they go on with all keys, and say whom they miss.", 0, exitOK, []string{"n1    ready", "n3    dead", "! n1, n2 take n3 for dead"}, []string{"status"})
	s.says("On the side of one: not ready, and why. It runs nothing, so nothing runs twice.", 2, exitOK,
		[]string{"n3    not ready", "! n3 is not ready: cluster: it sees 1 of at least 2 members (cluster.min_members), and takes n1, n2 for dead"}, []string{"status"})
	s.says("The same from `members`, with addresses: `dead` there and `alive` on the other side is a split.", 2, exitOK,
		[]string{"n1    dead", "n2    dead", "1 of at least 2 members (cluster.min_members): n3 is not ready and runs nothing exclusive"}, []string{"members"})
	s.says("And of a key. What to do: let the nodes reach each other, and send no clients to `n3` meanwhile, which its `/readyz` tells load balancers.", 2, exitOK,
		[]string{"n3 takes no part: it sees 1 of at least 2 members", "whether the nodes reach each other by cluster.gossip and cluster.peer"}, []string{"why", "order/0"})
	client := n.client(20 * time.Second)
	response, err := client.Post(c.targets[2]+"/orders/0/pay", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	response.Body.Close()
	s.answers("What a client is told there: it did not run, and may be sent again.", 2, "/orders/0/pay", fmt.Sprint(response.StatusCode, " ", string(body)), "503", "not-ready", "cluster.min_members", `"executed":"no"`)
	s.says("When it began.", 2, exitOK, []string{"members-too-few"}, []string{"events"}, "member-died", "members-too-few")
	return s
}

// A wrong file: before a node has it, at its start, and when it is reloaded; and one that only differs.
//
// Mutants: status says nothing of a reload that failed; members say nothing of another config.
func seeConfig(t *testing.T) *sight {
	c, service := startSeen(t)
	s := newSight(t, "A configuration is wrong", "Somebody has written `max_dept` into the file of `n2`.", c, service.URL, seenService)
	c.edit(1, "max_depth", "max_dept")
	const wrong = `error: defaults.lane.max_dept: unknown field (did you mean "max_depth"?)`
	const least = "  min_members: 2\n  join_timeout"
	c.edit(1, "  join_timeout", least)
	s.exec = func(_ int, args []string) (int, string) {
		code, out, errs := runArgs(t, args...)
		return code, out + errs
	}
	s.says("Before anything runs: the place, and what was probably meant.", 1, exitConfig, []string{"n2.yaml:16:19: " + wrong, "1 error, 0 warnings"}, []string{"validate", c.files[1]})
	s.says("A node that is started with it ends at once, with the same words.", 1, exitConfig, []string{wrong}, []string{"serve", "--config", c.files[1]})
	s.exec = nil
	c.edit(1, least, "  join_timeout") // which a node that runs does not change
	s.says("A node that runs refuses it, and goes on as it was.", 1, exitConfig, []string{wrong, "the configuration stays as it was"}, []string{"reload"})
	s.says("It says so until a reload succeeds, to whoever asks any node.", 0, exitOK, []string{"! n2 did not reload its configuration", wrong}, []string{"status"})
	c.edit(1, "max_dept", "max_depth")
	c.edit(1, "key: {space: order, from: [{path: id}]}", "key: {space: order, from: [{header: X-Order}]}")
	s.ask(1, []string{"reload"})
	s.until(0, []string{"members"}, "✗")
	s.says("A file that is right, and another one than the others have: here the key comes from elsewhere. Give all nodes the same.", 0, exitOK,
		[]string{"✗", "! n2 runs another config than n1: the same request may get another key there"}, []string{"members"})
	return s
}

// The store of strict routes is gone.
//
// Mutants: a lane without requests counts as not strict; a lease that is lost has no cause; status does not name
// the store; the client is told how the program is built.
func seeCoordinator(t *testing.T) *sight {
	store := locktest.Redis(t)
	service := newBlocking(t)
	service.open()
	c := startMembers(t, 3, service.URL, seenStrict("3s", store))
	s := newSight(t, "The coordinator is lost", "Strict routes rest on Redis, which has stopped. Routes of best effort go on.", c, service.URL, seenService, store.Address, seenStore)
	store.Kill()
	for i := range c.nodes {
		s.until(0, []string{"status"}, fmt.Sprintf("n%d has no lease", i+1))
	}
	s.says("No node has a lease, and which store it is that gives none.", 1, exitOK,
		[]string{"n1    not ready", "! n1 has no lease from the coordinator, and refuses strict requests: redis at " + store.Address}, []string{"status"})
	s.says("Of a key of a strict route: nothing waits, for what comes is refused at once.", 1, exitOK,
		[]string{"n1 has no valid lease from the coordinator, redis at " + store.Address, "See whether that store runs, and n1 reaches it.", "503 no-owner"}, []string{"why", "order/0"})
	if why := s.why(1, "order", "0"); len(why.Reasons) != 1 || why.Reasons[0].Code != admin.WhyLease || why.Reasons[0].Node != "n1" {
		t.Errorf("why: %+v", why.Reasons)
	}
	s.says("Of a key of a route of best effort: it goes on.", 1, exitNegative, []string{"Nothing stops it"}, []string{"why", "plain/0"})
	s.answers("What a client of a strict route is told.", 1, "/orders/0/pay", <-post(c.targets[1]+"/orders/0/pay", "x"), "503", "no-owner", "no valid lease from the coordinator", `"executed":"no"`)
	s.until(1, []string{"events", "--node", "n2"}, "coordinator-away")
	s.says("When it began, of one node.", 1, exitOK, []string{"coordinator-away", "strict requests are refused"}, []string{"events", "--node", "n2"}, "coordinator-away")
	return s
}

// seenStrict is the section of a cluster that rests on a store, which was never another one: nobody has to wait
// for leases that it may have forgotten.
func seenStrict(ttl string, store *locktest.Server) string {
	return fmt.Sprintf("coordinator: {type: redis, lease_ttl: %s, safety_margin: 900ms, acquire_timeout: 1s, redis: {addresses: [%q], grace: false}}\n", ttl, store.Address)
}

// A node of a strict cluster is dead, and the others wait for its lease.
//
// Mutants: a claim is no reason; a lease that is waited for is none.
func seeLease(t *testing.T) *sight {
	store := locktest.Redis(t)
	service := newBlocking(t)
	service.open()
	c := startMembers(t, 3, service.URL, seenStrict("15s", store))
	s := newSight(t, "A node has died, and its lease goes on", "Strict routes: `n1` has died. For `coordinator.lease_ttl` nobody can know that it runs nothing.", c, service.URL, seenService, store.Address, seenStore)
	c.kill(0)
	s.until(1, []string{"why", "order/0"}, "connection refused")
	s.says("Until the others take it for dead, which is some seconds: nobody else knows its lanes.", 1, exitOK,
		[]string{"n1, which has the key, does not answer n2", "connection refused", "See whether n1 runs"}, []string{"why", "order/0"})
	s.until(1, []string{"status"}, "n2, n3 take n1 for dead")
	s.until(1, []string{"why", "order/0"}, "another node's lease")
	s.says("Then somebody takes its keys, and waits for the end of its lease.", 1, exitOK,
		[]string{"n3 takes the partition over.", "n3 waits for the end of another node's lease, ", "It ends by itself, coordinator.lease_ttl after its node was last heard of."}, []string{"why", "order/0"})
	codes := codesOf(s.why(1, "order", "0"))
	if codes != "claim lease" {
		t.Errorf("why: %s", codes)
	}
	s.says("Who is missing.", 1, exitOK, []string{"n1    dead", "! n2, n3 take n1 for dead"}, []string{"status"})
	s.until(2, []string{"events", "--node", "n3"}, "member-died", "lease-awaited")
	s.says("Since when, and for which lease; the other event says that it is over.", 2, exitOK, []string{"lease-awaited"}, []string{"events", "--node", "n3"}, "member-died", "lease-awaited")
	return s
}

// codesOf are the codes of all reasons.
func codesOf(why admin.Why) string {
	var codes []string
	for _, r := range why.Reasons {
		codes = append(codes, r.Code)
	}
	return strings.Join(codes, " ")
}

// Keys that change hands: what is waited for, and that it ends by itself.
//
// Mutants: a predecessor is not named; that the owner is silent is no reason.
func seeMoving(t *testing.T) *sight {
	c, service := startSeen(t)
	s := newSight(t, "A key changes hands", "`n1` drains while it runs a request of `order/0`; later it stands still.", c, service.URL, seenService)
	path := "/orders/0/pay"
	post(c.targets[1]+path, "x")
	c.await("the request to run", func() bool { return s.why(0, "order", "0").Head != nil })
	s.ask(0, []string{"drain"})
	s.until(2, []string{"why", "order/0"}, "A former owner may still run", "n1 was the owner before")
	s.says("The new owner waits for what the old one still runs; what that in turn waits for is the last line.", 2, exitOK,
		[]string{"which is n3's", "Its lane is blocked", "A former owner may still run a request of the key: n1.", "It goes on when that has ended", "at its upstream app"}, []string{"why", "order/0"})
	if codes := codesOf(s.why(2, "order", "0")); codes != "predecessor predecessor upstream" {
		t.Errorf("why: %s", codes)
	}
	service.open()
	s.ask(0, []string{"undrain"})
	s.until(2, []string{"why", "order/0"}, "which is n1's", "Nothing stops it")
	c.nodes[0].signal(syscall.SIGSTOP)
	s.until(2, []string{"why", "order/0"}, "does not answer n3")
	s.says("A node that stands still: nobody else knows its lanes.", 2, exitOK,
		[]string{"What of it waits or runs there is not known.", "n1, which has the key, does not answer n3", "Its keys go to others when those take it for dead"}, []string{"why", "order/0"})
	if codes := codesOf(s.why(2, "order", "0")); codes != "silent" {
		t.Errorf("why: %s", codes)
	}
	c.nodes[0].signal(syscall.SIGCONT)
	return s
}
