package lock

// Waiting is how many wait for a name.
func (l *Local) Waiting(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(len(l.queues[name])-1, 0)
}

// Left are the names that are held or wanted.
func (l *Local) Left() (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.queues {
		names = append(names, name)
	}
	return names
}
