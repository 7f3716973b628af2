package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// witnessRun runs "witness" with args and returns what it printed and its exit
// code.
func witnessRun(t *testing.T, ctx context.Context, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errors bytes.Buffer
	command := witnessCommand()
	command.SilenceErrors, command.SilenceUsage = true, true
	command.SetArgs(args)
	command.SetIn(strings.NewReader(stdin))
	command.SetOut(&out)
	command.SetErr(&errors)
	code = witnessExit(command.ExecuteContext(ctx))
	return out.String(), errors.String(), code
}

func witnessExit(err error) int {
	exit := (*exitError)(nil)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &exit):
		return exit.code
	}
	return exitUsage
}

// A witness is started, used, checked and stopped by a signal, as a person does.
// Mutants killed: exit 0 for a history that proves nothing; SIGTERM not listened to.
func TestWitnessFromStartToVerdict(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	command := witnessCommand()
	command.SetArgs([]string{"--listen", "127.0.0.1:0", "--delay", "0s", "--name", "w1"})
	reader, writer := io.Pipe()
	command.SetErr(writer)
	done := make(chan error, 1)
	go func() { // ends by the signal below
		done <- command.ExecuteContext(t.Context())
		writer.Close()
	}()
	lines := bufio.NewScanner(reader)
	var printed []string
	for len(printed) < 3 && lines.Scan() {
		printed = append(printed, lines.Text())
	}
	address := regexp.MustCompile(`http://[0-9.:]+`).FindString(strings.Join(printed, "\n"))
	if len(printed) < 3 || !strings.Contains(printed[1], address+"/.witness/history") || !strings.Contains(printed[2], "witness check "+address) {
		t.Fatalf("printed %q", printed)
	}

	post := func(path, key string) {
		request, _ := http.NewRequest(http.MethodPost, address+path, nil)
		request.Header.Set("Witness-Key", key)
		request.Close = true
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, response.Status)
		}
	}
	post("/", "order:7")
	if stdout, _, code := witnessRun(t, t.Context(), "", "check", address); code != exitNegative || !strings.Contains(stdout, "NOTHING TO JUDGE") {
		t.Errorf("one execution: exit %d\n%s", code, stdout)
	}
	post("/", "order:7")
	if stdout, _, code := witnessRun(t, t.Context(), "", "check", address+"/"); code != exitOK || !strings.HasSuffix(stdout, "\nPASS\n") {
		t.Errorf("two executions: exit %d\n%s", code, stdout)
	}
	post("/.witness/reset", "")
	if stdout, _, code := witnessRun(t, t.Context(), "", "check", address+"/.witness/history"); code != exitNegative {
		t.Errorf("after reset: exit %d\n%s", code, stdout)
	}
	if _, _, code := witnessRun(t, t.Context(), "", "check", address+"/healthz"); code != exitFailure {
		t.Errorf("no history: exit %d", code)
	}

	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		printed = append(printed, lines.Text())
	}
	if err := <-done; err != nil || printed[len(printed)-1] != "witness recorded 0 executions" {
		t.Errorf("%v, printed %q", err, printed)
	}
}

