package httpcache

import (
	"net/http"
	"time"
)

// dated is an origin that declares the time of its answer, and the end of its
// freshness.
func dated(date, expires time.Duration, fields ...string) origin {
	return func(w http.ResponseWriter, r *http.Request, n int) {
		now := time.Now().UTC()
		w.Header().Set("Date", now.Add(date).Format(http.TimeFormat))
		w.Header().Set("Expires", now.Add(expires).Format(http.TimeFormat))
		says(fields...)(w, r, n)
	}
}

func freshnessRules() []rule {
	return []rule{
		{
			section: "9111 4.2", name: "a response is fresh to the second", origin: says("Cache-Control", fresh60),
			steps: []step{
				{body: "1", says: "fwd=uri-miss; fwd-status=200; ttl=60; stored"},
				{wait: 59999 * time.Millisecond, body: "1", says: "hit; ttl=0", fields: []string{"Age", "59"}},
				{wait: time.Millisecond, body: "2", says: "fwd=stale"},
				{wait: 59999 * time.Millisecond, body: "2", says: "hit"},
			},
		},
		{
			section: "9111 5.2.2.10", name: "s-maxage counts, and not max-age", origin: says("Cache-Control", "max-age=600, s-maxage=60"),
			steps: []step{{body: "1"}, {wait: 59 * time.Second, body: "1"}, {wait: time.Second, body: "2"}},
		},
		{
			section: "9111 5.2.2.10", name: "also where it is longer, in a line of its own, and Expires is past",
			origin: dated(0, -time.Hour, "Cache-Control", "max-age=0", "Cache-Control", "s-maxage=60"),
			steps:  []step{{body: "1"}, {wait: 59 * time.Second, body: "1"}},
		},
		twice("9111 5.2.2.1", "max-age=0 is not reused", says("Cache-Control", "max-age=0"), "1", "2"),
		twice("9111 5.3", "max-age counts, and not an Expires in the past", dated(0, -time.Hour, "Cache-Control", fresh60), "1", "1"),
		twice("9111 5.3", "nor one in the future", dated(0, time.Hour, "Cache-Control", "max-age=0"), "1", "2"),
		{
			section: "9111 5.3", name: "Expires is counted from Date", origin: dated(-10*time.Second, 50*time.Second),
			steps: []step{{body: "1", says: "ttl=50"}, {wait: 49 * time.Second, body: "1"}, {wait: time.Second, body: "2"}},
		},
		twice("9111 5.3", "an Expires of now is past", dated(0, 0), "1", "2"),
		twice("9111 5.3", "an Expires that is no date is past", says("Expires", "0"), "1", "2"),
		twice("9111 5.3", "an Expires of another zone is no date", says("Expires", "Sunday, 06-Nov-94 08:49:37 CET"), "1", "2"),
		twice("9111 5.3", "two of Expires are none", says("Expires", "Fri, 01 Jan 2100 00:00:00 GMT", "Expires", "Fri, 01 Jan 2100 00:00:00 GMT"), "1", "2"),
		twice("9111 5.3", "an Expires in asctime is one", says("Expires", "Fri Jan  1 00:00:00 2100"), "1", "1"),
		twice("9111 4.2", "GMT may be in lower case", says("Expires", "Fri, 01 Jan 2100 00:00:00 gmt"), "1", "1"),
		twice("9111 5.3", "an Expires with two spaces is past", says("Expires", "Fri, 01  Jan 2100 00:00:00 GMT"), "1", "2"),
		twice("9111 5.3", "so is one whose hour has one digit", says("Expires", "Fri, 01 Jan 2100 0:00:00 GMT"), "1", "2"),
		twice("9111 5.3", "and one with a fraction of a second", says("Expires", "Fri, 01 Jan 2100 00:00:00.5 GMT"), "1", "2"),
		{
			section: "9111 4.2.3", name: "the Age that a response came with counts", origin: says("Cache-Control", fresh60, "Age", "20"),
			steps: []step{
				{body: "1", fields: []string{"Age", "20"}},
				{wait: 39 * time.Second, body: "1", fields: []string{"Age", "59"}},
				{wait: time.Second, body: "2"},
			},
		},
		{
			section: "9111 4.2.3", name: "a Date in the past counts as age",
			origin: func(w http.ResponseWriter, r *http.Request, n int) {
				says("Cache-Control", fresh60, "Date", time.Now().UTC().Add(-30*time.Second).Format(http.TimeFormat))(w, r, n)
			},
			steps: []step{{body: "1"}, {wait: 29 * time.Second, body: "1", fields: []string{"Age", "59"}}, {wait: time.Second, body: "2"}},
		},
		twice("9111 4.2.3", "one that came stale is not reused", says("Cache-Control", fresh60, "Age", "60"), "1", "2"),
		twice("9111 5.1", "an Age that is no number is ignored", says("Cache-Control", fresh60, "Age", "old"), "1", "1"),
		twice("9111 5.1", "so is a negative one", says("Cache-Control", fresh60, "Age", "-100"), "1", "1"),
		twice("9111 5.1", "of several, the first counts", says("Cache-Control", fresh60, "Age", "100, 0"), "1", "2"),
		twice("9111 1.2.2", "an Age beyond all bounds is stale", says("Cache-Control", fresh60, "Age", "99999999999999999999"), "1", "2"),
		twice("9111 1.2.2", "a max-age beyond all bounds is fresh", says("Cache-Control", "max-age=99999999999999999999"), "1", "1"),
		{
			section: "9111 4.2", name: "MaxTTL bounds it", origin: says("Cache-Control", "max-age=3600"),
			options: Options{MaxTTL: time.Minute},
			steps:   []step{{body: "1"}, {wait: 59 * time.Second, body: "1"}, {wait: time.Second, body: "2"}},
		},
		{
			section: "9111 5.1", name: "Age is said of what is reused, and not of what is new", origin: says("Cache-Control", fresh60),
			steps: []step{{body: "1", fields: []string{"Age", ""}}, {body: "1", fields: []string{"Age", "0"}}},
		},
	}
}

