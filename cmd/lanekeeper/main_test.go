package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"testing"

	"go.uber.org/goleak"
)

// runVariable makes the test binary be lanekeeper: tests that need a process
// run themselves again with it.
const runVariable = "LANEKEEPER_TEST_RUN"

// profileVariable names a directory for CPU profiles of such processes.
const profileVariable = "LANEKEEPER_TEST_PROFILE"

func profile() (stop func()) {
	dir := os.Getenv(profileVariable)
	if dir == "" {
		return func() {}
	}
	os.Unsetenv(profileVariable)
	file, err := os.CreateTemp(dir, "cpu-*.pprof")
	if err != nil {
		panic(err)
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		panic(err)
	}
	return pprof.StopCPUProfile
}

// leaks are what libraries leave for ever, or for longer than the tests.
var leaks = []goleak.Option{
	// fasthttp's date is one for the whole process, and is never stopped.
	goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
	// The cleaner of its workers sleeps once more before it sees that there are none.
	goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
}

func TestMain(m *testing.M) {
	if os.Getenv(runVariable) != "" {
		os.Unsetenv(runVariable)
		stop := profile()
		code := run(os.Args[1:])
		stop()
		os.Exit(code)
	}
	if what := os.Getenv(contenderVariable); what != "" {
		if err := serveContender(what); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if flag.Lookup("test.bench").Value.String() != "" {
		os.Exit(code) // their clients are fasthttp's, which cleans up later
	}
	if err := goleak.Find(leaks...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
