package loadtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// Execution is one request as the upstream saw it run, and one line of NDJSON.
type Execution struct {
	// Key groups executions that must not overlap: Witness-Key if the client
	// sent it, else Lanekeeper-Key. The client's own word comes first because it
	// is the same with and without a proxy, and because a proxy that gave one
	// key two lanes must not be able to hide it. A client that sets Witness-Key
	// to what lanekeeper calls the key ("order:7") can mix both in one history.
	Key    string `json:"key"`
	Ticket string `json:"ticket"` // Lanekeeper-Ticket, "" if none came
	Fence  string `json:"fence"`  // Lanekeeper-Fence, "" if none came
	Client string `json:"client"` // Witness-Client
	Seq    int64  `json:"seq"`    // Witness-Seq; 0 = the client doesn't number

	Start int64 `json:"start_ns"` // the whole request was read
	End   int64 `json:"end_ns"`   // before the response was written; 0 = still running

	Method  string `json:"method"`
	LaneKey string `json:"lane_key,omitempty"` // Lanekeeper-Key as it came
	Witness string `json:"witness,omitempty"`  // which replica
}

// DefaultMaxRecords bounds a History; it takes about 250 MB when full.
const DefaultMaxRecords = 1_000_000

const (
	fieldBytesMax   = 4096 // of one recorded header value
	textPerRecord   = 512  // bytes of text a record may have on average
	lineBytesMax    = 1 << 16
	recordsPerChunk = 4096
)

// ErrHistoryFull is returned when a history has as much as it may hold.
var ErrHistoryFull = errors.New("history is full")

// errLowerFence is what a resource that looks at fences says to a late holder.
var errLowerFence = errors.New("an execution of this key had a higher fence")

// History records executions of any number of witnesses, in the order of their
// starts. It is bounded: when it is full it refuses the execution itself, and
// counts that, so that a cut history can never pass for a whole one.
type History struct {
	clock      *Clock
	recordsMax int

	mu          sync.Mutex // guards the rest
	chunks      []*[recordsPerChunk]record
	count       int
	text        int // bytes of strings held
	refused     int64
	fences      map[string]int64 // the highest of each key, of calls that look at them
	lowerFences int64
}

// record is an Execution in less room: one string for all fields. Everything
// but end is written once, under the history's mutex, before it is counted.
type record struct {
	text    string // key, lane key, ticket, fence, client one after another
	cut     [4]uint16
	method  string
	witness string
	seq     int64
	start   int64
	end     atomic.Int64
}

// call is what a witness knows when a request begins. The slices are not
// retained.
type call struct {
	key, laneKey, ticket, fence, client []byte
	method, witness                     string
	seq                                 int64
	fenced                              bool // refuse a fence below the key's highest
}

// NewHistory makes a history of at most recordsMax executions; 0 means
// DefaultMaxRecords. Share the clock with the Traffic of the same process.
func NewHistory(clock *Clock, recordsMax int) *History {
	if recordsMax <= 0 {
		recordsMax = DefaultMaxRecords
	}
	return &History{clock: clock, recordsMax: recordsMax}
}

// begin records a start; the caller stores the end in the record. It returns
// ErrHistoryFull if there is no room, or errLowerFence, and then the request must
// not run.
func (h *History) begin(c call) (*record, int, error) {
	var scratch [256]byte
	b := scratch[:0]
	var cut [4]uint16
	for i, field := range [...][]byte{c.key, c.laneKey, c.ticket, c.fence, c.client} {
		if i > 0 {
			cut[i-1] = uint16(len(b)) // at most 4 × 3 × fieldBytesMax = 49152
		}
		if len(field) > fieldBytesMax {
			return nil, 0, fmt.Errorf("a witnessed header value has %d bytes, at most %d are recorded", len(field), fieldBytesMax)
		}
		b = appendVisible(b, field)
	}
	text := string(b)
	fenced := c.fenced && len(c.fence) > 0 && len(c.key) > 0
	var fence int64
	if fenced {
		var ok bool
		if fence, ok = parseFence(string(c.fence)); !ok {
			return nil, 0, fmt.Errorf("Lanekeeper-Fence %.40q is no fence", c.fence)
		}
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	if fenced && fence < h.fences[text[:cut[0]]] {
		h.lowerFences++
		return nil, 0, errLowerFence
	}
	if h.count == h.recordsMax || h.text+len(text) > h.recordsMax*textPerRecord+fieldBytesMax {
		h.refused++
		return nil, 0, ErrHistoryFull
	}
	if h.count == len(h.chunks)*recordsPerChunk {
		h.chunks = append(h.chunks, new([recordsPerChunk]record))
	}
	r := &h.chunks[h.count/recordsPerChunk][h.count%recordsPerChunk]
	h.count++
	h.text += len(text)
	r.text, r.cut, r.method, r.witness, r.seq = text, cut, c.method, c.witness, c.seq
	if fenced {
		if h.fences == nil {
			h.fences = make(map[string]int64)
		}
		h.fences[text[:cut[0]]] = fence
	}
	r.start = h.clock.Now() // under the mutex: the order of records is the order of starts
	return r, h.count, nil
}

// appendVisible writes bytes outside 0x20–0x7E as %XX, so that JSON, which
// knows no bytes, cannot make two keys one. '%' stays: Lanekeeper-Key is
// escaped already, and the two spellings mean the same key.
func appendVisible(b, field []byte) []byte {
	for i, c := range field {
		if c < 0x20 || c > 0x7e {
			b = append(b, field[:i]...)
			for _, c := range field[i:] {
				if c < 0x20 || c > 0x7e {
					const hex = "0123456789ABCDEF"
					b = append(b, '%', hex[c>>4], hex[c&15])
				} else {
					b = append(b, c)
				}
			}
			return b
		}
	}
	return append(b, field...)
}

func (r *record) execution() Execution {
	return Execution{
		Key:     r.text[:r.cut[0]],
		LaneKey: r.text[r.cut[0]:r.cut[1]],
		Ticket:  r.text[r.cut[1]:r.cut[2]],
		Fence:   r.text[r.cut[2]:r.cut[3]],
		Client:  r.text[r.cut[3]:],
		Seq:     r.seq,
		Start:   r.start,
		End:     r.end.Load(),
		Method:  r.method,
		Witness: r.witness,
	}
}

// snapshot takes what is recorded so far. Records are never moved, so reading
// them needs no lock.
func (h *History) snapshot() (chunks []*[recordsPerChunk]record, count int, refused int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.chunks[:len(h.chunks):len(h.chunks)], h.count, h.refused
}

// Clock returns the clock the executions were timed by.
func (h *History) Clock() *Clock { return h.clock }

// Len returns how many executions are recorded, running ones included.
func (h *History) Len() int {
	_, count, _ := h.snapshot()
	return count
}

// Refused returns how many requests were not executed because the history was
// full.
func (h *History) Refused() int64 {
	_, _, refused := h.snapshot()
	return refused
}

// LowerFences returns how many requests were not executed because an execution of
// their key had had a higher fence.
func (h *History) LowerFences() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lowerFences
}

