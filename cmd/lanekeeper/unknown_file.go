package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/DeRuina/timberjack"

	"lanekeeper/admin"
)

// openJournal opens what journal.file names, nil if that is nothing. Its errors are
// settings that cannot be used.
func (c *JournalConfig) openJournal() (io.WriteCloser, error) {
	switch c.File {
	case journalNone:
		return nil, nil
	case journalStdout:
		return unclosed{os.Stdout}, nil
	}
	// The library opens a file with the first line, which would be late to say that it
	// cannot be.
	file, err := os.OpenFile(c.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, journalMode)
	if err != nil {
		return nil, settingError{"journal.file", err}
	}
	if err := file.Close(); err != nil {
		return nil, settingError{"journal.file", err}
	}
	return &timberjack.Logger{
		Filename:   c.File,
		FileMode:   journalMode,
		MaxSize:    int(c.MaxSize / MiB),
		MaxBackups: c.MaxFiles - 1, // beside the present one
	}, nil
}

// The words of journal.file that are no paths.
const (
	journalNone   = "none"
	journalStdout = "stdout"
)

// journalMode is for one user alone: the lines have keys.
const journalMode = 0o600

type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

const (
	journalQueue    = 1024        // records that wait to be written; beyond: dropped
	journalComplain = time.Minute // between two complaints
)

// journalWriter writes records as lines of JSON, one goroutine's work. Whoever has a
// record never waits for it: what there is no room for, or what could not be written, is
// counted and lost.
type journalWriter struct {
	out     io.WriteCloser
	log     *slog.Logger
	dropped atomic.Uint64
	done    chan struct{} // closed when all is written

	mu    sync.Mutex // guards the rest
	ended bool
	queue chan *admin.Unknown

	said   time.Time // when a loss was last told
	unsaid uint64    // lost since, and not told yet
}

// newJournalWriter starts one. It has out from then on, until stop.
func newJournalWriter(out io.WriteCloser, log *slog.Logger) *journalWriter {
	w := &journalWriter{out: out, log: log, done: make(chan struct{}), queue: make(chan *admin.Unknown, journalQueue)}
	go w.run() // ends with stop, or when the write ends that it hangs in
	return w
}

// put has a record written, and does not wait. u is not changed from here on.
func (w *journalWriter) put(u *admin.Unknown) {
	w.mu.Lock()
	taken := false
	if !w.ended {
		select {
		case w.queue <- u:
			taken = true
		default:
		}
	}
	w.mu.Unlock()
	if !taken {
		w.drop(errQueueFull)
	}
}

var errQueueFull = errors.New("more records came than could be written")

func (w *journalWriter) run() {
	defer close(w.done)
	torn := false
	for u := range w.queue {
		line, err := json.Marshal(u)
		if err != nil {
			panic("journal: a record cannot be encoded: " + err.Error())
		}
		line = append(line, '\n')
		if torn { // half a line is in the file: it must not spoil the next one
			line = append([]byte{'\n'}, line...)
		}
		n, err := w.out.Write(line)
		if err != nil {
			torn = torn && n == 0 || n > 0
			w.drop(err)
			continue
		}
		torn = false
	}
	if err := w.out.Close(); err != nil {
		w.say(0, err)
	}
}

// drop counts a record that is lost, and says so once in a while.
func (w *journalWriter) drop(why error) {
	w.dropped.Add(1)
	w.mu.Lock()
	w.unsaid++
	records, now := w.unsaid, time.Now()
	due := w.said.IsZero() || now.Sub(w.said) >= journalComplain
	if due {
		w.said, w.unsaid = now, 0
	}
	w.mu.Unlock()
	if due { // not under the lock: the log may be slow
		w.say(records, why)
	}
}

func (w *journalWriter) say(records uint64, why error) {
	w.log.Error("requests with an unknown outcome could not be recorded", "event", "journal-lost", "records", records, "error", why)
}

// stop writes what there is, and closes the output. It gives up with ctx: the output
// hangs, and what it has not taken is lost. It may be called again.
func (w *journalWriter) stop(ctx context.Context) {
	w.mu.Lock()
	if !w.ended {
		w.ended = true
		close(w.queue)
	}
	w.mu.Unlock()
	var why error
	select {
	case <-w.done:
	case <-ctx.Done():
		why = fmt.Errorf("the output takes nothing: %w", ctx.Err())
	}
	w.mu.Lock()
	records := w.unsaid
	w.unsaid = 0
	w.mu.Unlock()
	if why != nil {
		hang := uint64(len(w.queue)) + 1
		w.dropped.Add(hang)
		records += hang
	}
	if records > 0 {
		w.say(records, cmp.Or(why, errNotWritten))
	}
}

var errNotWritten = errors.New("see the lines before")