// Mutants killed: exit 0 on a broken order, and on a cut history.
func TestWitnessCheckExitCodes(t *testing.T) {
	const good = `{"key":"order:7","seq":12,"start_ns":1204000000,"end_ns":1310000000,"method":"POST"}` + "\n" +
		`{"key":"order:7","seq":13,"start_ns":1310000000,"end_ns":1400000000,"method":"POST"}` + "\n"
	bad := strings.Replace(good, `"start_ns":1310000000`, `"start_ns":1250000000`, 1)
	reads := strings.ReplaceAll(bad, "POST", "GET")
	for _, c := range []struct {
		name, text string
		args       []string
		code       int
		want       string
	}{
		{"order kept", good, nil, exitOK, "\nPASS\n"},
		{"order broken", bad, nil, exitOrder, "key order:7: seq 12 [1.204s–1.310s] overlaps seq 13 [1.250s–1.400s]"},
		{"reads", reads, nil, exitOK, "\nPASS\n"},
		{"reads that may not", reads, []string{"--shared", "HEAD"}, exitOrder, "BROKEN: overlap 1"},
		{"cut", good + `{"truncated":true,"refused":3}` + "\n", nil, exitNegative, "NOT JUDGED"},
		{"cut and broken", bad + `{"truncated":true,"refused":3}` + "\n", nil, exitOrder, "BROKEN"},
		{"empty", "", nil, exitNegative, "NOTHING TO JUDGE"},
		{"not a history", "hello\n", nil, exitFailure, ""},
		{"half a line", good[:len(good)-5], nil, exitFailure, ""},
		{"too many", good, []string{"--max-records", "1"}, exitFailure, ""},
		{"no such output", good, []string{"-o", "xml"}, exitUsage, ""},
	} {
		file := filepath.Join(t.TempDir(), "history.ndjson")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, source := range []string{file, "-"} {
			stdout, _, code := witnessRun(t, t.Context(), c.text, append([]string{"check", source}, c.args...)...)
			if code != c.code || !strings.Contains(stdout, c.want) {
				t.Errorf("%s: exit %d, want %d\n%s", c.name, code, c.code, stdout)
			}
		}
	}
}

func TestWitnessCheckJSON(t *testing.T) {
	stdout, _, code := witnessRun(t, t.Context(), `{"key":"k","start_ns":1,"end_ns":9}`+"\n"+`{"key":"k","start_ns":5,"end_ns":6}`+"\n", "check", "-o", "json", "-")
	var report struct {
		Verdict  string
		OK       *bool
		Findings []struct {
			Kind  string
			Count int
		}
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatal(err)
	}
	if code != exitOrder || report.OK == nil || *report.OK || report.Findings[0].Kind != "overlap" || report.Findings[0].Count != 1 {
		t.Errorf("exit %d\n%s", code, stdout)
	}
}

func TestWitnessUsage(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"--listen", taken.Addr().String()}, exitFailure},
		{[]string{"--delay", "-1s"}, exitUsage},
		{[]string{"--slow-share", "2"}, exitUsage},
		{[]string{"--max-records", "0"}, exitUsage},
		{[]string{"surplus"}, exitUsage},
		{[]string{"check"}, exitUsage},
		{[]string{"check", "/no/such/file"}, exitFailure},
		{[]string{"check", "http://" + taken.Addr().String() + "\x7f"}, exitFailure},
	} {
		if _, _, code := witnessRun(t, t.Context(), "", c.args...); code != c.code {
			t.Errorf("%q: exit %d, want %d", c.args, code, c.code)
		}
	}
}

// With --fenced a witness refuses what comes late.
//
// Mutant: the flag is not passed on.
func TestWitnessFenced(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	command := witnessCommand()
	command.SetArgs([]string{"--listen", "127.0.0.1:0", "--delay", "0s", "--fenced"})
	reader, writer := io.Pipe()
	command.SetErr(writer)
	done := make(chan error, 1)
	go func() { // ends with ctx
		done <- command.ExecuteContext(ctx)
		writer.Close()
	}()
	line, err := bufio.NewReader(reader).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, reader) //nolint:errcheck // ends with the command
	url := regexp.MustCompile(`http://[0-9.:]+`).FindString(line)
	for _, step := range []struct {
		fence string
		want  int
	}{{"9007199254740993", 200}, {"9007199254740992", 409}, {"9007199254740993", 200}} {
		request, err := http.NewRequest(http.MethodPost, url+"/orders/7", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Witness-Key", "order:7")
		request.Header.Set("Lanekeeper-Fence", step.fence)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != step.want {
			t.Errorf("fence %s: %d, want %d", step.fence, response.StatusCode, step.want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
