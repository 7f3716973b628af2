package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"lanekeeper/proxy/screen/screentest"
)

// edge is one of the servers that a request is tried at.
type edge struct{ name, address string }

// startEdges starts nginx, HAProxy and lanekeeper before one service, which says what it
// was asked for.
func startEdges(t *testing.T) []edge {
	t.Helper()
	nginxPath, haproxyPath := program(t, "nginx", "nginx-light"), program(t, "haproxy", "haproxy")
	service := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Asked", r.RequestURI)
		w.Header().Set("Content-Length", "0")
		w.Header().Set("Body", fmt.Sprintf("%q", body))
	})}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go service.Serve(listener) // until Close
	t.Cleanup(func() { service.Close() })

	dir, upstream := t.TempDir(), listener.Addr().String()
	configure := func(name string, pairs ...string) string {
		text, err := os.ReadFile(filepath.Join("testdata/real", name))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		replaced := strings.NewReplacer(append(pairs, "{{upstream}}", upstream)...).Replace(string(text))
		if err := os.WriteFile(path, []byte(replaced), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	behindNginx, behindHAProxy := freeAddress(t), freeAddress(t)
	start(t, exec.Command(nginxPath, "-p", dir, "-c", configure("requests.nginx.conf", "{{listen}}", behindNginx)), `start worker process \d`)
	start(t, exec.Command(haproxyPath, "-W", "-db", "-f", configure("requests.haproxy.cfg", "{{listen}}", behindHAProxy)), `Loading success`)
	lanekeeper := startLanekeeper(t, nil, "--config", configure("requests.yaml"))
	return []edge{{"nginx", behindNginx}, {"haproxy", behindHAProxy}, {"lanekeeper", lanekeeper}}
}

// tried is what became of a case at an edge.
type tried struct {
	said   string // in short
	passed bool   // something of it came to the service
	inside bool   // what must not be seen as a request was
}

// try sends a case, with a request behind it that must be answered if its connection stays.
func (e edge) try(c *screentest.Case) tried {
	conn, err := net.Dial("tcp", e.address)
	if err != nil {
		return tried{said: err.Error()}
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(3 * time.Second)) // whoever waits for more will have no more
	go io.WriteString(conn, c.Request+"GET /canary HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	method, _, _ := strings.Cut(strings.TrimSpace(c.Request), " ")
	var said []string
	result := tried{}
	reader := bufio.NewReader(conn)
	for i := 0; ; i++ {
		if i >= len(c.Want) {
			method = "GET"
		}
		response, err := http.ReadResponse(reader, &http.Request{Method: method})
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				said = append(said, "…")
			}
			break
		}
		io.Copy(io.Discard, response.Body)
		asked, text := response.Header.Get("Asked"), fmt.Sprint(response.StatusCode)
		if asked != "" && asked != "/canary" {
			result.passed = true
			text += "*"
		}
		result.inside = result.inside || strings.Contains(asked, "smuggled")
		said = append(said, text)
	}
	if said == nil {
		said = []string{"-"}
	}
	result.said = strings.Join(said, " ")
	return result
}

// TestNothingPassesThatOthersRefuse sends the table of requests to nginx, HAProxy and
// lanekeeper, and prints what each made of them: the statuses, those of the service with
// a star; … is a wait for more, and - an end without an answer.
func TestNothingPassesThatOthersRefuse(t *testing.T) {
	edges := startEdges(t)
	cases := screentest.Cases()
	results := make([][]tried, len(cases))
	var wg sync.WaitGroup
	room := make(chan struct{}, 16)
	for i := range cases {
		room <- struct{}{}
		wg.Go(func() { // ends with its connections
			defer func() { <-room }()
			for _, e := range edges {
				results[i] = append(results[i], e.try(&cases[i]))
			}
		})
	}
	wg.Wait()
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "request\t%s\t%s\t%s\n", edges[0].name, edges[1].name, edges[2].name)
	alone := 0
	for i, c := range cases {
		nginx, haproxy, ours := results[i][0], results[i][1], results[i][2]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Name, nginx.said, haproxy.said, ours.said)
		if ours.passed && !nginx.passed && !haproxy.passed {
			t.Errorf("%s: only lanekeeper passes it: %s", c.Name, ours.said)
		}
		if ours.inside {
			t.Errorf("%s: what it hides was taken for a request", c.Name)
		}
		if !ours.passed && (nginx.passed || haproxy.passed) {
			alone++
		}
	}
	w.Flush()
	t.Logf("%d requests, of which lanekeeper refuses %d that another takes\n%s", len(cases), alone, table.String())
}
