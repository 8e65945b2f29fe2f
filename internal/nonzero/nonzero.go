// Package nonzero formats structs of counters without the counters that are
// zero.
package nonzero

import (
	"fmt"
	"reflect"
	"strings"
)

// Format returns the exported nonzero fields of a struct, as %+v does. It
// formats a nested struct in the same way.
func Format(v any) string {
	var b strings.Builder
	format(&b, reflect.ValueOf(v))
	return b.String()
}

func format(b *strings.Builder, v reflect.Value) {
	b.WriteByte('{')
	between := ""
	for f, field := range v.Fields() {
		if !f.IsExported() || field.IsZero() {
			continue
		}
		b.WriteString(between)
		b.WriteString(f.Name)
		b.WriteByte(':')
		between = " "
		if _, text := field.Interface().(fmt.Stringer); field.Kind() == reflect.Struct && !text {
			format(b, field)
		} else {
			fmt.Fprintf(b, "%+v", field.Interface())
		}
	}
	b.WriteByte('}')
}
