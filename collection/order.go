package collection

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// maxScore is the greatest score: so that sums of them stay finite.
const maxScore = 1e300

// fits reports whether a score can be one.
func fits(score float64) bool { return math.Abs(score) <= maxScore } // NaN is not

// A place is where a member stands in a sorted set: by its score, and of those with
// the same score by its bytes, the greater first. No two members have the same.
type place struct {
	score float64
	bytes string // as they stand in Redis
}

// compare returns a negative number if p comes before q, and 0 if they are one.
func (p place) compare(q place) int {
	switch {
	case p.score > q.score:
		return -1
	case p.score < q.score:
		return 1
	}
	return strings.Compare(q.bytes, p.bytes)
}

// A placed is a member and its place.
type placed[M any] struct {
	place
	member M
}

// ranked returns the first most of what Up has returned, in their order, and as
// members and scores for Redis. Of a member that is there twice, the later one
// counts, as in Redis.
func (m members[M]) ranked(key string, all []Scored[M], most int) ([]Scored[M], []any, error) {
	order := make([]placed[M], 0, len(all))
	seen := make(map[string]bool, len(all))
	for _, s := range slices.Backward(all) {
		if !fits(s.Score) {
			return nil, nil, errors.New("Spec.Up: a score is not from -1e+300 to 1e+300")
		}
		b, err := m.one(key, s.Member)
		if err != nil {
			return nil, nil, err
		}
		if !seen[b] {
			seen[b] = true
			order = append(order, placed[M]{place{s.Score, b}, s.Member})
		}
	}
	slices.SortFunc(order, func(a, b placed[M]) int { return a.compare(b.place) })
	order = order[:min(len(order), most)]
	tidy, args := make([]Scored[M], len(order)), make([]any, 0, 2*len(order))
	for i, o := range order {
		tidy[i], args = Scored[M]{o.member, o.score}, append(args, o.bytes, o.score)
	}
	return tidy, args, nil
}

// placed opens members and their scores in a script's reply. token is that of the
// collection.
func (m members[M]) placed(key string, all []any, token string) ([]placed[M], sight, error) {
	members := make([]placed[M], 0, len(all)/2)
	for i := 0; i+1 < len(all); i += 2 {
		b, _ := all[i].(string)
		score, err := parseScore(all[i+1])
		if err != nil {
			return nil, sight{}, err
		}
		member, err := m.decode(key, b)
		if err != nil {
			unfit := sight{foreign: true, why: err}
			copy(unfit.token[:], token)
			return nil, unfit, nil
		}
		members = append(members, placed[M]{place{score, b}, member})
	}
	return members, sight{whole: true}, nil
}

// parseScore returns a score of a script's reply.
func parseScore(reply any) (float64, error) {
	s, _ := reply.(string)
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: no score", errReply)
	}
	return f, nil
}