// Evidence returns what was recorded as the witness's half of an Evidence.
func (h *History) Evidence() Evidence {
	chunks, count, refused := h.snapshot()
	executions := make([]Execution, count)
	for i := range executions {
		executions[i] = chunks[i/recordsPerChunk][i%recordsPerChunk].execution()
	}
	return Evidence{Executions: executions, Refused: refused, LowerFences: h.LowerFences()}
}

// Reset forgets everything, and returns how much that was and how many of it
// were still running: those end unseen, so a caller who means to judge what
// comes next waits until nothing runs.
func (h *History) Reset() (dropped, running int) {
	h.mu.Lock()
	chunks, count := h.chunks, h.count
	h.chunks, h.count, h.text, h.refused = nil, 0, 0, 0
	h.fences, h.lowerFences = nil, 0
	h.mu.Unlock()
	for i := range count {
		if chunks[i/recordsPerChunk][i%recordsPerChunk].end.Load() == 0 {
			running++
		}
	}
	return count, running
}

// cutLine is the last line of a history that is not whole. It is no execution,
// so a reader that doesn't know it fails instead of judging too little.
type cutLine struct {
	Truncated bool  `json:"truncated"`
	Refused   int64 `json:"refused"`
}

// fenceLine tells of requests that were refused for their fences. It is there only
// if there were any.
type fenceLine struct {
	LowerFences int64 `json:"lower_fences"`
}

// WriteNDJSON writes one execution per line, by start. {"lower_fences":N} comes after
// them if N were refused for that. A history that had to refuse because it was full
// ends with the line {"truncated":true,"refused":N}.
func (h *History) WriteNDJSON(w io.Writer) error {
	chunks, count, refused := h.snapshot()
	bw := bufio.NewWriterSize(w, 64<<10)
	encoder := json.NewEncoder(bw)
	encoder.SetEscapeHTML(false)
	for i := range count {
		if err := encoder.Encode(chunks[i/recordsPerChunk][i%recordsPerChunk].execution()); err != nil {
			return err
		}
	}
	if lower := h.LowerFences(); lower > 0 {
		if err := encoder.Encode(fenceLine{lower}); err != nil {
			return err
		}
	}
	if refused > 0 {
		if err := encoder.Encode(cutLine{Truncated: true, Refused: refused}); err != nil {
			return err
		}
	}
	return bw.Flush()
}

// ReadHistory reads what WriteNDJSON wrote, strictly: a line that is no
// execution or has no end is an error, with its number. It reads at most
// recordsMax executions (0: DefaultMaxRecords) and returns ErrHistoryFull if
// there are more.
func ReadHistory(r io.Reader, recordsMax int) (Evidence, error) {
	if recordsMax <= 0 {
		recordsMax = DefaultMaxRecords
	}
	var ev Evidence
	br := bufio.NewReaderSize(r, lineBytesMax)
	for line := 1; ; line++ {
		text, err := br.ReadSlice('\n')
		switch {
		case err == io.EOF && len(text) == 0:
			return ev, nil
		case err == io.EOF:
			return ev, fmt.Errorf("line %d: cut off", line)
		case err == bufio.ErrBufferFull:
			return ev, fmt.Errorf("line %d: longer than %d bytes", line, lineBytesMax)
		case err != nil:
			return ev, err
		}
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		var entry struct {
			Execution
			cutLine
			fenceLine
		}
		if err := json.Unmarshal(text, &entry); err != nil {
			return ev, fmt.Errorf("line %d: %w", line, err)
		}
		switch {
		case entry.Truncated:
			ev.Refused += entry.Refused
		case entry.LowerFences > 0:
			ev.LowerFences += entry.LowerFences
		case entry.Start <= 0:
			return ev, fmt.Errorf("line %d: no execution: start_ns is missing", line)
		case len(ev.Executions) == recordsMax:
			return ev, fmt.Errorf("line %d: %w: at most %d executions are read", line, ErrHistoryFull, recordsMax)
		default:
			ev.Executions = append(ev.Executions, entry.Execution)
		}
	}
}
