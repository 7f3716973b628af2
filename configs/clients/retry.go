// Package clients has what those who call a service through lanekeeper may copy: how to
// repeat a request by what lanekeeper says of it, in Go (the standard library), and beside
// it in Java, JavaScript and Python.
package clients

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrUnknown: the request was sent, and nobody knows what became of it. Look at the
// service before you send anything else for the key.
var ErrUnknown = errors.New("it is unknown whether the request was executed")

// Refused is lanekeeper's word that the request was not executed, and that it is of no
// use, or no use any more, to send it again as it is.
type Refused struct {
	Slug, Detail string
}

func (r *Refused) Error() string { return "not executed: " + r.Slug + ": " + r.Detail }

// problem is what lanekeeper says when it answers in place of the service.
type problem struct {
	Type     string `json:"type"`
	Detail   string `json:"detail"`
	Executed string `json:"executed"` // no, or unknown
}

const problemType = "urn:lanekeeper:problem:"

// Do sends a request, up to so many times. It is repeated if it was not executed and may be
// the next time, after what Retry-After says. If nobody knows, it is repeated only if that
// cannot do it twice: it is a read, or has an Idempotency-Key that its route looks at. What
// the service answers is returned, whatever it is. The request's body needs GetBody, which
// http.NewRequest sets for readers in memory.
func Do(client *http.Client, request *http.Request, attempts int) (*http.Response, error) {
	repeatable := request.Method == http.MethodGet || request.Method == http.MethodHead || request.Header.Get("Idempotency-Key") != ""
	for attempt := 1; ; attempt++ {
		if request.GetBody != nil {
			body, err := request.GetBody()
			if err != nil {
				return nil, err
			}
			request.Body = body
		}
		response, err := client.Do(request)
		if err == nil {
			err = refusal(response)
		}
		var pause time.Duration
		switch refused := (*Refused)(nil); {
		case err == nil:
			return response, nil
		case attempt == attempts:
			return nil, failure(err)
		case errors.As(err, &refused):
			if pause = retryAfter(response); pause == 0 && !slices.Contains([]int{429, 502, 503}, response.StatusCode) {
				return nil, err
			}
		case !neverSent(err) && !(repeatable && mayBeKnown(response)):
			return nil, failure(err)
		}
		// Some more, so that clients which were refused together do not come together.
		backoff := 100 * time.Millisecond << min(attempt-1, 6)
		select {
		case <-time.After(pause + time.Duration(rand.Int64N(int64(backoff)))):
		case <-request.Context().Done():
			return nil, failure(err)
		}
	}
}

// refusal is nil if the answer is the service's own.
func refusal(response *http.Response) error {
	if !strings.HasPrefix(response.Header.Get("Content-Type"), "application/problem+json") {
		return nil
	}
	text, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil {
		return err
	}
	response.Body = io.NopCloser(strings.NewReader(string(text)))
	var p problem
	if json.Unmarshal(text, &p) != nil || !strings.HasPrefix(p.Type, problemType) {
		return nil // a problem that the service tells of
	}
	slug := strings.TrimPrefix(p.Type, problemType)
	if p.Executed != "no" {
		return fmt.Errorf("%w: %s: %s", ErrUnknown, slug, p.Detail)
	}
	return &Refused{Slug: slug, Detail: p.Detail}
}

// mayBeKnown: a 409 says that the outcome of an earlier attempt is unknown, and stays so.
func mayBeKnown(response *http.Response) bool {
	return response == nil || response.StatusCode != http.StatusConflict
}

// neverSent: there was no connection to send anything on.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// failure is what the caller hears of an attempt without an answer.
func failure(err error) error {
	refused := (*Refused)(nil)
	switch {
	case errors.Is(err, ErrUnknown), errors.As(err, &refused):
		return err
	case neverSent(err):
		return &Refused{Slug: "no-connection", Detail: err.Error()}
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

func retryAfter(response *http.Response) time.Duration {
	seconds, err := strconv.Atoi(response.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}
