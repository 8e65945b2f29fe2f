package waitfor

import (
	"sync"

	"github.com/cachex-go/cachex/internal/entry"
)

// leases maps the token of each lease of this process to the load that holds
// it. So it does not matter by which cache, or by which client, another load
// meets the lease.
var leases = struct {
	mu sync.Mutex
	m  map[entry.Token]*Load // guarded by mu
}{m: make(map[entry.Token]*Load)}

// Hold records that l holds the leases of the tokens.
func (l *Load) Hold(tokens ...entry.Token) {
	leases.mu.Lock()
	defer leases.mu.Unlock()
	for _, t := range tokens {
		leases.m[t] = l
	}
}

// Release records that the leases of the tokens are no longer held.
func Release(tokens ...entry.Token) {
	leases.mu.Lock()
	defer leases.mu.Unlock()
	for _, t := range tokens {
		delete(leases.m, t)
	}
}

// AwaitLease records that l waits for the lease of a token, which the load of
// another process may hold. The zero Token means no lease.
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
