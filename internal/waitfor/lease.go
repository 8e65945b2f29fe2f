package waitfor

import (
	"sync"

	"github.com/cachex-go/cachex/internal/entry"
)

// leases knows which load of the process has which lease, by its token. So it is
// no matter by which cache, or by which client, another one meets the lease.
var leases = struct {
	mu sync.Mutex
	m  map[entry.Token]*Load // guarded by mu
}{m: make(map[entry.Token]*Load)}

// Hold says that l has the leases of the tokens.
func (l *Load) Hold(tokens ...entry.Token) {
	leases.mu.Lock()
	defer leases.mu.Unlock()
	for _, t := range tokens {
		leases.m[t] = l
	}
}

// Release says that nobody has the leases of the tokens any more.
func Release(tokens ...entry.Token) {
	leases.mu.Lock()
	defer leases.mu.Unlock()
	for _, t := range tokens {
		delete(leases.m, t)
	}
}

// AwaitLease says that l waits for the lease of a token, which the load of another
// process may have. The zero Token is that of none.
func (l *Load) AwaitLease(t entry.Token) {
	leases.mu.Lock()
	holder := leases.m[t]
	leases.mu.Unlock()
	mu.Lock()
	defer mu.Unlock()
	if l.lease != holder {
		if l.lease = holder; holder != nil {
			l.settle(nil)
		}
	}
}
