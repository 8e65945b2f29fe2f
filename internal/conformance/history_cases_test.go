package conformance

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The checker is what everything else here rests on, so it is shown histories that
// are right and such that are not.
func TestTheCheckerKnowsRightFromWrong(t *testing.T) {
	t.Parallel()
	const many = 5000
	read := func(h *history, version int) {
		e := h.begin("read", 1)
		e.version = version
		h.end(e)
	}
	for name, c := range map[string]struct {
		happens func(h *history)
		wrong   string
	}{
		"a read after a delete is new": {func(h *history) {
			h.commit(1)
			h.end(h.begin("delete", 1))
			read(h, 2)
		}, ""},
		"a read after a delete is old": {func(h *history) {
			h.end(h.begin("load", 1))
			h.commit(1)
			h.end(h.begin("delete", 1))
			read(h, 1)
		}, "deleted before the read began"},
		"a read that began before the delete returned may be old": {func(h *history) {
			h.commit(1)
			d, r := h.begin("delete", 1), h.begin("read", 1)
			h.end(d)
			r.version = 1
			h.end(r)
		}, ""},
		"a commit after the delete began is not its matter": {func(h *history) {
			d := h.begin("delete", 1)
			h.commit(1)
			h.end(d)
			read(h, 1)
		}, ""},
		"a delete that returns late with an old version changes nothing": {func(h *history) {
			late := h.begin("delete", 1)
			h.commit(1)
			h.end(h.begin("delete", 1))
			h.end(late)
			read(h, 1)
		}, "deleted before the read began"},
		"a delete of another key": {func(h *history) {
			h.commit(1)
			h.end(h.begin("delete", 2))
			read(h, 1)
		}, ""},
		"a version out of nowhere": {func(h *history) { read(h, 7) }, "never had"},
		"no version":               {func(h *history) { read(h, 0) }, "never had"},
		"a value that was replaced long ago": {func(h *history) {
			h.commit(1)
			e := h.begin("read", 1)
			e.version, e.at = 1, e.at+2*h.bound
			h.end(e)
		}, "was replaced more than"},
		"a wrong one after very many": {func(h *history) {
			for range many {
				h.commit(1)
				h.end(h.begin("delete", 1))
			}
			read(h, many)
		}, "deleted before the read began"},
		"a wrong one that took very long": {func(h *history) {
			h.commit(1)
			h.end(h.begin("delete", 1))
			r := h.begin("read", 1)
			for range many {
				h.commit(1)
				h.end(h.begin("delete", 1))
			}
			r.version = 1
			h.end(r)
		}, "deleted before the read began"},
		"a right one that took very long": {func(h *history) {
			h.commit(1)
			h.end(h.begin("delete", 1))
			r := h.begin("read", 1)
			for range many {
				h.commit(1)
				h.end(h.begin("delete", 1))
			}
			r.version = 2
			h.end(r)
		}, ""},
		"a read after a set is new": {func(h *history) {
			h.commit(1)
			h.end(h.begin("set", 1))
			read(h, 2)
		}, ""},
		"a read after a set is old": {func(h *history) {
			h.commit(1)
			h.end(h.begin("set", 1))
			read(h, 1)
		}, "replaced before the read began"},
		"a set of unknown outcome comes late": {func(h *history) {
			h.commit(1)
			h.unknown(h.begin("set", 1))
			h.commit(1)
			h.end(h.begin("set", 1))
			read(h, 3)
			read(h, 2)
		}, ""},
		"a set that was acknowledged comes late": {func(h *history) {
			h.commit(1)
			h.end(h.begin("set", 1))
			h.commit(1)
			h.unknown(h.begin("set", 1))
			h.commit(1)
			h.end(h.begin("set", 1))
			read(h, 2)
		}, "replaced before the read began"},
		"a set that was refused, of what the database has": {func(h *history) {
			h.commit(1)
			h.refused(h.begin("set", 1), errors.New("refused"))
			read(h, 2)
		}, ""},
		"a set that was refused, of what is written behind": {func(h *history) {
			h.writtenBehind(1)
			h.commit(1)
			h.refused(h.begin("set", 1), errors.New("refused"))
			read(h, 2)
		}, "refused"},
		"a read by a release that cannot read what another one has set": {func(h *history) {
			h.writtenBehind(1, 2, 3)
			h.commit(1)
			h.end(h.begin("set", 1))
			read(h, 1)
		}, ""},
		"a read of what is written behind is old": {func(h *history) {
			h.writtenBehind(1, 0)
			h.commit(1)
			h.end(h.begin("set", 1))
			read(h, 1)
		}, "replaced before the read began"},
		"a value that is written behind stays while sets are refused": {func(h *history) {
			h.bound = 0
			h.writtenBehind(1)
			h.commit(1)
			h.end(h.begin("set", 1))
			for range many {
				h.commit(1)
				h.refused(h.begin("set", 1), errors.New("refused"))
			}
			read(h, 2)
		}, ""},
		"a value that was replaced before all that is remembered": {func(h *history) {
			h.bound = 0
			for range many {
				h.commit(1)
			}
			e := h.begin("read", 1)
			e.version, e.at = 1, e.at+1
			h.end(e)
		}, "was replaced more than"},
	} {
		h := newHistory(time.Hour)
		c.happens(h)
		if c.wrong == "" {
			require.Empty(t, h.verdict(), name)
		} else {
			require.Contains(t, h.verdict(), c.wrong, name)
		}
	}
	h := newHistory(time.Hour)
	h.end(h.begin("load", 1))
	h.commit(1)
	h.end(h.begin("delete", 1))
	read(h, 1)
	for range 10 {
		read(h, 1)
	}
	require.Len(t, strings.Split(strings.TrimSpace(h.verdict()), "\n"), 4, "the load, the delete, the first read: %s", h.verdict())
}

func TestTheCheckerForgetsWhatNothingIsMeasuredByAnyMore(t *testing.T) {
	t.Parallel()
	h := newHistory(0)
	long, gone := h.begin("read", 1), h.begin("read", 1)
	h.drop(gone)
	for range 5000 {
		h.end(h.begin("load", 1))
		h.commit(1)
		h.end(h.begin("delete", 1))
	}
	k := h.keys[1]
	require.Len(t, k.deletes, 5000, "the read that is under way may have the version of any of them")
	require.Len(t, k.loads, evidence)
	long.version = k.version
	h.end(long)
	h.commit(1)
	require.Empty(t, k.reads)
	require.Len(t, k.deletes, 1)
	require.LessOrEqual(t, len(k.commits), 2)
}

func TestTheChecker_RemembersASetOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	h := newHistory(0)
	h.writtenBehind(1)
	h.commit(1)
	h.end(h.begin("set", 1))
	h.commit(1)
	h.unknown(h.begin("set", 1))
	for range 100 {
		h.commit(1)
		h.refused(h.begin("set", 1), errors.New("refused"))
	}
	require.Empty(t, h.least(1, 3))
	require.Contains(t, h.least(1, 4), "its set returned: ")
	read := h.begin("read", 1)
	read.version = 3
	h.end(read)
	require.Empty(t, h.verdict())
}
