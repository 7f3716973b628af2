package peer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"testing"
	"time"

	"lanekeeper/queue"
	"lanekeeper/ring"
)

var testMember = ring.Member{Name: "node-7", Incarnation: 1<<63 + 5}

// sampleFrames has one frame of each kind, with every field set.
func sampleFrames() map[kind][]byte {
	h := hello{versions: versions{3, 9}, bulk: true, asks: true, cluster: "main", layout: 77, from: testMember, to: ring.Member{Name: "b"}, stripe: 3, generation: 1 << 40, session: 12, got: 13}
	p := reply{version: 4, owner: testMember, session: 5, processed: 99, open: []uint64{1, 5, 98}}
	r := Request{
		Key: []byte{0, 255, '%', 'x'}, Route: "orders", Class: queue.Shared, Ticket: queue.ID{1, 2}, Holder: queue.ID{3},
		Identity: &Identity{ID: [32]byte{4, 31: 5}, Print: [32]byte{6, 31: 7}},
		Sequence: &Sequence{Producer: "till-4", Epoch: 1 << 60, Seq: 9, Named: true},
		MaxDepth: 1, MaxBytes: 2, MaxShared: 3, MaxResponse: 4, Retries: 5, UpstreamTimeout: 6 * time.Second, HoldFor: 7 * time.Millisecond,
		Effect: &queue.Effect{Kind: "DELETE", On: [32]byte{8, 31: 9}, Over: []queue.Over{{Kind: "PUT", Status: 204}, {Kind: "", Anything: true, Status: 1<<16 - 1}}},
		ToHead: true, Head: []byte("POST / HTTP/1.1\r\n"), Body: []byte("body"), BodySize: 4,
	}
	a := Response{
		LaneWait: 5 * time.Microsecond, UpstreamTime: time.Second, Head: []byte("HTTP/1.1 200 OK\r\n\r\n"), Body: []byte("answer"),
		Stream: true, Problem: "lane-full", Status: 202, Executed: Unknown, Detail: "why", RetryAfter: time.Second, Depth: 17,
	}
	m := moved{seq: 8, owner: testMember, epoch: 9}
	t := transfer{stripe: 1, seq: 2, size: 3}
	q := Ask{Method: "POST", Target: "/api/v1/drain?node=b", Body: []byte("{}")}
	d := Told{Status: 200, Type: "application/json", Body: []byte(`{"node":"b"}`)}
	return map[kind][]byte{
		frameHello: h.append(nil), frameReply: p.append(nil), frameRefuse: appendBytes(nil, frameRefuse, []byte("why")),
		frameRequest: appendSending(nil, sending{seq: 6, partition: 4095, first: true, patience: time.Minute}, appendRequest(nil, &r)),
		frameCancel:  appendNumber(nil, frameCancel, 7), frameConfirm: appendNumber(nil, frameConfirm, 1<<50),
		framePing: appendBytes(nil, framePing, nil), frameControl: appendBytes(nil, frameControl, []byte("opaque")),
		frameNote:     appendBytes(nil, frameNote, []byte("opaque too")),
		frameAdmitted: appendNumber(nil, frameAdmitted, 8), frameMoved: m.append(nil), frameResponse: appendResponse(nil, 9, &a),
		framePong: appendBytes(nil, framePong, nil), frameBody: t.append(nil, frameBody), frameFetch: t.append(nil, frameFetch),
		frameAsk: q.append(nil), frameTold: d.append(nil),
		frameData: appendBytes(nil, frameData, []byte("data")), frameEnd: appendBytes(nil, frameEnd, []byte{1}),
	}
}

