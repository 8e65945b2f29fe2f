package main

import (
	"cmp"
	"context"

	"github.com/cachex-go/cachex"
)

// account holds the counts of the caches of a chapter, over all servers.
type account struct {
	chapter string
	cachex.Stats
}

var accounts []account

// remember adds up the counts of the caches of a chapter, for the last chapter.
func remember[K comparable, V any](chapter string, caches ...*cachex.Cache[K, V]) cachex.Stats {
	a := account{chapter: chapter}
	for _, c := range caches {
		a.add(c.Stats())
	}
	accounts = append(accounts, a)
	return a.Stats
}

func (a *account) add(s cachex.Stats) {
	a.Hits += s.Hits
	a.StaleHits += s.StaleHits
	a.Misses += s.Misses
	a.Loads += s.Loads
	a.LoadFailures += s.LoadFailures
	a.Waits += s.Waits
	a.Fenced += s.Fenced
	a.RedisFailures += s.RedisFailures
}

// whatStatsSay shows the counts of all chapters.
func whatStatsSay(context.Context, site) error {
	title("13. What Stats say of all that")

	note("%-22s%6s%7s%8s%7s%8s%7s%8s", "", "hits", "stale", "misses", "loads", "failed", "waits", "fenced")
	show := func(a account) {
		note("%-22s%6d%7d%8d%7d%8d%7d%8d", a.chapter, a.Hits, a.StaleHits, a.Misses, a.Loads, a.LoadFailures, a.Waits, a.Fenced)
	}
	all := account{chapter: "together"}
	for _, a := range accounts {
		show(a)
		all.add(a.Stats)
	}
	show(all)
	return cmp.Or(
		expect("chapters", len(accounts), 10),
		expect("fenced", all.Fenced, 1),
		expect("calls to Redis that failed", all.RedisFailures, 0),
		expect("far more reads than loads", all.Hits+all.StaleHits > 10*all.Loads, true),
	)
}
