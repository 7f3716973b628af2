package main

import (
	"fmt"
	"strings"
)

// didYouMean is ` (did you mean "x"?)` for the candidate nearest to a
// misspelt word, or nothing if none is near. People also forget prefixes, so
// if no name is near, a part of one will do: tiemout finds queue_timeout.
func didYouMean(word string, candidates []string) string {
	best := nearest(word, candidates)
	if best == "" {
		wholes := make(map[string]string)
		var parts []string
		for _, candidate := range candidates {
			for part := range strings.SplitSeq(candidate, "_") {
				parts = append(parts, part)
				if wholes[part] == "" {
					wholes[part] = candidate
				}
			}
		}
		best = wholes[nearest(word, parts)]
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// nearest picks the candidate with the fewest edits from word, at most one for
// every three letters; the first of equals, or "".
func nearest(word string, candidates []string) string {
	if len(word) > 64 || len(candidates) > 256 {
		return "" // nobody's typing error, or not worth the time
	}
	best, least := "", max(1, len(word)/3)+1
	for _, candidate := range candidates {
		if n := edits(strings.ToLower(word), strings.ToLower(candidate)); n < least {
			best, least = candidate, n
		}
	}
	return best
}

// edits counts the letters to insert, delete, replace or swap with their
// neighbour to get from a to b.
func edits(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
