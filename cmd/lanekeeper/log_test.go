package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"
)

// The log is JSON unless a person reads it at a terminal or the format says otherwise, and
// its level can change while it is written.
//
// Mutants: auto is text; text is not; the level is the one of the beginning; a file is a terminal.
func TestLogFormatsAndLevels(t *testing.T) {
	for format, isJSON := range map[string]bool{"auto": true, "json": true, "text": false} {
		var out bytes.Buffer
		level := new(slog.LevelVar)
		level.Set((&LogConfig{Level: "warn"}).slogLevel())
		log := newLogger(&out, level, format)
		log.Info("not said")
		level.Set((&LogConfig{Level: "debug"}).slogLevel())
		log.Debug("said")
		if got := out.String(); strings.Contains(got, "not said") || !strings.Contains(got, "said") || strings.Count(got, "\n") != 1 {
			t.Errorf("%s: %q", format, got)
		}
		if json.Valid(out.Bytes()) != isJSON {
			t.Errorf("%s: %q", format, &out)
		}
	}
	file, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if isTerminal(file) {
		t.Error("a file is a terminal")
	}
}
