package main

import (
	"bytes"
	"errors"
	"log/slog"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// TestLimitMemory: nine tenths of what the container may use, unless somebody has said
// otherwise or there is no limit. Mutants: all of it; no container is a warning.
func TestLimitMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	for _, test := range []struct {
		name      string
		container memlimit.Provider
		set       string
		want      int64
		said      string
	}{
		{"no container", func() (uint64, error) { return 0, memlimit.ErrNoCgroup }, "", before, ""},
		{"no limit", func() (uint64, error) { return 0, memlimit.ErrNoLimit }, "", before, ""},
		{"an unreadable one", func() (uint64, error) { return 0, errors.New("io") }, "", before, "level=WARN"},
		{"set by hand", memlimit.Limit(1000 << 20), "2GiB", before, ""},
		{"a limit", memlimit.Limit(1000 << 20), "", 900 << 20, "bytes=943718400"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.set != "" {
				t.Setenv("GOMEMLIMIT", test.set)
			}
			var out bytes.Buffer
			limitMemory(test.container, slog.New(slog.NewTextHandler(&out, nil)))
			if have := debug.SetMemoryLimit(-1); have != test.want || !strings.Contains(out.String(), test.said) || test.said == "" && out.Len() > 0 {
				t.Errorf("%d, want %d: %s", have, test.want, out.String())
			}
		})
	}
}
