package collection

import (
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/guard"
)

// mark begins a head, and nothing else: a member whose bytes begin with it gets
// one more. It occurs neither in UTF-8 nor in MessagePack, so the members of most
// codecs stand in Redis as they are.
const mark = "\xc1"

// members turns members into what stands in Redis, and back.
type members[E any] struct{ codec codec.Keyed[E] }

// encode returns what stands in Redis for each of elems, as arguments of a script
// that come after those of args.
func (m members[E]) encode(args []any, key string, elems []E) ([]any, error) {
	for _, e := range elems {
		b, err := m.one(key, e)
		if err != nil {
			return nil, err
		}
		args = append(args, b)
	}
	return args, nil
}

// one is encode for one. A panic of the codec is an error.
func (m members[E]) one(key string, e E) (s string, err error) {
	defer guard.Catch(guard.Codec, &err)
	b, err := m.codec.AppendKeyed(nil, key, e)
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(string(b), mark) {
		return mark + string(b), nil
	}
	return string(b), nil
}

// decode returns the member that stands in Redis as s.
func (m members[E]) decode(key, s string) (e E, err error) {
	defer guard.Catch(guard.Codec, &err)
	if strings.HasPrefix(s, mark) {
		if !strings.HasPrefix(s, mark+mark) {
			return e, codec.ErrFormat // another head
		}
		s = s[len(mark):]
	}
	err = m.codec.DecodeKeyed([]byte(s), key, &e)
	return e, err
}

// open opens the reply to a command that returns the head and then the members of
// a collection, which has a source or none.
func (m members[E]) open(key string, reply redis.Cmder, source bool) ([]E, sight, error) {
	all, err := reply.(*redis.StringSliceCmd).Result()
	if err != nil || len(all) == 0 {
		return nil, sight{}, err
	}
	h := parseHead(all[0])
	if !h.whole(source) {
		return nil, sight{foreign: h.state == 0}, nil
	}
	elems := make([]E, 0, len(all)-1)
	for _, s := range all[1:] {
		e, err := m.decode(key, s)
		if err != nil {
			return nil, sight{foreign: true, token: h.token, why: err}, nil
		}
		elems = append(elems, e)
	}
	return elems, sight{whole: true}, nil
}

// A head is what a collection begins with; see script.Home. The zero head is
// none.
type head struct {
	state byte
	token entry.Token
}

// parseHead returns the head that s is, the zero head if it is none.
func parseHead(s string) (h head) {
	if len(s) != 12 || s[:3] != mark+"H\x01" {
		return head{}
	}
	h.state = s[3]
	copy(h.token[:], s[4:])
	return h
}

// whole reports whether what comes after the head is the collection.
func (h head) whole(source bool) bool { return h.state == 'V' || h.state == 'N' && !source }
