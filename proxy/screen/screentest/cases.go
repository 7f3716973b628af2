// Package screentest holds requests as they stand on the wire, and what a strict
// server does with them, for tests of every server that is to be one.
package screentest

import (
	_ "embed"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Case is what a client sends on one connection, and what is to become of it.
type Case struct {
	Name    string
	Request string
	Want    []Answer
	Stays   bool // the connection takes another request
	Queues  bool // the answer is that of a route with a key
	Here    bool // the server answers itself, though it is no refusal

	// What comes to the service. Nil and empty fields say nothing.
	Starts []string // request lines
	Body   *string
	Fields []string // Name: value
	Lacks  []string // names
}

// Answer is a status and, if it is a refusal, its slug.
type Answer struct {
	Status int
	Slug   string
}

// Refused reports whether nothing of the case may come to the service.
func (c *Case) Refused() bool { return len(c.Want) == 0 || c.Want[0].Status >= 400 }

//go:embed requests.txt
var requests string

var repeated = regexp.MustCompile(`(?s)\{([^{}]+)\*(\d+)\}`)

// Cases returns all of them.
func Cases() []Case {
	var cases []Case
	for number, line := range strings.Split(requests, "\n") {
		word, rest, _ := strings.Cut(line, " ")
		if word == "==" {
			cases = append(cases, Case{Name: rest})
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		c := &cases[len(cases)-1]
		if err := c.add(word, rest); err != nil {
			panic(fmt.Sprintf("screentest: requests.txt:%d: %v", number+1, err))
		}
	}
	return cases
}

// add takes one line of a case.
func (c *Case) add(word, rest string) error {
	text, err := strconv.Unquote(`"` + strings.ReplaceAll(rest, `"`, `\"`) + `"`)
	if err != nil {
		return err
	}
	switch word {
	case "want":
		if rest == "nothing" {
			return nil
		}
		code, slug, _ := strings.Cut(rest, " ")
		status, err := strconv.Atoi(code)
		c.Want = append(c.Want, Answer{status, slug})
		c.Stays = status < 400
		return err
	case "stays", "closes":
		c.Stays = word == "stays"
	case "queues":
		c.Queues = true
	case "here":
		c.Here = true
	case "sees":
		c.Starts = append(c.Starts, text)
	case "body":
		c.Body = &text
	case "field":
		c.Fields = append(c.Fields, text)
	case "lacks":
		c.Lacks = append(c.Lacks, text)
	case ">", ">|":
		c.Request += repeated.ReplaceAllStringFunc(text, repeat)
		if word == ">" {
			c.Request += "\r\n"
		}
	default:
		return fmt.Errorf("%q is no word of a case", word)
	}
	return nil
}

func repeat(text string) string {
	parts := repeated.FindStringSubmatch(text)
	n, _ := strconv.Atoi(parts[2])
	return strings.Repeat(parts[1], n)
}
