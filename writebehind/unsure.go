package writebehind

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cachex-go/cachex/internal/script"
)

// ack calls AckBatch. If the reply names unsure counts, ack passes their keys
// to the next call.
func (e *Engine) ack(ctx context.Context, b int, args []any) (reply any, err error) {
	call := e.on(script.AckBatch, b, args...)
	keys := call.More
	for tries, parts := 0, 0; tries < maxGlances; {
		if err := e.run(ctx, call); err != nil {
			return nil, err
		}
		if call.Reply == int64(2) { // the rest of what is parked
			if parts++; parts == maxParts {
				return nil, errParts
			}
			call = &script.Call{Script: call.Script, Key: call.Key, More: call.More, Args: args}
			continue
		}
		tries++
		unsure, ok := call.Reply.(string)
		if !ok {
			return call.Reply, nil
		}
		more, ok := netstrings(unsure)
		if !ok {
			return nil, fmt.Errorf("acknowledge: unexpected reply of %d bytes", len(unsure))
		}
		call = e.on(script.AckBatch, b, args...)
		call.More = slices.Concat(keys, more)
	}
	return nil, errUnsure
}

// errUnsure makes the engine take the batch once more.
var errUnsure = errors.New("acknowledge: counts became unsure time after time")

// netstrings returns the texts in s, each of which follows its length and a
// ':'.
func netstrings(s string) (texts []string, ok bool) {
	for s != "" {
		digits, rest, ok := strings.Cut(s, ":")
		n, err := strconv.Atoi(digits)
		if !ok || err != nil || n < 0 || n > len(rest) {
			return nil, false
		}
		texts, s = append(texts, rest[:n]), rest[n:]
	}
	return texts, true
}
