package key

import (
	"errors"
	"strings"
)

// Beside returns what the names of keys begin with that a Cluster keeps where it keeps
// key, rendered: key itself if it has a hash tag, else key as the hash tag. The error
// says that it is empty, or has a brace and no hash tag, so that there are no such names.
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
