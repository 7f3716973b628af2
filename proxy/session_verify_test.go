package proxy

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

var (
	firstSecret, otherSecret = bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	sessionsEnd              = time.Unix(1_800_000_000, 0)
	someID                   = []byte("AAECAwQFBgcICQoLDA0ODw") // bytes 0 to 15
)

func cookieOf(secret []byte, text string) string {
	return text + "." + sessionText.EncodeToString(sign(secret, []byte(text)))
}

// Mutants: the signature is not looked at; the end is not, or a moment late; only the first
// secret verifies; an id of any length will do; its last letter may say more than its bits;
// a number may begin with 0.
func TestOnlyWhatWasSignedIsASession(t *testing.T) {
	s := &Sessions{Secrets: [][]byte{firstSecret, otherSecret}, MaxAge: time.Hour}
	const end = "1800000000"
	id := string(someID)
	sound := cookieOf(firstSecret, id+"."+end)
	for _, test := range []struct {
		name, value string
		now         time.Time
		ok          bool
	}{
		{"sound", sound, sessionsEnd.Add(-time.Hour), true},
		{"to the last moment", sound, sessionsEnd.Add(-1), true},
		{"at its end", sound, sessionsEnd, false},
		{"of the second secret", cookieOf(otherSecret, id+"."+end), sessionsEnd.Add(-1), true},
		{"of another secret", cookieOf([]byte("guessed"), id+"."+end), sessionsEnd.Add(-1), false},
		{"prolonged", strings.Replace(sound, end, "1900000000", 1), sessionsEnd, false},
		{"of another id", "B" + sound[1:], sessionsEnd.Add(-1), false},
		{"empty", "", sessionsEnd.Add(-1), false},
		{"points alone", "..", sessionsEnd.Add(-1), false},
		{"no signature", id + "." + end + ".", sessionsEnd.Add(-1), false},
		{"a signature that is cut", sound[:len(sound)-1], sessionsEnd.Add(-1), false},
		// Whoever has a secret could sign these; we never do.
		{"a short id", cookieOf(firstSecret, id[1:]+"."+end), sessionsEnd.Add(-1), false},
		{"a long id", strings.Repeat("A", 100) + "." + end + sound[strings.LastIndexByte(sound, '.'):], sessionsEnd.Add(-1), false},
		{"an id with bits to spare", cookieOf(firstSecret, id[:21]+"x."+end), sessionsEnd.Add(-1), false},
		{"a number in another form", cookieOf(firstSecret, id+".0"+end), sessionsEnd.Add(-1), false},
		{"a sign", cookieOf(firstSecret, id+".+"+end), sessionsEnd.Add(-1), false},
		{"no number", cookieOf(firstSecret, id+"."), sessionsEnd.Add(-1), false},
		{"a large number", cookieOf(firstSecret, id+".1800000000000"), sessionsEnd.Add(-1), false},
	} {
		have, expiry, ok := s.verify([]byte(test.value), test.now)
		if ok != test.ok || ok && (string(have) != id || !expiry.Equal(sessionsEnd)) {
			t.Errorf("%s: got %s, %v, %t", test.name, have, expiry, ok)
		}
	}
	if _, _, ok := (&Sessions{}).verify([]byte(cookieOf(nil, id+"."+end)), sessionsEnd.Add(-1)); ok {
		t.Error("without a secret there is a session")
	}
}

// Mutants: Path or HttpOnly is left out; Secure is there when it should not be.
func TestTheCookieThatIsGiven(t *testing.T) {
	now := sessionsEnd.Add(-24 * time.Hour)
	signed := cookieOf(firstSecret, string(someID)+".1800000000")
	for _, test := range []struct {
		sessions Sessions
		want     string
	}{
		{Sessions{Path: "/", Secure: true, SameSite: "Lax"}, "; Path=/; Max-Age=86400; HttpOnly; Secure; SameSite=Lax"},
		{Sessions{Path: "/shop", SameSite: "Strict"}, "; Path=/shop; Max-Age=86400; HttpOnly; SameSite=Strict"},
	} {
		test.sessions.Secrets, test.sessions.MaxAge = [][]byte{firstSecret, otherSecret}, 24*time.Hour
		if have := string(test.sessions.header("lk", someID, now)); have != "lk="+signed+test.want {
			t.Errorf("got %s", have)
		}
		if id, expiry, ok := test.sessions.verify([]byte(signed), now); !ok || !bytes.Equal(id, someID) || !expiry.Equal(sessionsEnd) {
			t.Errorf("what was given is not accepted")
		}
	}
}

// FuzzSession: what is accepted is what a node with one of the secrets would write, to the
// last bit, so that one session has one spelling; and a cookie that anything was done to is
// none.
func FuzzSession(f *testing.F) {
	s := &Sessions{Secrets: [][]byte{firstSecret, otherSecret}, MaxAge: time.Hour}
	for _, secret := range [][]byte{firstSecret, otherSecret, nil} {
		f.Add(cookieOf(secret, string(someID)+".1800000000"), 3, byte('A'))
		f.Add(cookieOf(secret, string(someID)+".01800000000"), 30, byte('0'))
	}
	f.Add("a.1.b", 0, byte('\n'))
	f.Fuzz(func(t *testing.T, value string, at int, by byte) {
		now := sessionsEnd.Add(-time.Minute)
		judge := func(value string) bool {
			id, expiry, ok := s.verify([]byte(value), now)
			if !ok {
				return false
			}
			text := fmt.Sprintf("%s.%d", id, expiry.Unix())
			if len(id) != sessionChars || !now.Before(expiry) || value != cookieOf(firstSecret, text) && value != cookieOf(otherSecret, text) {
				t.Errorf("%q is accepted", value)
			}
			return true
		}
		judge(value)
		whole := []byte(cookieOf(firstSecret, string(someID)+".1800000000"))
		if !judge(string(whole)) {
			t.Error("the one that was given is refused")
		}
		if at = int(uint(at) % uint(len(whole))); whole[at] != by { //nolint:gosec // an index
			whole[at] = by
			if judge(string(whole)) {
				t.Errorf("%q is accepted", whole)
			}
		}
	})
}
