package engine

// An Outcome says how a value was come by.
type Outcome uint8

// How a value, or the answer that there is none, was come by.
const (
	_               Outcome = iota // no answer, or an error
	OutcomeHit                     // it was in Redis
	OutcomeNotFound                // Redis knew that there is none
	OutcomeStale                   // it was in Redis, stale
	OutcomeWaited                  // another process, or another Engine, loaded it meanwhile
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

// count counts a read that found something in Redis, and returns its outcome.
func (l *Engine) count(k kind) Outcome {
	switch k {
	case none:
		l.stats.notFoundHits.Add(1)
		return OutcomeNotFound
	case fresh, due:
		l.stats.hits.Add(1)
		return OutcomeHit
	}
	l.stats.staleHits.Add(1)
	return OutcomeStale
}

// answer is what a reader gets of what a flight has found. A value that was there
// before is as good as any if there is nothing newer.
func (l *Engine) answer(res *result) (any, Outcome, error) {
	if res.kept || res.how == OutcomeStale {
		l.stats.staleHits.Add(1)
		return res.v, OutcomeStale, nil
	}
	return res.v, res.how, res.err
}
