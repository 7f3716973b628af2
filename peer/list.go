package peer

import (
	"cmp"
	"slices"
)

// callList is a flow's backlog: calls by the order in which they came, linked
// through themselves.
type callList struct{ head, tail *Call }

// insert puts c in its place, nearly always the last.
func (q *callList) insert(c *Call) {
	after := q.tail
	for after != nil && after.order > c.order {
		after = after.prev
	}
	c.prev = after
	if after == nil {
		c.next, q.head = q.head, c
	} else {
		c.next, after.next = after.next, c
	}
	if c.next == nil {
		q.tail = c
	} else {
		c.next.prev = c
	}
}

func (q *callList) remove(c *Call) {
	if c.prev == nil {
		q.head = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		q.tail = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
}

// callQueue is what a link has to write. A call is in one list at a time, so
// both use its links.
type callQueue struct{ callList }

func (q *callQueue) push(c *Call) {
	c.prev, c.next = q.tail, nil
	if q.tail == nil {
		q.head = c
	} else {
		q.tail.next = c
	}
	q.tail = c
}

func sortBy[T any](all []T, rank func(T) uint64) {
	slices.SortFunc(all, func(a, b T) int { return cmp.Compare(rank(a), rank(b)) })
}
