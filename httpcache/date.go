package httpcache

import (
	"strings"
	"time"
)

// dateLayouts are the formats of an HTTP-date (RFC 9110, section 5.6.7). The
// day of asctime is two digits, or a space and one digit.
var dateLayouts = []string{
	"Mon, 02 Jan 2006 15:04:05 GMT",
	"Monday, 02-Jan-06 15:04:05 GMT",
	time.ANSIC,
	"Mon Jan 02 15:04:05 2006",
}

// parseDate parses an HTTP-date, in any case. Package time accepts more than
// the grammar: several spaces, an hour of one digit, a fraction of a second. So
// a text is a date only if formatting the result gives the text again. The
// weekday may be wrong, since the grammar does not check it.
func parseDate(s string, now time.Time) (time.Time, bool) {
	folded := s
	if len(s) > 4 && strings.EqualFold(s[len(s)-4:], " GMT") {
		folded = s[:len(s)-4] + " GMT" // package time wants it in upper case
	}
	for _, layout := range dateLayouts {
		t, err := time.Parse(layout, folded)
		if err != nil {
			continue
		}
		if layout == dateLayouts[1] {
			t = inCentury(t, now)
		}
		if strings.EqualFold(afterWeekday(t.Format(layout)), afterWeekday(s)) {
			return t, true
		}
	}
	return time.Time{}, false
}

func afterWeekday(s string) string { return s[max(strings.IndexAny(s, " ,"), 0):] }

// inCentury completes a year of two digits: the latest one that is at most 50
// years in the future (RFC 9110, section 5.6.7).
func inCentury(t, now time.Time) time.Time {
	year := now.Year()/100*100 + 100 + t.Year()%100
	for {
		in := time.Date(year, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
		if !in.After(now.AddDate(50, 0, 0)) {
			return in
		}
		year -= 100
	}
}
