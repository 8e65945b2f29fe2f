package engine

// Outcome is where a value came from.
type Outcome uint8

// The outcomes of a read.
const (
	_               Outcome = iota // no value, or an error
	OutcomeHit                     // in Redis
	OutcomeNotFound                // Redis remembered that the key has no value
	OutcomeStale                   // in Redis, stale
	OutcomeWaited                  // loaded by another process or Engine while the caller waited
	OutcomeLoaded                  // loaded here, for this caller or an earlier one
	OutcomeBypassed                // loaded here without Redis, and not stored
)

var outcomes = [...]string{"", "hit", "not found", "stale", "waited", "loaded", "bypassed"}

// String returns the outcome in a word or two. The zero Outcome is "".
func (o Outcome) String() string {
	if int(o) < len(outcomes) {
		return outcomes[o]
	}
	return "unknown"
}

// countHit counts a read that found an entry in Redis, and returns its outcome.
func (l *Engine) countHit(k freshness) Outcome {
	switch k {
	case notFound:
		l.stats.notFoundHits.Add(1)
		return OutcomeNotFound
	case fresh, refreshDue:
		l.stats.hits.Add(1)
		return OutcomeHit
	}
	l.stats.staleHits.Add(1)
	return OutcomeStale
}

// answerOf returns the answer of a reader for the result of a flight. If no
// newer value can be had, the previous one is a stale hit.
func (l *Engine) answerOf(res *result) (any, Outcome, error) {
	if res.servedStale || res.outcome == OutcomeStale {
		l.stats.staleHits.Add(1)
		return res.v, OutcomeStale, nil
	}
	return res.v, res.outcome, res.err
}
