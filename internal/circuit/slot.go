package circuit

import "strings"

const slots = 1 << 14 // of a Cluster

// slot returns the slot of key in a Cluster: the CRC16 of the key or of its
// hash tag. The hash tag is the text between the first { and the next }, unless
// it is empty.
func slot(key string) int {
	if _, tag, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok = strings.Cut(tag, "}"); ok && tag != "" {
			key = tag
		}
	}
	var crc uint16
	for i := range len(key) {
		crc = crc<<8 ^ xmodem[byte(crc>>8)^key[i]]
	}
	return int(crc % slots)
}

// xmodem has the CRC16 of every byte, with the polynomial of XMODEM.
var xmodem = func() (table [256]uint16) {
	for i := range table {
		crc := uint16(i) << 8
		for range 8 {
			carry := crc >> 15
			crc = crc<<1 ^ carry*0x1021
		}
		table[i] = crc
	}
	return table
}()
