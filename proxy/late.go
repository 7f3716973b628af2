package proxy

import "slices"

// A request may find its key by the rules of one setup and take its ticket after Reload
// has replaced that; then two lanes might be one key's. What keeps this from happening
// costs a request two loads, and no lock:
//
//	Reload:   says that it decides; looks whether the lanes are empty; installs the new
//	          setup or does not; says no more that it decides
//	request:  takes its ticket; looks whether a Reload decides, and waits until it has;
//	          looks whether its space's rule has changed since its setup
//
// If a request sees nobody decide, it took its ticket before Reload began, which then finds
// the lane in use; or it looks after the decision, and sees the setup that came of it. So
// after the change none runs by the old rule: it gives its ticket back, of which nothing
// has been sent, and begins anew.

// decision is that of a Reload, which changes the rules of some spaces or does not.
type decision struct {
	spaces []string
	made   chan struct{}
}

// decide says that a decision about some spaces begins; it has been made when the function
// that is returned is called.
func (p *Proxy) decide(spaces []string) (made func()) {
	d := &decision{spaces: spaces, made: make(chan struct{})}
	p.deciding.Store(d)
	return func() {
		p.deciding.Store(nil)
		close(d.made)
	}
}

// late is returned for a request that is to begin anew. It is no answer.
var late = &problem{}

// onTime returns late, with the ticket given back, if the rule by which the request found
// its lane is no more.
func (c *call) onTime() *problem {
	if d := c.proxy.deciding.Load(); d != nil && slices.Contains(d.spaces, c.route.Key.Space) {
		<-d.made
	}
	now := c.proxy.setup.Load()
	if now == c.setup || now.since[c.route.Key.Space] == c.since[c.route.Key.Space] {
		return nil
	}
	if !c.ticket.Leave() {
		if problem := c.wait(); problem != nil { // its turn has come, or its eviction
			return problem
		}
	}
	if c.prepared { // it was on its way to another node, and is not as it came
		return notReady.because("the rule by which its key is found has changed meanwhile")
	}
	return late
}

// startOver runs a late request as if it came now.
func (c *call) startOver() *problem {
	c.free()
	c.leaveName()
	c.request = request{setup: c.proxy.setup.Load(), ctx: c.ctx, arrived: c.arrived, ticket: &c.own}
	c.key = c.key[:0]
	return c.run()
}
