package cachex

import (
	"context"
	"reflect"
	"strings"
)

// loadContext is the ctx of a load with the values of another ctx: those that
// Spec.UpContext lets cross from the caller. It ends with the load.
type loadContext struct {
	context.Context                 // of the load
	values          context.Context // the result of Spec.UpContext
}

// Value returns the value of key. Keys of this module are looked up in the ctx
// of the load: they detect nested loads, and Previous and NoStore need them.
func (c loadContext) Value(key any) any {
	if t := reflect.TypeOf(key); t != nil && (t.PkgPath() == module || strings.HasPrefix(t.PkgPath(), module+"/")) {
		return c.Context.Value(key)
	}
	return c.values.Value(key)
}

var module = reflect.TypeFor[loadContext]().PkgPath()

// loadContext returns the ctx of a load with the values that Spec.UpContext
// lets cross.
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
