package key_test

import (
	"fmt"

	"github.com/cachex-go/cachex/internal/key"
)

func ExampleCompile() {
	type FeedKey struct {
		UserID int64
		Lang   string
	}
	feeds, err := key.Compile[FeedKey]("feeds:{{user_id}}:{lang}")
	if err != nil {
		panic(err)
	}
	k, err := feeds.Append(nil, FeedKey{UserID: 42, Lang: "pt:BR"})
	fmt.Println(feeds.Name(), string(k), err)

	back, err := feeds.Parse(string(k))
	fmt.Println(back.UserID, back.Lang, err)

	_, err = key.Compile[FeedKey]("feeds:{user_id}")
	fmt.Println(err)
	// Output:
	// feeds feeds:{42}:pt%3ABR <nil>
	// 42 pt:BR <nil>
	// field Lang of key_test.FeedKey is not in the template, so two keys would collide: add {lang}
}
