package loader

// ForgetAll is Forget for every key. It is for whoever has taken keys away
// without knowing which.
func (fs *group) ForgetAll() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	clear(fs.m)
}

// ForgetAll is Forget for every key that is being loaded here.
func (l *Engine) ForgetAll() { l.flights.ForgetAll() }