// decode takes a frame of any kind apart, and puts it together again.
func decode(k kind, payload []byte) (what any, again []byte, err error) {
	switch k {
	case frameHello:
		h, err := parseHello(payload)
		return h, h.append(nil), err
	case frameReply:
		p, err := parseReply(payload)
		return p, p.append(nil), err
	case frameRequest:
		var r Request
		s, err := parseRequest(payload, &r)
		again := appendSending(nil, s, appendRequest(nil, &r))
		return struct {
			s sending
			r Request
		}{s, r}, again, err
	case frameResponse:
		var r Response
		seq, err := parseResponse(payload, &r)
		return struct {
			seq uint64
			r   Response
		}{seq, r}, appendResponse(nil, seq, &r), err
	case frameMoved:
		m, err := parseMoved(payload)
		return m, m.append(nil), err
	case frameCancel, frameConfirm, frameAdmitted:
		n, err := parseNumber(payload)
		return n, appendNumber(nil, k, n), err
	case frameAsk:
		a, err := parseAsk(payload)
		return a, a.append(nil), err
	case frameTold:
		t, err := parseTold(payload)
		return t, t.append(nil), err
	case frameBody, frameFetch:
		t, err := parseTransfer(payload)
		return t, t.append(nil, k), err
	}
	return nil, appendBytes(nil, k, payload), nil
}

// TestFramesRoundTrip loses no field of any frame.
//
// Mutant "a response has no depth".
func TestFramesRoundTrip(t *testing.T) {
	for k, frame := range sampleFrames() {
		got, payload, err := readFrame(bufio.NewReader(bytes.NewReader(frame)), frameMax)
		if err != nil || got != k {
			t.Fatalf("kind %d: read as %d, %v", k, got, err)
		}
		what, again, err := decode(k, payload)
		if err != nil {
			t.Fatalf("kind %d: %v", k, err)
		}
		if !bytes.Equal(again, frame) {
			t.Errorf("kind %d: put together again it is\n%x, was\n%x", k, again, frame)
		}
		if what != nil && reflect.ValueOf(what).IsZero() {
			t.Errorf("kind %d: read as nothing", k)
		}
	}
	var r Response
	if _, err := parseResponse(sampleFrames()[frameResponse][frameHeader:], &r); err != nil || r.RetryAfter != time.Second || r.Depth != 17 || r.Executed != Unknown || r.Status != 202 {
		t.Errorf("the response is read as %+v, %v", r, err)
	}
}

// TestFramesMayGrow reads each frame with fields behind its end that a later
// version may have put there, and finds each cut short.
func TestFramesMayGrow(t *testing.T) {
	open := map[kind]bool{ // whose last field takes all the rest
		frameRequest: true, frameResponse: true, frameRefuse: true, frameControl: true, frameData: true, framePing: true, framePong: true, frameEnd: true, frameNote: true,
	}
	for k, frame := range sampleFrames() {
		if open[k] {
			continue
		}
		payload := frame[frameHeader:]
		want, _, _ := decode(k, payload)
		got, _, err := decode(k, append(bytes.Clone(payload), "of a later version"...))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("kind %d with more behind it: %+v, %v; want %+v", k, got, err, want)
		}
		for n := range payload {
			if _, _, err := decode(k, payload[:n]); !errors.Is(err, errFrame) {
				t.Errorf("kind %d of %d bytes, cut off at %d: %v", k, len(payload), n, err)
			}
		}
	}
}

// TestEffectsThatAreCutOff finds a REQUEST with an effect cut short wherever that is, and
// believes no number of rules that cannot be there.
//
// Mutant "an effect's length is believed".
func TestEffectsThatAreCutOff(t *testing.T) {
	payload := sampleFrames()[frameRequest][frameHeader:]
	var whole Request
	if _, err := parseRequest(payload, &whole); err != nil || whole.Effect == nil || len(whole.Effect.Over) != 2 || whole.Effect.Over[0].Status != 204 {
		t.Fatalf("%+v, %v", whole.Effect, err)
	}
	for n := range payload {
		var r Request
		if _, err := parseRequest(payload[:n], &r); !errors.Is(err, errFrame) {
			t.Errorf("cut off at %d of %d: %v", n, len(payload), err)
		}
	}
	in := reader{b: appendEffect(nil, &queue.Effect{Over: make([]queue.Over, 1)})}
	binary.BigEndian.PutUint16(in.b[2+32:], 1<<16-1)
	if e := in.effect(); !in.bad || len(e.Over) != 0 {
		t.Errorf("%d rules are read of one, cut off: %v", len(e.Over), in.bad)
	}
}

