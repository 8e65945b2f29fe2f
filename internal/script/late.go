package script

// A Late tells the effect of a copy of a command that Redis carries out late:
// after another copy was answered, and after later calls have returned. A proxy
// or a stalled connection may hold a copy for any length of time.
type Late struct {
	// Once is set if the copy would change state that a later call has
	// established. The command is then sent once, see [Once].
	Once bool

	Why string
}

func harmless(why string) Late { return Late{Why: why} }
func sentOnce(why string) Late { return Late{Once: true, Why: why} }

// These reasons are shared by several rows.
var (
	reads    = harmless("changes nothing")
	ofToken  = harmless("changes only what has its token, which a later call takes away")
	ofBatch  = harmless("changes only the batch of its number and token")
	hint     = harmless("is a hint: who is woken looks again")
	deletes  = harmless("the next reader loads again, as after an eviction")
	replaces = sentOnce("takes the place of what was written since")
	adds     = sentOnce("adds again")
	removes  = sentOnce("removes what was added since")
	claims   = sentOnce("claims for a caller who no longer holds it")
)

// lates has a row for each script, by name. A script without a row is sent
// once.
var lates = map[string]Late{
	// Entries.
	"acquire": claims,
	"store":   ofToken,
	"renew":   ofToken,
	"extend":  ofToken,
	"release": ofToken,
	"write":   replaces,
	"wake":    hint,
	"expire":  harmless("a value that was written since is loaded again, as after a Delete"),

	// Counts.
	"add count":      adds,
	"add count once": harmless("finds its operation, which is remembered; see Call.Once for one that is not"),
	"set count":      replaces,
	"land count":     ofToken,

	// Write-behind.
	"write behind":   replaces,
	"pend add":       adds,
	"pend put":       replaces,
	"take batch":     harmless("finds the batch, or takes one that the next to ask resumes"),
	"read batch":     reads,
	"hold batch":     ofBatch,
	"subtract batch": ofBatch,
	"ack batch":      ofBatch,
	"renumber batch": ofBatch,
	"drop batch":     ofBatch,
	"list refused":   reads,
	"retry refused":  harmless("makes pending again what was refused since, which is then tried once more"),
	"park batch":     harmless("parks again, with its token, what was unparked since"),
	"unpark batch":   harmless("takes again, with its token, what was parked since; another process resumes it"),
	"settle batch":   ofBatch,
	"list unread":    reads,
	"rescue unread":  harmless("makes pending again what was not read since, which is then tried once more"),
	"look batch":     reads,
	"survey batch":   reads,

	// Turns.
	"take turn":   claims,
	"extend turn": ofToken,
	"end turn":    ofToken,
	"return turn": ofToken,

	// Gates.
	"pass gate":   sentOnce("closes a gate that has opened since, and lets no caller through"),
	"reopen gate": ofToken,
	"reset gate":  sentOnce("opens a gate that was closed since"),

	// Collections.
	"acquire list": claims, "acquire ranking": claims, "acquire set": claims,
	"extend list": ofToken, "extend ranking": ofToken, "extend set": ofToken,
	"release list": ofToken, "release ranking": ofToken, "release set": ofToken,
	"store list": adds, "store ranking": adds, "store set": adds,
	"push":    adds,
	"pull":    removes,
	"score":   replaces,
	"unrank":  removes,
	"stand":   reads,
	"page":    reads,
	"enter":   adds,
	"leave":   removes,
	"count":   reads,
	"trend":   adds,
	"trends":  reads,
	"bucket":  reads,
	"untrend": removes,
}

// Plain has a row, by name, for each command that cachex sends and that is not
// a script. If the row has Once set, the command is sent as a [Once].
var Plain = map[string]Late{
	"get":       reads,
	"hget":      reads,
	"mget":      reads,
	"lrange":    reads,
	"sismember": reads,
	"sscan":     reads,
	"zrevrange": reads,
	"scan":      reads,
	"dbsize":    reads,
	"hlen":      reads,
	"hmget":     reads,
	"getrange":  reads,
	"unlink":    deletes,
	"hdel":      deletes,
	"set":       replaces,

	// These go over the connection for wake-ups.
	"ping": reads, "subscribe": reads, "unsubscribe": reads, "ssubscribe": reads, "sunsubscribe": reads,

	// This asks Sentinels which masters they name.
	"sentinel": reads,
}

// late returns the row of a script.
func late(name string) Late {
	if l, ok := lates[name]; ok {
		return l
	}
	return sentOnce("has no row")
}
