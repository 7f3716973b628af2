package sequence

import "container/heap"

// expiries are the marks by the end of their time.
type expiries struct{ marks []*mark }

func (e *expiries) add(k *mark)    { heap.Push((*byTime)(e), k) }
func (e *expiries) fix(k *mark)    { heap.Fix((*byTime)(e), k.index) }
func (e *expiries) remove(k *mark) { heap.Remove((*byTime)(e), k.index) }

// first is the mark that expires first, nil if there is none.
func (e *expiries) first() *mark {
	if len(e.marks) == 0 {
		return nil
	}
	return e.marks[0]
}

// byTime implements heap.Interface.
type byTime expiries

func (b *byTime) Len() int           { return len(b.marks) }
func (b *byTime) Less(i, j int) bool { return b.marks[i].expires.Before(b.marks[j].expires) }

func (b *byTime) Swap(i, j int) {
	b.marks[i], b.marks[j] = b.marks[j], b.marks[i]
	b.marks[i].index, b.marks[j].index = i, j
}

func (b *byTime) Push(k any) {
	b.marks = append(b.marks, k.(*mark))
	b.marks[len(b.marks)-1].index = len(b.marks) - 1
}

func (b *byTime) Pop() any {
	last := len(b.marks) - 1
	k := b.marks[last]
	b.marks[last] = nil
	b.marks = b.marks[:last]
	return k
}
