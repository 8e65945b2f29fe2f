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

// errNeedsParts is the error of parse if one command cannot return the complete
// collection: store.read reads it in parts.
var errNeedsParts = errors.New("collection is read in parts")

// scanCount is the approximate number of members that one SSCAN returns.
const scanCount = 2000

// scanCommand is the command of a set. A set of a thousand members is complete
// in the reply.
func (s *Set[K, M]) scanCommand(ctx context.Context, c redis.Cmdable, k string) redis.Cmder {
	return c.SScan(ctx, k, 0, "", scanCount)
}

// parseScan parses the reply to scanCommand.
func (s *Set[K, M]) parseScan(k string, reply redis.Cmder) ([]M, readState, error) {
	all, next, err := reply.(*redis.ScanCmd).Result()
	if err == nil && next != 0 {
		err = errNeedsParts
	}
	if err != nil {
		return nil, readState{}, err
	}
	_, members, seen, err := s.parseMembers(k, all)
	return members, seen, err
}

// readParts reads a set in parts. A member that is present all the time is in
// one of them. A restored set has its own token, which tells two sets apart:
// the token must be present before and after the pass that counts, which is the
// second one.
func (s *Set[K, M]) readParts(ctx context.Context, k string) (members []M, seen readState, err error) {
	defer guard.Catch(guard.Client, &err)
	var known string // the token in the last pass; a pass may mix two sets if it was not there before
	for range maxAttempts {
		before := known != ""
		if before {
			if before, err = s.rdb.SIsMember(ctx, k, known).Result(); err != nil {
				return nil, readState{}, err
			}
		}
		var all []string
		for cursor, first := uint64(0), true; first || cursor != 0; first = false {
			if err := ctx.Err(); err != nil {
				return nil, readState{}, context.Cause(ctx)
			}
			part, next, err := s.rdb.SScan(ctx, k, cursor, "", scanCount).Result()
			switch {
			case err != nil:
				return nil, readState{}, err
			case next == cursor && next != 0:
				return nil, readState{}, errReply // a real Redis never does this; the loop would not end
			}
			cursor, all = next, append(all, part...)
			if first && cursor == 0 {
				_, members, seen, err = s.parseMembers(k, all)
				return members, seen, err
			}
		}
		slices.Sort(all) // SSCAN may return a member twice
		h, members, seen, err := s.parseMembers(k, slices.Compact(all))
		if err != nil || !seen.complete || h.state != 'V' {
			return members, seen, err
		}
		token := headMarker + "T" + string(h.token[:])
		before, known = before && token == known, token
		if !before {
			continue
		}
		if same, err := s.rdb.SIsMember(ctx, k, token).Result(); err != nil || same {
			return members, seen, err
		}
	}
	return nil, readState{}, nil // other callers deleted the set in each attempt
}

// maxBucketReads is the number of buckets that are read in one round trip.
const maxBucketReads = 5

// readParts reads a window bucket by bucket. It reads each bucket in parts if
// it has more members than one script may visit.
func (t *Trending[K, M]) readParts(ctx context.Context, k string) (top []Scored[M], seen readState, err error) {
	defer guard.Catch(guard.Client, &err)
	reply, err := script.Trends.Run(ctx, t.rdb, k, t.scriptArgs(t.top)...)
	top, seen, err = t.parseTrends(k, reply, err)
	if !errors.Is(err, errNeedsParts) {
		return top, seen, err
	}
	numbers, _ := reply.([]any)[1].([]any) // parseTrends has checked that there are two
	sums := make(map[string]float64)
	var reads []*bucketRead
	for len(numbers)+len(reads) > 0 {
		for len(numbers) > 0 && len(reads) < maxBucketReads {
			reads = append(reads, &bucketRead{number: numbers[0], scores: make(map[string]float64)})
			numbers = numbers[1:]
		}
		if err := t.readBuckets(ctx, k, reads); err != nil {
			if errors.Is(err, ErrForeign) {
				return nil, readState{foreign: true}, nil
			}
			return nil, readState{}, err
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
	return t.topOf(k, sums)
}

// bucketRead is the progress of reading one bucket, lowest scores first. A
// member whose score grows during the read is read again.
type bucketRead struct {
	number      any // as the script has written it
	scores      map[string]float64
	last, score string // the last member that was read, and its score
	ended       bool
}

// readBuckets reads the next part of each of reads, in one round trip.
func (t *Trending[K, M]) readBuckets(ctx context.Context, k string, reads []*bucketRead) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	calls := make([]*script.Call, len(reads))
	for i, b := range reads {
		calls[i] = &script.Call{Script: script.Bucket, Key: k, Args: t.scriptArgs(b.number, b.score, b.last)}
	}
	convoy.Run(ctx, t.rdb, calls)
	for i, call := range calls {
		if call.Err != nil {
			return call.Err
		}
		all, err := bucketReply(call.Reply)
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
			return errReply // the previous part again
		}
	}
	return nil
}

// topOf returns the members with the highest sums.
func (t *Trending[K, M]) topOf(k string, sums map[string]float64) ([]Scored[M], readState, error) {
	order := make([]position, 0, len(sums))
	for member, sum := range sums {
		order = append(order, position{sum, member})
	}
	slices.SortFunc(order, position.compare)
	order = order[:min(len(order), t.top)]
	top := make([]Scored[M], len(order))
	for i, p := range order {
		member, err := t.members.decode(k, p.bytes)
		if err != nil {
			return nil, readState{foreign: true, err: err}, nil
		}
		top[i] = Scored[M]{member, p.score}
	}
	return top, readState{complete: true}, nil
}
