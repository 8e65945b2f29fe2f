package redistest

// Hold makes a black hole: connections stay open and new ones are accepted, but
// nothing is passed on. What has been sent is kept, and reaches the server after
// Resume even if the client has given up and gone: a write that took effect late.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flowing:
		p.flowing = make(chan struct{})
	default: // is held already
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

// HoldNext catches each of the next n requests that match accepts, nil meaning
// all of them: the request, and everything that follows on its connection, stays
// in the proxy until Release. Other connections are not affected. So a client
// that times out and sends the command again is answered, and the first copy
// reaches the server later, after commands that were sent after it.
//
// A request is the bytes of one read from the connection, so a pipeline may be
// several. HoldNext(0, nil) catches no more.
func (p *Proxy) HoldNext(n int, match func(request []byte) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.catch, p.catches = n, match
}

// Caught returns how many requests HoldNext has caught that Release has not
// passed on.
func (p *Proxy) Caught() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.caught
}

// Release passes on what HoldNext has caught, even if the client has gone. It
// returns how many requests that is. It does not wait until the server has them.
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
