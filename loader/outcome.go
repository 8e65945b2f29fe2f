package loader

// An Outcome says how a value was come by.
type Outcome uint8

// How a value, or the answer that there is none, was come by.
const (
	_               Outcome = iota // no answer, or an error
	OutcomeHit                     // it was in Redis
	OutcomeNotFound                // Redis knew that there is none
	OutcomeStale                   // it was in Redis, stale
	OutcomeWaited                  // another process, or another Loader, loaded it meanwhile
	OutcomeLoaded                  // it was loaded here, for this caller or one before
	OutcomeBypassed                // it was loaded here without Redis, and is not stored
)

var outcomes = [...]string{"", "hit", "not found", "stale", "waited", "loaded", "bypassed"}

// String returns the outcome in a word or two, "" if there is none.
func (o Outcome) String() string {
	if int(o) < len(outcomes) {
		return outcomes[o]
	}
	return "unknown"
}
