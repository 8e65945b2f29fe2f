//go:build !linux

package main

import "os"

// peak returns 0: only Linux reports the peak in a known unit.
func peak(*os.ProcessState) int64 { return 0 }
