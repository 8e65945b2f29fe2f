package dbtest

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/ledger"
)

// BenchmarkDown persists b.N values, each in its own transaction by Down, or up
// to 1,000 at a time by DownMany.
func BenchmarkDown(b *testing.B) {
	write := func(ctx context.Context, db *base, values map[int]string) error {
		batch, ok := ledger.FromContext(ctx)
		if !ok {
			return errNoBatch
		}
		return db.l.Once(ctx, batch, func(tx *sql.Tx) error {
			for id, value := range values {
				if _, err := tx.ExecContext(ctx, `INSERT INTO writes (id, value) VALUES ($1, $2)`, id, value); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, database := range []string{"postgres", "sqlite"} {
		for _, by := range []string{"Down", "DownMany"} {
			b.Run(database+"/"+by, func(b *testing.B) {
				db := map[string]func(testing.TB) *base{"postgres": newPostgres, "sqlite": newSQLite}[database](b)
				_, err := db.ExecContext(b.Context(), eachWrites)
				require.NoError(b, err)
				rdb := redis.NewClient(&redis.Options{Addr: redistest.Start(b).Addr(), ReadTimeout: redistest.Patience})
				defer func() { _ = rdb.Close() }()
				spec := cachex.Spec[int, string]{Key: redistest.Key(b) + ":{id}", TTL: time.Hour, WriteBehind: 24 * time.Hour}
				if by == "Down" {
					spec.Down = func(ctx context.Context, id int, value string) error {
						return write(ctx, db, map[int]string{id: value})
					}
				} else {
					spec.DownMany = func(ctx context.Context, values map[int]string) error { return write(ctx, db, values) }
				}
				c, err := cachex.New(rdb, spec)
				require.NoError(b, err)
				values := make(map[int]string, b.N)
				for id := range b.N {
					values[id] = fmt.Sprint("value ", id)
				}
				require.NoError(b, c.SetMany(b.Context(), values))
				b.ResetTimer()
				require.NoError(b, c.Flush(b.Context()))
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "values/s")
				b.ReportMetric(float64(c.Stats().WriteBehind.Batches)/b.Elapsed().Seconds(), "batches/s")
				require.NoError(b, c.Close(b.Context()))
			})
		}
	}
}
