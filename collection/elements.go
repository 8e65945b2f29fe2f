package collection

import (
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/guard"
)

// headMarker begins a head, and nothing else: if the bytes of a member begin
// with it, they are stored with one more in front. It occurs neither in UTF-8
// nor in MessagePack, so the members of most codecs are stored unchanged.
const headMarker = "\xc1"

// elements encodes and decodes members as they are stored in Redis.
type elements[E any] struct{ codec codec.Keyed[E] }

// encode appends the stored form of each of elems to args, as arguments of a
// script.
func (m elements[E]) encode(args []any, key string, elems []E) ([]any, error) {
	for _, e := range elems {
		b, err := m.encodeOne(key, e)
		if err != nil {
			return nil, err
		}
		args = append(args, b)
	}
	return args, nil
}

// encodeOne returns the stored form of e. A panic of the codec is an error.
func (m elements[E]) encodeOne(key string, e E) (s string, err error) {
	defer guard.Catch(guard.Codec, &err)
	b, err := m.codec.AppendKeyed(nil, key, e)
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(string(b), headMarker) {
		return headMarker + string(b), nil
	}
	return string(b), nil
}

// decode returns the member whose stored form is s.
func (m elements[E]) decode(key, s string) (e E, err error) {
	defer guard.Catch(guard.Codec, &err)
	if strings.HasPrefix(s, headMarker) {
		if !strings.HasPrefix(s, headMarker+headMarker) {
			return e, codec.ErrFormat // a head of another kind
		}
		s = s[len(headMarker):]
	}
	err = m.codec.DecodeKeyed([]byte(s), key, &e)
	return e, err
}

// parseReply parses the reply to a command that returns the head and then the
// members. source reports whether the collection has a source.
func (m elements[E]) parseReply(key string, reply redis.Cmder, source bool) ([]E, readState, error) {
	all, err := reply.(*redis.StringSliceCmd).Result()
	if err != nil || len(all) == 0 {
		return nil, readState{}, err
	}
	h := parseHead(all[0])
	if !h.complete(source) {
		return nil, readState{foreign: h.state == 0}, nil
	}
	elems := make([]E, 0, len(all)-1)
	for _, s := range all[1:] {
		e, err := m.decode(key, s)
		if err != nil {
			return nil, readState{foreign: true, token: h.token, err: err}, nil
		}
		elems = append(elems, e)
	}
	return elems, readState{complete: true}, nil
}

// head is the first element of a collection; see script.Home. The zero head is
// absent.
type head struct {
	state byte
	token entry.Token
}

// parseHead parses s, and returns the zero head if s is not a head.
func parseHead(s string) (h head) {
	if len(s) != 12 || s[:3] != headMarker+"H\x01" {
		return head{}
	}
	h.state = s[3]
	copy(h.token[:], s[4:])
	return h
}

// complete reports whether the elements after the head are the complete
// collection.
func (h head) complete(source bool) bool { return h.state == 'V' || h.state == 'N' && !source }
