package peer

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"lanekeeper/queue"
	"lanekeeper/ring"
)

// tapeConn is a connection whose other side has said all it will say.
type tapeConn struct {
	net.Conn
	in *bytes.Reader
}

func tape(parts ...[]byte) *tapeConn { return &tapeConn{in: bytes.NewReader(bytes.Join(parts, nil))} }

func (c *tapeConn) Read(b []byte) (int, error)       { return c.in.Read(b) }
func (c *tapeConn) Write(b []byte) (int, error)      { return len(b), nil }
func (c *tapeConn) Close() error                     { return nil }
func (c *tapeConn) SetDeadline(time.Time) error      { return nil }
func (c *tapeConn) SetReadDeadline(time.Time) error  { return nil }
func (c *tapeConn) SetWriteDeadline(time.Time) error { return nil }
func (c *tapeConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

// FuzzPeerProtocol is another member that says anything: as an ingress on an
// ordered or a bulk connection, or as an owner that answers.
func FuzzPeerProtocol(f *testing.F) {
	var all []byte
	for _, k := range []kind{frameRequest, frameCancel, frameConfirm, framePing, frameControl, frameNote} {
		all = append(all, sampleFrames()[k]...)
	}
	f.Add(byte(0), sampleFrames()[frameHello])
	f.Add(byte(1), all)
	f.Add(byte(2), append(sampleFrames()[frameBody], "abc"...))
	f.Add(byte(2), sampleFrames()[frameFetch])
	all = nil
	for _, k := range []kind{frameReply, frameAdmitted, frameMoved, frameResponse, framePong} {
		all = append(all, sampleFrames()[k]...)
	}
	f.Add(byte(3), all)
	f.Add(byte(4), append(sampleFrames()[frameData], sampleFrames()[frameEnd]...))
	f.Add(byte(5), sampleFrames()[frameAsk])
	f.Add(byte(6), sampleFrames()[frameTold])
	f.Fuzz(func(t *testing.T, side byte, said []byte) {
		a, b := ring.Member{Name: "a", Incarnation: 1}, ring.Member{Name: "b", Incarnation: 1}
		var mu sync.Mutex
		var served []*Inbound
		var dialled *tapeConn
		h := New(Config{
			Self: b, Cluster: "fuzz", Stripes: 1,
			NextID: func() queue.ID { return queue.ID{1} },
			Owner:  func(int) (ring.Member, uint64) { return a, 1 },
			Serve: func(in *Inbound) (*Response, bool) {
				mu.Lock()
				defer mu.Unlock()
				if in.Partition%2 != 0 {
					return nil, false
				}
				served = append(served, in)
				in.session.env = neverWaits{in.session.env} // it is in no lane
				return nil, true
			},
			Control: func(ring.Member, []byte) {}, Up: func(ring.Member) {},
			Answer: func(_ context.Context, _ ring.Member, a *Ask) *Told {
				return &Told{Status: 200, Type: a.Method, Body: append(a.Body, a.Target...)}
			},
			Dial: func(context.Context, string) (net.Conn, error) {
				if dialled == nil {
					return nil, io.EOF
				}
				c := dialled
				dialled = nil
				return c, nil
			},
			MaxCalls: 10, MaxBytes: 1 << 20, Log: slog.New(slog.DiscardHandler),
		})
		greeting := hello{versions: spoken, cluster: "fuzz", from: a, to: b, generation: 1}
		bulk := greeting
		bulk.bulk = true
		answer := reply{version: 1, owner: a, session: 1}
		switch side % 7 {
		case 0:
			h.host.let(tape(said)) //nolint:errcheck // it ends with one, of course
		case 1:
			h.host.let(tape(greeting.append(nil), said)) //nolint:errcheck // as above
		case 2: // a body for a request that is there, perhaps
			r := Request{Key: []byte("k"), Bulk: true, BodySize: 3}
			request := appendSending(nil, sending{seq: 2}, appendRequest(nil, &r))
			h.host.let(tape(greeting.append(nil), request)) //nolint:errcheck // as above
			h.host.let(tape(bulk.append(nil), said))        //nolint:errcheck // as above
		case 5:
			asks := bulk
			asks.asks = true
			h.host.let(tape(asks.append(nil), said)) //nolint:errcheck // as above
		case 6:
			p := &peer{Member: Member{Member: a}}
			p.life, p.kill = context.WithCancel(context.Background())
			p.asks.init(h, p)
			h.peers[a] = p
			answer.version = asksSince
			dialled = tape(answer.append(nil), said)
			h.Ask(t.Context(), a, &Ask{Method: "GET", Target: "/"}) //nolint:errcheck // as above
			delete(h.peers, a)
			p.kill()
			p.asks.close()
		default:
			s := h.stripes[0]
			p := &peer{Member: Member{Member: a}}
			p.life, p.kill = context.WithCancel(context.Background())
			p.bulk.init(h, p)
			l := s.outbox.join(a)
			l.wire = &wire{peer: p, kick: make(chan struct{}, 1)}
			c := NewCall(0, noLocal{}, testRequest("k", 10), time.Now())
			h.Send(c)
			dialled = tape(answer.append(nil), said)
			if side%7 == 3 {
				s.connect(l, p) //nolint:errcheck // as above
			} else {
				c.Owner, c.stripe = a, s
				h.peers[a] = p
				if body, err := h.Fetch(c); err == nil {
					io.Copy(io.Discard, body) //nolint:errcheck // as above
					body.Close()
				}
				delete(h.peers, a)
			}
			p.kill()
			s.mu.Lock()
			s.outbox.gone(l)
			s.mu.Unlock()
		}
		for _, in := range served {
			in.Respond(&Response{})
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		h.Stop(ctx) //nolint:errcheck // nobody reads the answers
	})
}

// neverWaits is a session's surroundings without lanes.
type neverWaits struct{ sessionEnv }

func (neverWaits) leave(*Inbound) bool { return false }
