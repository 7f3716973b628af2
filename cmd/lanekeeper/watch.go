package main

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// watchQuiet is how long nothing must happen beside a file before it is read: whoever
	// writes it may not be done.
	watchQuiet = 200 * time.Millisecond
	// watchPoll is how often it is looked at anyway. Events are quicker, but not certain:
	// network file systems send none, nor do directories that a link leads to.
	watchPoll = 5 * time.Second
)

// watchedFile is a file whose changes are told.
type watchedFile struct {
	name string
	seen [sha256.Size]byte // what was in it
}

func newWatchedFile(name string) *watchedFile { return &watchedFile{name, contentOf(name)} }

// watch calls changed each time that the file holds something else than before, until
// ctx ends. It watches the directory: editors put another file in the place of the old one,
// and a volume of Kubernetes another directory in the place of a link that the file is
// under. It does not look at the files that this one names.
func (f *watchedFile) watch(ctx context.Context, log *slog.Logger, changed func()) {
	watcher, err := watchDirectory(filepath.Dir(f.name))
	if err != nil {
		log.Warn("changes of the configuration are seen late: its directory cannot be watched", "every", watchPoll.String(), "err", err)
		watcher = &fsnotify.Watcher{} // that never tells anything
	} else {
		defer watcher.Close()
	}
	quiet := time.NewTimer(watchPoll)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-watcher.Events:
			quiet.Reset(watchQuiet)
		case <-watcher.Errors: // some events are lost
			quiet.Reset(watchQuiet)
		case <-quiet.C:
			quiet.Reset(watchPoll)
			if now := contentOf(f.name); now != f.seen && now != unreadable {
				f.seen = now
				changed()
			}
		}
	}
}

func watchDirectory(directory string) (*fsnotify.Watcher, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	if err := watcher.Add(directory); err != nil {
		watcher.Close()
		return nil, err
	}
	return watcher, nil
}

// unreadable is the content of a file that cannot be read. It may be there again in a moment,
// under the same name.
var unreadable [sha256.Size]byte

func contentOf(file string) [sha256.Size]byte {
	content, err := os.ReadFile(file)
	if err != nil {
		return unreadable
	}
	return sha256.Sum256(content)
}
