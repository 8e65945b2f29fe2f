package collection

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// maxScore is the greatest score. It keeps sums of scores finite.
const maxScore = 1e300

// validScore reports whether score is within the bounds.
func validScore(score float64) bool { return math.Abs(score) <= maxScore } // false for NaN

// position is the sort position of a member in a sorted set: first by score,
// then by its bytes, the greater first. No two members share a position.
type position struct {
	score float64
	bytes string // as stored in Redis
}

// compare returns a negative number if p comes before q, and 0 if they are
// equal.
func (p position) compare(q position) int {
	switch {
	case p.score > q.score:
		return -1
	case p.score < q.score:
		return 1
	}
	return strings.Compare(q.bytes, p.bytes)
}

// positioned is a member and its position.
type positioned[M any] struct {
	position
	member M
}

// sortTop sorts the result of Up and keeps the first most members. It returns
// them also as members and scores for Redis. If a member occurs twice, the
// later one counts, as in Redis.
func (m elements[M]) sortTop(key string, all []Scored[M], most int) ([]Scored[M], []any, error) {
	order := make([]positioned[M], 0, len(all))
	seen := make(map[string]bool, len(all))
	for _, s := range slices.Backward(all) {
		if !validScore(s.Score) {
			return nil, nil, errors.New("Spec.Up: a score is not from -1e+300 to 1e+300")
		}
		b, err := m.encodeOne(key, s.Member)
		if err != nil {
			return nil, nil, err
		}
		if !seen[b] {
			seen[b] = true
			order = append(order, positioned[M]{position{s.Score, b}, s.Member})
		}
	}
	slices.SortFunc(order, func(a, b positioned[M]) int { return a.compare(b.position) })
	order = order[:min(len(order), most)]
	tidy, args := make([]Scored[M], len(order)), make([]any, 0, 2*len(order))
	for i, o := range order {
		tidy[i], args = Scored[M]{o.member, o.score}, append(args, o.bytes, o.score)
	}
	return tidy, args, nil
}

// decodeScored decodes members and scores from a script's reply. token is that
// of the collection.
func (m elements[M]) decodeScored(key string, all []any, token string) ([]positioned[M], readState, error) {
	members := make([]positioned[M], 0, len(all)/2)
	for i := 0; i+1 < len(all); i += 2 {
		b, _ := all[i].(string)
		score, err := parseScore(all[i+1])
		if err != nil {
			return nil, readState{}, err
		}
		member, err := m.decode(key, b)
		if err != nil {
			unfit := readState{foreign: true, err: err}
			copy(unfit.token[:], token)
			return nil, unfit, nil
		}
		members = append(members, positioned[M]{position{score, b}, member})
	}
	return members, readState{complete: true}, nil
}

// parseScore parses a score from a script's reply.
func parseScore(reply any) (float64, error) {
	s, _ := reply.(string)
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: no score", errReply)
	}
	return f, nil
}
