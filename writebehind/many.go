package writebehind

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/script"
)

// Seen says what the database may lack of one id, at one moment: see Look.
type Seen struct {
	Bucket              int
	Incarnation, Moment string
	Pending, InFlight   *string // its delta, '=' and total, or value; nil if it has none
}

// LookMany is Look for ids of any buckets, in one round trip. Each bucket whose
// slot is moving to another node of a Cluster takes three more. LookMany
// returns an element for each id.
func (e *Engine) LookMany(ctx context.Context, ids []string) ([]Seen, error) {
	seen := make([]Seen, len(ids))
	err := e.open(ctx)
	if err == nil && len(ids) > 0 {
		err = e.lookMany(ctx, ids, seen)
	}
	if err != nil {
		return nil, fmt.Errorf("cachex: look %s: %w", printable(e.o.Name), err)
	}
	return seen, nil
}

func (e *Engine) lookMany(ctx context.Context, ids []string, seen []Seen) error {
	in := make(map[int][]int) // the ids of each bucket
	for i, id := range ids {
		b := e.Bucket(id)
		in[b] = append(in[b], i)
	}
	var calls []*script.Call
	var asked [][]int
	for b, is := range in {
		for from := 0; from < len(is); from += maxLook {
			some := is[from:min(from+maxLook, len(is))]
			args := make([]any, len(some))
			for j, i := range some {
				args[j] = Field(ids[i])
				seen[i].Bucket = b
			}
			calls, asked = append(calls, e.on(script.LookBatch, b, args...)), append(asked, some)
		}
	}
	if err := e.pipeline(ctx, calls); err != nil {
		return err
	}
	for c, call := range calls {
		v, err := call.Reply, call.Err
		if redis.IsTryAgainError(err) {
			v, err = e.lookApart(ctx, seen[asked[c][0]].Bucket, call.Args)
		}
		r := read(v, err)
		inc, moment := r.text(), r.text()
		_, _ = r.text(), r.text() // the numbers of the last batch taken and of the last one acknowledged
		pending, inFlight := e.merged(r, len(asked[c]))
		if r.err != nil {
			return r.err
		}
		for j, i := range asked[c] {
			s := &seen[i]
			s.Incarnation, s.Moment, s.Pending, s.InFlight = inc, moment, pending[j], inFlight[j]
		}
	}
	return nil
}
