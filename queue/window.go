package queue

import "time"

// windowSlots whole slots and the one that has just begun are a window: so it
// reaches back between 8 and 9 eighths of the length it was asked for.
const windowSlots = 8

// window is what a lane did lately: for how long it had a turn, and how many
// requests it took. Slots forget the past a piece at a time; a mean that fades
// would never quite forget, and a log would grow with the rate.
type window struct {
	began   time.Duration // nothing is known from before
	slot    time.Duration // the length of each; a slot begins at each multiple of it
	at      time.Duration // known up to here
	running bool          // and since then there has been a turn
	slots   [windowSlots + 1]slot
}

type slot struct {
	busy     time.Duration // of it
	admitted int
}

func newWindow(now, length time.Duration) window {
	// Shorter slots than a millisecond would be noise, and none divides by zero.
	return window{began: now, at: now, slot: max(length/windowSlots, time.Millisecond)}
}

// pass brings the window up to now.
func (w *window) pass(now time.Duration) {
	if oldest := w.oldest(now); w.at < oldest { // nothing that is in it is left
		w.slots = [windowSlots + 1]slot{}
		w.at = oldest
	}
	for w.at < now {
		next := w.at - w.at%w.slot + w.slot
		until := min(next, now)
		if w.running {
			w.current().busy += until - w.at
		}
		if w.at = until; until == next {
			*w.current() = slot{} // it was another one, nine slots ago
		}
	}
}

// admit counts requests.
func (w *window) admit(n int) { w.current().admitted += n }

func (w *window) current() *slot { return &w.slots[w.at/w.slot%(windowSlots+1)] }

// oldest is the beginning of the first slot of a window that ends now.
func (w *window) oldest(now time.Duration) time.Duration { return (now/w.slot - windowSlots) * w.slot }

// length is how much of the window is known.
func (w *window) length() time.Duration { return w.at - max(w.began, w.oldest(w.at)) }

// busy is the fraction of the window in which there was a turn.
func (w *window) busy() float64 {
	if w.length() == 0 { // of this moment alone
		if w.running {
			return 1
		}
		return 0
	}
	var busy time.Duration
	for i := range w.slots {
		busy += w.slots[i].busy
	}
	return float64(busy) / float64(w.length())
}

// rate is the requests taken per second. One slot is the least to divide by:
// the first request of a window does not make it infinite.
func (w *window) rate() float64 {
	admitted := 0
	for i := range w.slots {
		admitted += w.slots[i].admitted
	}
	return float64(admitted) / max(w.length(), w.slot).Seconds()
}
