package redistest

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"time"
)

// Patience bounds every wait of a test in real time. It is far longer than a
// busy machine needs, so a test that reaches it has found a fault, not a slow
// machine. It is 30 seconds times CACHEX_PATIENCE of the environment.
var Patience = patienceOf(os.Getenv("CACHEX_PATIENCE"))

// replyTimeout returns the ReadTimeout and the WriteTimeout of a client whose
// test sets neither. The default of go-redis is three seconds. On a busy
// machine go-redis would then send a command twice, or return an unknown
// outcome, and a test that counts would fail. In a network that a test cuts,
// only the timeout ends a wait. There replyTimeout returns 0, which selects the
// default of go-redis.
func replyTimeout() time.Duration {
	if os.Getenv(networkEnv) != "" {
		return 0
	}
	return Patience
}

// patienceOf returns 30 seconds times factor, a positive number. It panics if
// factor is anything else, because a test that never reaches its bound would
// not notice a bound of zero.
func patienceOf(factor string) time.Duration {
	const one, most = 30 * time.Second, 1e6
	if factor == "" {
		return one
	}
	times, err := strconv.ParseFloat(factor, 64)
	if err != nil || math.IsNaN(times) || times <= 0 || times > most {
		panic(fmt.Sprintf("redistest: CACHEX_PATIENCE is %q, want a number above 0 and up to %.0f", factor, most))
	}
	return time.Duration(times * float64(one))
}
