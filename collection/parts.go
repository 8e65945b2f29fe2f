package collection

import (
	"context"
	"errors"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// errParts is the error of open, if one command may not return all of a collection:
// home.read reads it in parts.
var errParts = errors.New("collection is read in parts")

// setPart is how many members one SSCAN returns, about.
const setPart = 2000

// scan is ask of a set. A set of a thousand members is whole in the reply.
func (s *Set[K, M]) scan(ctx context.Context, c redis.Cmdable, k string) redis.Cmder {
	return c.SScan(ctx, k, 0, "", setPart)
}

// opened opens the reply to scan.
func (s *Set[K, M]) opened(k string, reply redis.Cmder) ([]M, sight, error) {
	all, next, err := reply.(*redis.ScanCmd).Result()
	if err == nil && next != 0 {
		err = errParts
	}
	if err != nil {
		return nil, sight{}, err
	}
	_, members, seen, err := s.unpack(k, all)
	return members, seen, err
}

// parts reads a set in parts. A member that is there all the time is in one of them. A
// restored set has a token of its own, by which parts of two of them are told apart: it
// is there before and after the pass that counts, which is the second one.
func (s *Set[K, M]) parts(ctx context.Context, k string) (members []M, seen sight, err error) {
	defer guard.Catch(guard.Client, &err)
	var known string // the token in the last pass; a pass may mix two sets if it was not there before
	for range rounds {
		before := known != ""
		if before {
			if before, err = s.rdb.SIsMember(ctx, k, known).Result(); err != nil {
				return nil, sight{}, err
			}
		}
		var all []string
		for cursor, first := uint64(0), true; first || cursor != 0; first = false {
			if err := ctx.Err(); err != nil {
				return nil, sight{}, context.Cause(ctx)
			}
			some, next, err := s.rdb.SScan(ctx, k, cursor, "", setPart).Result()
			switch {
			case err != nil:
				return nil, sight{}, err
			case next == cursor && next != 0:
				return nil, sight{}, errReply // which no Redis says: it would go on for ever
			}
			cursor, all = next, append(all, some...)
			if first && cursor == 0 {
				_, members, seen, err = s.unpack(k, all)
				return members, seen, err
			}
		}
		slices.Sort(all) // SSCAN may return a member twice
		h, members, seen, err := s.unpack(k, slices.Compact(all))
		if err != nil || !seen.whole || h.state != 'V' {
			return members, seen, err
		}
		token := mark + "T" + string(h.token[:])
		before, known = before && token == known, token
		if !before {
			continue
		}
		if same, err := s.rdb.SIsMember(ctx, k, token).Result(); err != nil || same {
			return members, seen, err
		}
	}
	return nil, sight{}, nil // other callers delete the set in each round
}

// abreast is how many buckets of a window are read in one round trip.
const abreast = 5

// parts reads a window bucket by bucket, and these in parts, if they have more members
// than one script may look at.
func (t *Trending[K, M]) parts(ctx context.Context, k string) (top []Scored[M], seen sight, err error) {
	defer guard.Catch(guard.Client, &err)
	reply, err := script.Trends.Run(ctx, t.rdb, k, t.args(t.top)...)
	top, seen, err = t.trends(k, reply, err)
	if !errors.Is(err, errParts) {
		return top, seen, err
	}
	numbers, _ := reply.([]any)[1].([]any) // trends has seen that there are two
	sums := make(map[string]float64)
	var reads []*bucketRead
	for len(numbers)+len(reads) > 0 {
		for len(numbers) > 0 && len(reads) < abreast {
			reads = append(reads, &bucketRead{number: numbers[0], scores: make(map[string]float64)})
			numbers = numbers[1:]
		}
		if err := t.step(ctx, k, reads); err != nil {
			if errors.Is(err, ErrForeign) {
				return nil, sight{foreign: true}, nil
			}
			return nil, sight{}, err
		}
		reads = slices.DeleteFunc(reads, func(b *bucketRead) bool {
			if b.ended {
				for member, score := range b.scores {
					sums[member] += score
				}
			}
			return b.ended
		})
	}
	return t.highest(k, sums)
}

// A bucketRead is a bucket, as far as it was read: the lowest scores first. A member whose
// score grows meanwhile is read again.
type bucketRead struct {
	number      any // as the script has written it
	scores      map[string]float64
	last, score string // the last member that was read, and its score
	ended       bool
}

// step reads the next part of some buckets, in one round trip.
func (t *Trending[K, M]) step(ctx context.Context, k string, reads []*bucketRead) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	calls := make([]*script.Call, len(reads))
	for i, b := range reads {
		calls[i] = &script.Call{Script: script.Bucket, Key: k, Args: t.args(b.number, b.score, b.last)}
	}
	convoy.Run(ctx, t.rdb, calls)
	for i, call := range calls {
		if call.Err != nil {
			return call.Err
		}
		all, err := bucketed(call.Reply)
		if err != nil {
			return err
		}
		b := reads[i]
		last, lowest := b.last, b.score
		b.ended = len(all) < 2
		for ; len(all) > 1; all = all[2:] {
			score, err := parseScore(all[1])
			if err != nil {
				return err
			}
			b.last, _ = all[0].(string)
			b.score, _ = all[1].(string)
			b.scores[b.last] = score
		}
		if !b.ended && b.last == last && b.score == lowest {
			return errReply // the part that came before, again
		}
	}
	return nil
}

// highest returns the members with the highest sums.
func (t *Trending[K, M]) highest(k string, sums map[string]float64) ([]Scored[M], sight, error) {
	order := make([]place, 0, len(sums))
	for member, sum := range sums {
		order = append(order, place{sum, member})
	}
	slices.SortFunc(order, place.compare)
	order = order[:min(len(order), t.top)]
	top := make([]Scored[M], len(order))
	for i, p := range order {
		member, err := t.members.decode(k, p.bytes)
		if err != nil {
			return nil, sight{foreign: true, why: err}, nil
		}
		top[i] = Scored[M]{member, p.score}
	}
	return top, sight{whole: true}, nil
}
