package engine

// ForgetAll is Forget for every key. It is for whoever has taken keys away
// without knowing which.
func (fs *group) ForgetAll() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	clear(fs.m)
}

// ForgetAll is Forget for every key whose load is under way in this process.
func (l *Engine) ForgetAll() { l.flights.ForgetAll() }
