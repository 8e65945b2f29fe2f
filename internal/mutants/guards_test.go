package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A change of the code that moves a guard changes the list as well.
func TestGuards_AreInTheCode(t *testing.T) {
	t.Parallel()
	guards, err := parse(list)
	require.NoError(t, err)
	require.NotEmpty(t, guards)
	names := map[string]bool{}
	for _, g := range guards {
		require.False(t, names[g.name], "two guards have the name %q", g.name)
		names[g.name] = true
		text, err := g.broken(filepath.Join("..", ".."))
		require.NoError(t, err)
		require.NotEmpty(t, text)
		require.True(t, strings.HasPrefix(g.pkg, "./") || g.pkg == ".", "%s: package %q", g.name, g.pkg)
	}
}

func TestParse_SaysWhichGuardIsIncomplete(t *testing.T) {
	t.Parallel()
	for block, want := range map[string]string{
		"name a\nfile f\n-x":             `guard "a" needs`,
		"name a\nfile f\ntest ./p T":     `guard "a" needs`,
		"name a\nfile f\ntest ./p\n-x":   `guard "a" needs`,
		"name a\nfiles f\ntest ./p T\n-": `line "files f" begins with none`,
	} {
		_, err := parse("# a comment\n\n" + block)
		require.ErrorContains(t, err, want)
	}
	got, err := parse("# a comment\n\nname a\nfile f\ntest ./p T\n-x\n-y\n+z\n")
	require.NoError(t, err)
	require.Equal(t, []guard{{name: "a", file: "f", pkg: "./p", run: "T", old: "x\ny", new: "z"}}, got)
}

func TestChoose_ReachesEachGuardByTenths(t *testing.T) {
	t.Parallel()
	all := make([]guard, 23)
	for i := range all {
		all[i].name = string(rune('a' + i))
	}
	require.Equal(t, all, choose(all, 1, 7))
	seen := map[string]bool{}
	for seed := range uint64(100) {
		some := choose(all, 10, seed)
		require.Len(t, some, 3)
		require.Less(t, some[0].name, some[1].name)
		require.Less(t, some[1].name, some[2].name)
		require.Equal(t, some, choose(all, 10, seed), "the same seed")
		for _, g := range some {
			seen[g.name] = true
		}
	}
	require.Len(t, seen, len(all))
}
