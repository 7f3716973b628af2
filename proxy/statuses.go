package proxy

import (
	"fmt"
	"strconv"
)

// Statuses is a set of status codes. The zero Statuses is empty.
type Statuses [600/64 + 1]uint64

// MustStatuses is ParseStatuses of texts that are known to be right.
func MustStatuses(texts ...string) Statuses {
	s, err := ParseStatuses(texts)
	if err != nil {
		panic("proxy: " + err.Error())
	}
	return s
}

// ParseStatuses reads codes, "404", and classes of them, "4xx".
func ParseStatuses(texts []string) (s Statuses, _ error) {
	for _, text := range texts {
		if len(text) == 3 && text[0] >= '2' && text[0] <= '5' && text[1:] == "xx" {
			first := int(text[0]-'0') * 100
			for code := first; code < first+100; code++ {
				s.add(code)
			}
			continue
		}
		code, err := strconv.Atoi(text)
		if err != nil || len(text) != 3 || code < 200 || code > 599 {
			return Statuses{}, fmt.Errorf("%q is neither a status code from 200 to 599 nor a class like 5xx", text)
		}
		s.add(code)
	}
	return s, nil
}

func (s *Statuses) add(code int) { s[code/64] |= 1 << (code % 64) }

// Without is s less some codes.
func (s Statuses) Without(codes ...int) Statuses {
	for _, code := range codes {
		s[code/64] &^= 1 << (code % 64)
	}
	return s
}

// Has reports whether a code is in the set.
func (s *Statuses) Has(code int) bool {
	return code >= 0 && code < 600 && s[code/64]&(1<<(code%64)) != 0
}
