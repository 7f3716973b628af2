package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"lanekeeper/admin"
)

// A whole process that is told in each way to read its file again: by a signal, by the
// admin API, and by the file itself.
//
// Mutants killed: SIGHUP ends the process; --watch does nothing; the metric of success
// stays; a refusal is no event.
func TestReloadOfAProcess(t *testing.T) {
	u := newHoldingUpstream(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "lanekeeper.yaml")
	text := strings.Replace(reloadable, "http://127.0.0.1:1", u.URL, 1)
	renamed := strings.Replace(text, "name: order\n", "name: orders\n", 1)
	writeFile(t, file, text)
	p := launchWith(t, file, "--watch")
	line := p.log("serving")
	p.address, p.observe, p.admin = "http://"+line["listen"].(string), "http://"+line["observe"].(string), "http://"+line["admin"].(string)
	first := line["config"].(string)
	waitForMetric(t, p.observe, `lanekeeper_config_hash_info{hash="`+first+`"} 1`)
	waitForMetric(t, p.observe, `lanekeeper_config_last_reload_successful 1`)

	reload := func(want int, args ...string) (done admin.Reloaded, errs string) {
		t.Helper()
		code, out, errs := runArgs(t, append([]string{"reload", "--admin", p.admin, "-o", "json"}, args...)...)
		if code != want {
			t.Fatalf("exit code %d, want %d: %s", code, want, errs)
		}
		if code == exitOK {
			if err := json.Unmarshal([]byte(out), &done); err != nil {
				t.Fatal(err)
			}
		}
		return done, errs
	}

	// While a request waits behind one at the service.
	running := post(p.address+"/orders/7/a", "a")
	u.next(t)
	waiting := post(p.address+"/orders/7/b", "b")
	waitForMetric(t, p.observe, `lanekeeper_queued_requests{route="order"} 1`)

	if done, _ := reload(exitOK); len(done.Changed) > 0 || done.Config != first {
		t.Errorf("nothing has changed: %+v", done)
	}
	writeFile(t, file, renamed)
	line = p.log("the configuration is reloaded") // by watch: the file's own doing
	if line["by"] != "watch" || line["before"] != first || line["event"] != "config-reloaded" {
		t.Errorf("got %v", line)
	}
	second := line["config"].(string)
	waitForMetric(t, p.observe, `lanekeeper_config_hash_info{hash="`+second+`"} 1`)
	waitForMetric(t, p.observe, `lanekeeper_queued_requests{route="order"} 1`)

	writeFile(t, file, renamed+"    lane: {tiemout: 1s}\n")
	line = p.log("the configuration is not reloaded, and stays as it was")
	if problems, _ := line["problems"].(string); !strings.HasPrefix(problems, file+":14:12: error: routes[0].lane.tiemout: unknown field") {
		t.Errorf("got %v", line)
	}
	waitForMetric(t, p.observe, `lanekeeper_config_last_reload_successful 0`)
	if _, errs := reload(exitConfig); !strings.Contains(errs, file+":14:12: error: routes[0].lane.tiemout") {
		t.Errorf("got %q", errs)
	}

	writeFile(t, file, strings.Replace(renamed, "{path: id}", "{header: Id}", 1))
	p.log("the configuration is not reloaded, and stays as it was") // the command
	p.log("the configuration is not reloaded, and stays as it was") // watch
	if _, errs := reload(exitConfig); !strings.Contains(errs, "order: 1 lanes, 2 requests, 0 halted") {
		t.Errorf("got %q", errs)
	}
	done, errs := reload(exitOK, "--force")
	if want := []admin.SpaceUse{{Space: "order", Lanes: 1, Requests: 2}}; !slices.Equal(done.Unordered, want) || !strings.Contains(errs, "order: no order is promised across the change for the 1 lane in use") {
		t.Errorf("got %+v, %q", done, errs)
	}
	u.release <- struct{}{}
	u.next(t)
	u.release <- struct{}{}
	for i, answer := range []<-chan string{running, waiting} {
		if a := <-answer; !strings.HasPrefix(a, "200 ") {
			t.Errorf("request %d: %s", i+1, a)
		}
	}

	// While it drains, and by a signal.
	if code, _, errs := runArgs(t, "drain", "--admin", p.admin); code != exitOK {
		t.Fatal(errs)
	}
	writeFile(t, file, text)
	p.signal(syscall.SIGHUP)
	for by := ""; by != "SIGHUP"; {
		line = p.log("the configuration is reloaded")
		by, _ = line["by"].(string)
		if by == "watch" { // it was first
			writeFile(t, file, renamed)
			p.signal(syscall.SIGHUP)
		}
	}
	code, out, _ := runArgs(t, "events", "--admin", p.admin)
	if code != exitOK || !strings.Contains(out, "config-reloaded") || !strings.Contains(out, "config-refused") {
		t.Errorf("the events are\n%s", out)
	}
	p.signal(os.Interrupt)
	if code := p.wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}