// TestFrameReaderRefuses what is too long, and tells an end from a break.
func TestFrameReaderRefuses(t *testing.T) {
	long := binary.BigEndian.AppendUint32(nil, 1<<31)
	for _, test := range []struct {
		name  string
		bytes []byte
		want  error
	}{
		{"the end", nil, io.EOF},
		{"half a header", []byte{0, 0, 0}, io.ErrUnexpectedEOF},
		{"half a frame", []byte{0, 0, 0, 9, 1, 2}, io.ErrUnexpectedEOF},
		{"a header alone", []byte{0, 0, 0, 9, 1}, io.ErrUnexpectedEOF},
		{"no kind", []byte{0, 0, 0, 0, 1}, errFrame},
		{"too long", append(binary.BigEndian.AppendUint32(nil, 102), 1), errFrame},
		{"far too long", append(long, 1), errFrame},
	} {
		r := frameReader{in: bufio.NewReader(bytes.NewReader(test.bytes)), most: 100}
		if _, _, err := r.next(); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

// TestFrameReaderKeepsWhatIsOwned reads frames of all sizes and changes none that
// somebody owns.
//
// Mutant "what is owned is written over".
func TestFrameReaderKeepsWhatIsOwned(t *testing.T) {
	var stream []byte
	sizes := []int{0, 1, 8, 63, 64, 65, 1000, 64, 70000, 8, 3 * batchBytes, 65, 65, believed, believed + 1, 5*believed + 7, 70}
	for i, n := range sizes {
		stream = appendBytes(stream, framePing, bytes.Repeat([]byte{byte(i + 1)}, n))
	}
	r := frameReader{in: bufio.NewReader(bytes.NewReader(stream)), most: frameMax}
	var owned [][]byte
	for i, n := range sizes {
		_, payload, err := r.next()
		if err != nil || len(payload) != n {
			t.Fatalf("frame %d: %d bytes, %v", i, len(payload), err)
		}
		owned = append(owned, r.own(payload))
	}
	for i, b := range owned {
		if !bytes.Equal(b, bytes.Repeat([]byte{byte(i + 1)}, sizes[i])) {
			t.Errorf("frame %d has changed", i)
		}
	}
	if r.buffer != nil {
		t.Errorf("%d bytes are kept that are somebody else's", cap(r.buffer))
	}
}

// TestLongFrameIsNotKept: the buffer of one long frame does not stay for all the
// short ones.
func TestLongFrameIsNotKept(t *testing.T) {
	stream := appendBytes(appendBytes(nil, frameControl, make([]byte, 4*batchBytes)), frameControl, make([]byte, 100))
	r := frameReader{in: bufio.NewReader(bytes.NewReader(stream)), most: frameMax}
	for range 2 {
		if _, _, err := r.next(); err != nil {
			t.Fatal(err)
		}
	}
	if cap(r.buffer) > 2*batchBytes {
		t.Errorf("a buffer of %d bytes is kept", cap(r.buffer))
	}
}

// TestLengthIsNotBelieved: a header alone costs no memory.
//
// Mutant "a length is believed".
func TestLengthIsNotBelieved(t *testing.T) {
	stream := append(binary.BigEndian.AppendUint32(nil, frameMax), byte(frameControl), 1, 2, 3)
	r := frameReader{in: bufio.NewReader(bytes.NewReader(stream)), most: frameMax}
	if _, _, err := r.next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	if cap(r.buffer) > believed {
		t.Errorf("%d bytes were made ready for three", cap(r.buffer))
	}
}

// FuzzFrame takes bytes apart as every kind of frame. What can be read comes to
// the same when it is put together and read again.
func FuzzFrame(f *testing.F) {
	for k, frame := range sampleFrames() {
		f.Add(byte(k), frame[frameHeader:])
	}
	f.Fuzz(func(t *testing.T, k byte, payload []byte) {
		what, again, err := decode(kind(k), payload)
		if err != nil || kind(k) == frameResponse && len(payload) > 1<<12 { // a long detail is cut
			return
		}
		second, third, err := decode(kind(k), again[frameHeader:])
		if err != nil {
			t.Fatalf("kind %d: what was read as %+v cannot be read again: %v", k, what, err)
		}
		if !reflect.DeepEqual(what, second) || !bytes.Equal(again, third) {
			t.Fatalf("kind %d: read as %+v, and then as %+v", k, what, second)
		}
	})
}
