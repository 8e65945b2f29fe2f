package cachex

import (
	"context"
	"reflect"
	"strings"
)

// A crossing is the ctx of a load that shows the values of another one: those that
// Spec.UpContext lets cross from the caller. Its end is the load's.
type loadContext struct {
	context.Context                 // of the load
	values          context.Context // as Spec.UpContext returns it
}

// Value returns the value of key. Keys of this module belong to the load: they tell
// nested loads apart, and Previous and NoStore need them.
func (c loadContext) Value(key any) any {
	if t := reflect.TypeOf(key); t != nil && (t.PkgPath() == module || strings.HasPrefix(t.PkgPath(), module+"/")) {
		return c.Context.Value(key)
	}
	return c.values.Value(key)
}

var module = reflect.TypeFor[loadContext]().PkgPath()

// cross returns the ctx of a load with the values that Spec.UpContext lets cross.
func (c *core) loadContext(ctx context.Context) context.Context {
	if c.settings.upContext == nil {
		return ctx
	}
	values := c.settings.upContext(ctx)
	if values == nil {
		values = context.Background()
	}
	return loadContext{ctx, values}
}
