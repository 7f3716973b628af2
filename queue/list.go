package queue

// list is a doubly linked line of tickets, linked through the tickets
// themselves so that joining and leaving allocate nothing.
type list struct {
	head, tail *Ticket
	len        int
}

func (q *list) push(t *Ticket) {
	t.prev, t.next = q.tail, nil
	if q.tail == nil {
		q.head = t
	} else {
		q.tail.next = t
	}
	q.tail = t
	q.len++
}

func (q *list) remove(t *Ticket) {
	if t.prev == nil {
		q.head = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		q.tail = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.prev, t.next = nil, nil
	q.len--
}

func (q *list) has(id ID) bool { return q.find(id) != nil }

// find returns the ticket of a name, or nil.
func (q *list) find(id ID) *Ticket {
	for t := q.head; t != nil; t = t.next {
		if t.ID == id {
			return t
		}
	}
	return nil
}
