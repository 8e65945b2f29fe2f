package key

import (
	"errors"
	"strings"
)

// Beside returns a prefix for further keys in the same Cluster slot as the
// rendered key: key itself if it has a hash tag, otherwise key as the hash tag.
// It returns an error if no such prefix exists: key is empty, or has a brace
// but no hash tag.
func Beside(key string) (string, error) {
	if key == "" {
		return "", errors.New("the key is empty: nothing could be kept where it is")
	}
	switch open := strings.IndexByte(key, '{'); {
	case open >= 0 && strings.IndexByte(key[open+1:], '}') > 0: // it has a hash tag
		return key, nil
	case strings.IndexByte(key, '}') >= 0:
		return "", errors.New("the key has a brace, and no hash tag: nothing could be kept where it is")
	}
	return "{" + key + "}", nil
}
