package httpcache

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseDate_AcceptsTheGrammarAndNothingElse(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]string{
		"Sun, 06 Nov 1994 08:49:37 GMT":  "1994-11-06T08:49:37Z",
		"sun, 06 NOV 1994 08:49:37 gMT":  "1994-11-06T08:49:37Z",
		"Mon, 06 Nov 1994 08:49:37 GMT":  "1994-11-06T08:49:37Z", // the grammar permits a wrong weekday
		"Sunday, 06-Nov-94 08:49:37 GMT": "1994-11-06T08:49:37Z",
		"Sun Nov  6 08:49:37 1994":       "1994-11-06T08:49:37Z",
		"Sun Nov 06 08:49:37 1994":       "1994-11-06T08:49:37Z",
		"Sun Nov 16 08:49:37 1994":       "1994-11-16T08:49:37Z",

		// Two digits are the latest year that is at most 50 years in the
		// future.
		"Friday, 01-Jan-70 00:00:00 GMT": "2070-01-01T00:00:00Z",
		"Friday, 01-Jan-76 00:00:00 GMT": "2076-01-01T00:00:00Z",
		"Friday, 01-Jan-77 00:00:00 GMT": "1977-01-01T00:00:00Z",
		"Friday, 01-Jan-26 00:00:00 GMT": "2026-01-01T00:00:00Z",

		"Sun, 06  Nov 1994 08:49:37 GMT":   "",
		"Sun,  06 Nov 1994 08:49:37 GMT":   "",
		"Sun, 06 Nov 1994  08:49:37 GMT":   "",
		" Sun, 06 Nov 1994 08:49:37 GMT":   "",
		"Sun, 06 Nov 1994 08:49:37 GMT ":   "",
		"Sun, 06 Nov 1994 8:49:37 GMT":     "",
		"Sun, 6 Nov 1994 08:49:37 GMT":     "",
		"Sun, 06 Nov 1994 08:49:37.5 GMT":  "",
		"Sun, 06 Nov 1994 08:49:37,50 GMT": "",
		"Sun, 06 Nov 1994 08:49:37 UTC":    "",
		"Sun, 06 Nov 1994 08:49:37":        "",
		"Sun 06 Nov 1994 08:49:37 GMT":     "",
		"Sun, 06-Nov-1994 08:49:37 GMT":    "",
		"Sun, 06 Nov 94 08:49:37 GMT":      "",
		"Sun, 31 Feb 1994 08:49:37 GMT":    "",
		"Sun Nov 6 08:49:37 1994":          "",
		"Sunday, 06-Nov-94 08:49:37 CET":   "",
		"Nov, 06 Nov 1994 08:49:37 GMT":    "",
		" GMT":                             "",
		"0":                                "",
		"":                                 "",
	} {
		got, ok := parseDate(s, now)
		if require.Equal(t, want != "", ok, s); ok {
			require.Equal(t, want, got.Format(time.RFC3339), s)
		}
	}
}

// FuzzDates checks that parsing keeps every date as written, and never panics.
func FuzzDates(f *testing.F) {
	f.Add("Sun, 06 Nov 1994 08:49:37 GMT", int64(784111777))
	f.Add(" ,", int64(-1))
	f.Fuzz(func(t *testing.T, s string, unix int64) {
		now := time.Now()
		parseDate(s, now)
		want := time.Unix(unix%(200*365*86400), 0).UTC()
		for _, layout := range []string{http.TimeFormat, time.ANSIC} {
			if got, ok := parseDate(want.Format(layout), now); !ok || !got.Equal(want) {
				t.Fatalf("%q was read as %v, %v", want.Format(layout), got, ok)
			}
		}
	})
}
