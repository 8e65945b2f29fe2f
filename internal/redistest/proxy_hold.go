package redistest

// Hold makes the proxy a black hole: connections stay open and new ones are
// accepted, but no bytes pass. Bytes that were sent are kept. They reach the
// server after Resume even if the client has given up: a write that takes
// effect late.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flowing:
		p.flowing = make(chan struct{})
	default: // is already held
	}
}

// Resume ends Hold.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flowing:
	default:
		close(p.flowing)
	}
}

// HoldNext catches each of the next n requests that match accepts. A nil match
// accepts all of them. The request, and all later bytes on its connection, stay
// in the proxy until Release. Other connections are not affected. So if a
// client times out and sends the command again, it gets an answer. The first
// copy reaches the server after later commands.
//
// A request is the bytes of one read from the connection, so a pipeline may be
// several requests. HoldNext(0, nil) ends the catching.
func (p *Proxy) HoldNext(n int, match func(request []byte) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.catch, p.catches = n, match
}

// Caught returns the number of requests that HoldNext has caught and Release
// has not forwarded.
func (p *Proxy) Caught() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.caught
}

// Release forwards the requests that HoldNext has caught, even if the client
// has closed its connection. It returns their number. It does not wait until
// the server has received them.
func (p *Proxy) Release() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.caught
	p.caught = 0
	close(p.released)
	p.released = make(chan struct{})
	return n
}

// held returns when request may pass: at once, unless HoldNext catches it.
func (p *Proxy) held(request []byte) {
	p.mu.Lock()
	released := p.released
	catch := p.catch > 0 && (p.catches == nil || p.catches(request))
	if catch {
		p.catch--
		p.caught++
		p.spoilt++
	}
	p.mu.Unlock()
	if catch {
		select {
		case <-released:
		case <-p.done:
		}
	}
}
