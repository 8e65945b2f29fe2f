package codectest_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unsafe"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/codec/codectest"
)

func TestRunPassesGoodCodecs(t *testing.T) {
	t.Parallel()
	codectest.Run(t, codec.String[string](), "", "a")
	codectest.Run(t, codec.JSON[map[string]int](), nil, map[string]int{"a": 1})
	codectest.RunEqual(t, codec.For[string](), strings.EqualFold, "", "A")
}

// faulty is a codec of a struct of a string and a flag, with one fault.
type faulty struct{ fault string }

type value struct {
	S    string
	Flag bool
}

var shared []byte

func (c faulty) Check() error {
	if c.fault == "check" {
		return errors.New("never works")
	}
	return nil
}

func (c faulty) Append(dst []byte, v value) ([]byte, error) {
	switch c.fault {
	case "encode":
		return dst, codec.ErrEncode
	case "overwrites dst":
		dst = dst[:0]
	case "keeps dst":
		shared = append(shared[:0], dst...)
		dst = shared
	case "races":
		shared = append(shared[:0], v.S...)
		v.S = string(shared)
	}
	flag := byte('-')
	if v.Flag {
		flag = '+'
	}
	dst = append(append(dst, flag), v.S...)
	if c.fault == "keeps dst" {
		shared = dst
	}
	return dst, nil
}

func (c faulty) Decode(src []byte, v *value) error {
	if len(src) == 0 && c.fault == "panics" {
		return codec.ErrFormat
	}
	if c.fault == "foreign error" && len(src) == 0 {
		return errors.New("empty")
	}
	if len(src) == 0 && c.fault != "panics" {
		return codec.ErrFormat
	}
	switch c.fault {
	case "panics":
		_ = "+,-"[src[0]-'+']
	case "loses":
		src = src[:1]
	case "changes src":
		src[0] |= 0x80
		defer func() { v.Flag = src[0]&^0x80 == '+' }()
	}
	v.S = string(src[1:])
	if c.fault == "keeps src" && len(src) > 1 {
		v.S = unsafe.String(&src[1], len(src)-1)
	}
	if c.fault != "dirty" || src[0] == '+' {
		v.Flag = src[0] == '+'
	}
	return nil
}

var values = []value{{}, {"a", true}, {"bcd", false}}

// TestFaulty runs the test with a fault, in the process that TestRunFinds
// starts.
func TestFaulty(t *testing.T) {
	fault := os.Getenv("CODECTEST_FAULT")
	if fault == "" {
		t.Skip("is run by TestRunFindsEachFault")
	}
	if fault == "no values" {
		codectest.Run(t, codec.Codec[value](faulty{}))
	}
	codectest.Run(t, codec.Codec[value](faulty{fault}), values...)
}

func TestRunFindsEachFault(t *testing.T) {
	t.Parallel()
	for fault, want := range map[string]string{
		"check":          "never works",
		"encode":         "Append",
		"no values":      "no values",
		"overwrites dst": "overwrote dst",
		"keeps dst":      "a later Append changed",
		"loses":          "round_trip",
		"panics":         "Decode panics on",
		"foreign error":  "not an ErrFormat",
		"keeps src":      "changed with src",
		"changes src":    "Decode changed src",
		"dirty":          "into what held value 1",
		"none":           "PASS",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFaulty$", "-test.v")
			cmd.Env = append(os.Environ(), "CODECTEST_FAULT="+fault)
			out, err := cmd.CombinedOutput()
			if failed := err != nil; failed != (fault != "none") || !strings.Contains(string(out), want) {
				t.Errorf("want %q in the output, got error %v and\n%s", want, err, out)
			}
		})
	}
}
