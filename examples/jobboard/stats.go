package main

import (
	"cmp"
	"context"

	"github.com/cachex-go/cachex"
)

// An account is what the caches of a chapter have counted, all servers together.
type account struct {
	chapter string
	cachex.Stats
}

var accounts []account

// remember adds up what the caches of a chapter have counted, for the last one.
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

// whatStatsSay shows what has been counted in the chapters before.
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
