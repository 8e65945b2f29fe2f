package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/collection"
)

// lists shows the collections of a board: the latest jobs, the top jobs, their
// viewers, and the jobs of companies that a visitor follows. Each server writes
// a part, and another server reads it.
func lists(ctx context.Context, s site) error {
	title("10. The latest jobs, the top jobs, who saw them and a feed, in one round trip")

	began := time.Now()
	var latest []*collection.Recent[struct{}, int64]
	var top []*collection.Ranking[struct{}, int64]
	var trending []*collection.Trending[struct{}, int64]
	var viewers []*collection.Set[int64, int64]
	var feed []*collection.Feed[string, int64]
	for _, rdb := range s.servers {
		latest = append(latest, cachex.Must(collection.NewRecent(rdb, collection.RecentSpec[struct{}, int64]{
			Key: "jobboard:latest", TTL: time.Minute, Len: 3,
		})))
		top = append(top, cachex.Must(collection.NewRanking(rdb, collection.RankingSpec[struct{}, int64]{
			Key: "jobboard:top", TTL: time.Minute, Top: 3,
		})))
		trending = append(trending, cachex.Must(collection.NewTrending(rdb, collection.TrendingSpec[struct{}, int64]{
			Key: "jobboard:trending", Bucket: time.Hour, Buckets: 24, Top: 1,
		})))
		viewers = append(viewers, cachex.Must(collection.NewSet(rdb, collection.SetSpec[int64, int64]{
			Key: "jobboard:{job_id}:viewers", TTL: time.Minute,
		})))
		feed = append(feed, cachex.Must(collection.NewFeed(rdb, collection.FeedSpec[string, int64]{
			Key: "jobboard:feed:{user}", TTL: time.Minute, Len: 100,
			Score: func(jobID int64) float64 { return float64(jobID) },
		})))
	}
	board := struct{}{}
	ids := []int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	err := cmp.Or( // of an earlier run
		latest[0].Delete(ctx, board), top[0].Delete(ctx, board), trending[0].Delete(ctx, board),
		viewers[0].Delete(ctx, ids...), feed[0].Delete(ctx, "ann", "bob", "a company"),
	)
	if err != nil {
		return err
	}
	for i, id := range ids {
		follow := []string{"ann", "bob"}
		if id%2 == 1 {
			follow = []string{"a company"} // too many visitors follow it, so it keeps its own list of jobs
		}
		if err := cmp.Or(latest[i%4].Push(ctx, board, id), feed[i%4].Post(ctx, id, follow...)); err != nil {
			return err
		}
	}
	unique := int64(0)
	for i, view := range []struct{ user, job int64 }{{1, 5}, {1, 4}, {2, 4}, {1, 3}, {3, 4}, {2, 5}, {2, 4}, {1, 5}, {1, 2}} {
		server := i % len(s.servers)
		isNew, err := viewers[server].Add(ctx, view.job, view.user)
		if err == nil && isNew == 1 { // a view counts once per user
			unique++
			_, err = top[server].Add(ctx, board, view.job, 1)
			if err == nil {
				_, err = trending[server].Add(ctx, board, view.job, 1)
			}
		}
		if err != nil {
			return err
		}
	}
	say(time.Since(began), "ten jobs were posted, and nine views are %d by different users", unique)

	trips := new(tripCounter)
	s.servers[3].AddHook(trips)
	if _, err := trending[3].Get(ctx, board); err != nil { // the server may not know its script yet
		return err
	}
	trips.n.Store(0)
	began = time.Now()
	var b batch.Batch
	three, best, now := batch.Get(&b, latest[3], board), batch.Get(&b, top[3], board), batch.Get(&b, trending[3], board)
	seen, posts := batch.Get(&b, viewers[3], 4), batch.Get(&b, feed[3], "ann")
	if err := b.Run(ctx); err != nil {
		return err
	}
	took, roundTrips := time.Since(began), trips.n.Load()
	latestJobs, errLatest := three.Get()
	topJobs, errTop := best.Get()
	hot, errHot := now.Get()
	users, errUsers := seen.Get()
	mine, errMine := posts.Get()
	if err := cmp.Or(errLatest, errTop, errHot, errUsers, errMine); err != nil {
		return err
	}
	say(took, "latest %v, top %v, of the last 24 hours %v", latestJobs, topJobs, hot)
	note("%d users have seen job 4; ann's feed is %v", len(users), mine)
	page, next, errPage := feed[3].GetPage(ctx, "ann", "", 4, feed[3].Timeline("a company"))
	rest, _, errRest := feed[3].GetPage(ctx, "ann", next, 10, feed[3].Timeline("a company"))
	note("with what a company posts that is not posted to her, page by page: %v %v", page, rest)
	return cmp.Or(errPage, errRest,
		expect("round trips", roundTrips, 1),
		expect("latest", fmt.Sprint(latestJobs), "[9 8 7]"),
		expect("top", fmt.Sprint(topJobs), "[{4 3} {5 2} {3 1}]"),
		expect("trending", fmt.Sprint(hot), "[{4 3}]"),
		expect("viewers of job 4", len(users), 3),
		expect("unique views", unique, 7),
		expect("feed", fmt.Sprint(mine), "[8 6 4 2 0]"),
		expect("first page", fmt.Sprint(page), "[9 8 7 6]"),
		expect("the rest", fmt.Sprint(rest), "[5 4 3 2 1 0]"),
	)
}
