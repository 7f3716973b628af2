package main

import (
	"os"
	"testing"
)

// runVariable makes the test binary be lanekeeper: tests that need a process
// run themselves again with it.
const runVariable = "LANEKEEPER_TEST_RUN"

func TestMain(m *testing.M) {
	if os.Getenv(runVariable) != "" {
		os.Unsetenv(runVariable)
		os.Exit(run(os.Args[1:]))
	}
	os.Exit(m.Run())
}