func parsingRules() []rule {
	return []rule{
		twice("9111 5.2", "names are of any case", says("Cache-Control", "MaX-AgE=60"), "1", "1"),
		twice("9111 5.2", "arguments may be quoted", says("Cache-Control", `max-age="60"`), "1", "1"),
		twice("9111 5.2", "what stands in quotes is no directive", says("Cache-Control", `x="a, max-age=60, b"`), "1", "2"),
		twice("9111 5.2", "nor does it end one", says("Cache-Control", `x="a\", no-store", max-age=60`), "1", "1"),
		twice("9111 5.2", "unknown directives are ignored", says("Cache-Control", "x, max-age=60, y=z"), "1", "1"),
		twice("9111 5.2", "empty elements are ignored", says("Cache-Control", ", ,max-age=60,,"), "1", "1"),
		twice("9111 5.2", "a quote that does not end spoils all", says("Cache-Control", `max-age=60, x="a`), "1", "2"),
		twice("9111 5.2", "so do spaces around =", says("Cache-Control", "max-age = 60"), "1", "2"),
		twice("9111 1.2.2", "leading zeros are digits", says("Cache-Control", "max-age=0060"), "1", "1"),
		twice("9111 4.2.1", "a negative max-age is stale", says("Cache-Control", "max-age=-60"), "1", "2"),
		twice("9111 4.2.1", "so is one with a fraction", says("Cache-Control", "max-age=60.5"), "1", "2"),
		twice("9111 4.2.1", "so is one with letters", says("Cache-Control", "max-age=60s"), "1", "2"),
		twice("9111 4.2.1", "so is one without a value", says("Cache-Control", "max-age"), "1", "2"),
		twice("9111 4.2.1", "so are two that differ", says("Cache-Control", "max-age=60, max-age=120"), "1", "2"),
		twice("9111 4.2.1", "a bad s-maxage does not fall back to max-age", says("Cache-Control", "s-maxage=x, max-age=60"), "1", "2"),
	}
}
