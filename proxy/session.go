package proxy

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// Sessions are the cookies that sources with Issue give to clients that have none. The
// key is the id in them, so that a cookie which is signed anew keeps its lane.
//
// A cookie says id.expiry.signature: 128 random bits, the Unix time of its end, and the
// HMAC-SHA256 of both as they stand there. A client can throw its id away, and show it
// to others; it cannot choose one, or keep one longer than it was given.
type Sessions struct {
	Secrets  [][]byte      // the first signs, all verify; without one no cookie is valid, and none can be issued
	MaxAge   time.Duration // of a cookie; one that is used after half of it is signed anew
	Path     string        // of the service that it is sent to
	Secure   bool          // it is sent over TLS only
	SameSite string        // Lax, Strict or None
}

const (
	sessionBits  = 128
	sessionChars = 22 // of an id
	signedChars  = 43 // of a signature
	expiryDigits = 12 // at most
)

// sessionText writes bits such that each text stands for bits of its own, and each bits
// for one text.
var sessionText = base64.RawURLEncoding.Strict()

// session is the cookie that a request has, or will be given.
type session struct {
	name  string // of the cookie; empty: no source that issues was looked at
	id    []byte
	fresh bool // the client has no valid one
	renew bool // it has one that is signed anew
	keyed bool // the request's key rests on it
	used  bool // the key has been used for a lane, or to choose a target
}

// verify returns the id and the end of a cookie that was signed with one of the secrets
// and has not ended; ok is false for all others. It takes the same time for every
// signature.
func (s *Sessions) verify(value []byte, now time.Time) (id []byte, expiry time.Time, ok bool) {
	signed, signature := cutLast(value, '.')
	id, digits, _ := bytes.Cut(signed, []byte("."))
	var bits [sha256.Size]byte
	if len(id) != sessionChars || len(signature) != signedChars || len(digits) == 0 || len(digits) > expiryDigits || digits[0] == '0' {
		return nil, time.Time{}, false
	}
	for _, digit := range digits {
		if digit < '0' || digit > '9' {
			return nil, time.Time{}, false
		}
	}
	seconds, err := strconv.ParseInt(string(digits), 10, 64)
	if err != nil {
		return nil, time.Time{}, false
	}
	if n, err := sessionText.Decode(bits[:], id); err != nil || n*8 != sessionBits {
		return nil, time.Time{}, false
	}
	if n, err := sessionText.Decode(bits[:], signature); err != nil || n != sha256.Size {
		return nil, time.Time{}, false
	}
	for _, secret := range s.Secrets {
		ok = hmac.Equal(bits[:], sign(secret, signed)) || ok
	}
	expiry = time.Unix(seconds, 0)
	return id, expiry, ok && now.Before(expiry)
}

func cutLast(b []byte, separator byte) (before, after []byte) {
	i := bytes.LastIndexByte(b, separator)
	if i < 0 {
		return nil, nil
	}
	return b[:i], b[i+1:]
}

func sign(secret, text []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write(text)
	return mac.Sum(nil)
}

// appendValue appends a cookie's value.
func (s *Sessions) appendValue(b, id []byte, expiry time.Time) []byte {
	start := len(b)
	b = strconv.AppendInt(append(append(b, id...), '.'), expiry.Unix(), 10)
	signature := sign(s.Secrets[0], b[start:])
	return sessionText.AppendEncode(append(b, '.'), signature)
}

// header is the Set-Cookie that gives a client its session.
func (s *Sessions) header(name string, id []byte, now time.Time) []byte {
	b := s.appendValue(append([]byte(name), '='), id, now.Add(s.MaxAge))
	b = append(append(b, "; Path="...), s.Path...)
	b = strconv.AppendInt(append(b, "; Max-Age="...), int64(s.MaxAge/time.Second), 10)
	b = append(b, "; HttpOnly"...)
	if s.Secure {
		b = append(b, "; Secure"...)
	}
	return append(append(b, "; SameSite="...), s.SameSite...)
}

// sessionValue appends the id of the request's session to b. A client without a valid
// cookie gets a new one, the same however often this is asked; two cookies are refused as
// those of other sources are.
func (c *call) sessionValue(b []byte, s *source) ([]byte, bool, *problem) {
	if c.session.name == "" {
		value, _, problem := c.cookieValue(nil, s)
		if problem != nil {
			return b, false, problem
		}
		sessions, now := c.config.Sessions, time.Now()
		id, expiry, ok := sessions.verify(value, now)
		if !ok {
			var bits [sessionBits / 8]byte
			rand.Read(bits[:]) //nolint:errcheck // it never fails
			id = sessionText.AppendEncode(nil, bits[:])
		}
		c.session = session{name: s.Cookie, id: id, fresh: !ok, renew: ok && expiry.Sub(now) < sessions.MaxAge/2}
	}
	return append(b, c.session.id...), true, nil
}

// addSession gives the client its cookie beside those of the upstream, if it needs one and
// the id has come to a lane or a target.
func (c *call) addSession(response *fasthttp.Response) {
	if s := &c.session; s.keyed && s.used && (s.fresh || s.renew) {
		response.Header.AddBytesV("Set-Cookie", c.config.Sessions.header(s.name, s.id, time.Now()))
	}
}

// pickKey finds the key by which a request outside lanes chooses its target, on a route
// that issues sessions: so a session's requests keep to one.
func (c *call) pickKey() *problem {
	problem := c.findKey()
	c.mode, c.session.used = bypass, true
	return problem
}

// issuing is the first source that issues sessions, or nil.
func issuing(from []source) *source {
	for i := range from {
		if from[i].Issue {
			return &from[i]
		}
		if found := issuing(from[i].parts); found != nil {
			return found
		}
	}
	return nil
}
