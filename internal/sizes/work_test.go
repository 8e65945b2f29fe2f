package sizes

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/script"
)

// work is the work of one command as counts, which do not depend on the machine.
type work struct {
	name     string // of the script or the command
	elements int    // of arguments and replies, also inside a script
	passed   int    // elements that a linear command passes over inside a script
	bytes    int    // of arguments and replies, also inside a script
}

func (w work) String() string {
	return fmt.Sprintf("%s: %d elements, %d passed over, %d bytes", w.name, w.elements, w.passed, w.bytes)
}

// A workHook counts the work of each command of a client. In place of each script
// it sends the counted one.
type workHook struct {
	counted map[string]string // digest of the counted script, by the digest that cachex sends

	mu   sync.Mutex
	done []work          // guarded by mu: commands outside scripts
	sent map[string]bool // guarded by mu: digests that cachex sent
}

// workKey is the list to which counted scripts push their work.
const workKey = "%work"

// counted returns a script that does what src does, and then pushes its work to
// workKey: the name, elements, elements passed over, and bytes.
func counted(name, src string) string {
	return `
local real, elements, passed, bytes = redis, 0, 0, 0
local function add(v)
  if type(v) == 'table' then
    for _, e in pairs(v) do add(e) end
    return
  end
  elements = elements + 1
  if type(v) == 'string' then bytes = bytes + #v end
end
local function counting(run)
  return function(...)
    local args = {...}
    local name, long = string.upper(args[1]), 0
    add(args)
    if name == 'LREM' or name == 'LTRIM' then long = real.call('LLEN', args[2]) end
    if name == 'ZUNION' then
      for i = 3, 2 + args[2] do elements = elements + real.call('ZCARD', args[i]) end
    end
    local reply = run(...)
    add(reply)
    if name == 'LREM' then passed = passed + long end
    if name == 'LTRIM' then passed = passed + long - real.call('LLEN', args[2]) end
    if name == 'ZREMRANGEBYRANK' then elements = elements + reply end
    return reply
  end
end
local redis = setmetatable({call = counting(real.call), pcall = counting(real.pcall)}, {__index = real})
add(KEYS)
add(ARGV)
local function body()
` + src + `
end
local reply = body()
add(reply)
real.call('RPUSH', '` + workKey + `', '` + name + `', elements, passed, bytes)
return reply
`
}

// newWorkHook returns a hook of rdb, after the server has learned all scripts.
func newWorkHook(t *testing.T, rdb *redis.Client) *workHook {
	t.Helper()
	h := &workHook{counted: map[string]string{}, sent: map[string]bool{}}
	for _, s := range script.All() {
		sha, err := rdb.ScriptLoad(t.Context(), counted(s.Name(), s.Source())).Result()
		require.NoError(t, err, s.Name())
		h.counted[s.SHA()] = sha
	}
	rdb.AddHook(h)
	return h
}

// has reports whether cachex sent s.
func (h *workHook) has(s *script.Script) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sent[s.SHA()]
}

// take returns the work since the last call of take, which it asks for by plain.
func (h *workHook) take(t *testing.T, plain *redis.Client) []work {
	t.Helper()
	h.mu.Lock()
	all := h.done
	h.done = nil
	h.mu.Unlock()
	records, err := plain.LRange(t.Context(), workKey, 0, -1).Result()
	require.NoError(t, err)
	require.NoError(t, plain.Del(t.Context(), workKey).Err())
	for r := range slices.Chunk(records, 4) {
		w := work{name: r[0]}
		for i, n := range []*int{&w.elements, &w.passed, &w.bytes} {
			*n, err = strconv.Atoi(r[1+i])
			require.NoError(t, err)
		}
		all = append(all, w)
	}
	return all
}

func (h *workHook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *workHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		h.before(cmd)
		err := next(ctx, cmd)
		h.after(cmd)
		return err
	}
}

func (h *workHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		h.before(cmds...)
		err := next(ctx, cmds)
		h.after(cmds...)
		return err
	}
}

func (h *workHook) before(cmds ...redis.Cmder) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, cmd := range cmds {
		if cmd.Name() != "evalsha" {
			continue
		}
		args := cmd.Args()
		sha := args[1].(string)
		if c, ok := h.counted[sha]; ok {
			h.sent[sha] = true
			args[1] = c
		}
	}
}

func (h *workHook) after(cmds ...redis.Cmder) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, cmd := range cmds {
		if strings.HasPrefix(cmd.Name(), "eval") {
			continue // it has pushed its work
		}
		w := work{name: cmd.Name()}
		w.add(reflect.ValueOf(cmd.Args()))
		if val := reflect.ValueOf(cmd).MethodByName("Val"); val.IsValid() && val.Type().NumIn() == 0 {
			w.add(val.Call(nil)[0])
		}
		h.done = append(h.done, w)
	}
}

// add adds v and all that it holds.
func (w *work) add(v reflect.Value) {
	switch v.Kind() {
	case reflect.Interface, reflect.Pointer:
		if !v.IsNil() {
			w.add(v.Elem())
		}
		return
	case reflect.String:
		w.bytes += v.Len()
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			w.bytes += v.Len()
			break
		}
		for i := range v.Len() {
			w.add(v.Index(i))
		}
		return
	case reflect.Map:
		for k, e := range v.Seq2() {
			w.add(k)
			w.add(e)
		}
		return
	case reflect.Struct:
		for i := range v.NumField() {
			w.add(v.Field(i))
		}
		return
	}
	w.elements++
}
