package backends_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// setCount writes one of the counters of a state, whatever it is.
func setCount(ctx context.Context, client redis.Cmdable, state, name string, number any) error {
	words, err := countersOf(ctx, client, state)
	if err != nil {
		return err
	}
	words[slices.Index(countNames(), name)] = fmt.Sprint(number)
	return client.HSet(ctx, state, "counters", strings.Join(words, " ")).Err()
}

// countOf is one of the counters of a state, empty where there are none.
func countOf(ctx context.Context, client redis.Cmdable, state, name string) string {
	words, err := countersOf(ctx, client, state)
	if err != nil {
		return ""
	}
	return words[slices.Index(countNames(), name)]
}

func countNames() []string {
	return strings.Fields("token sequence locks ended wake waiters gone kept closing sets twice forgotten trimmed")
}

func countersOf(ctx context.Context, client redis.Cmdable, state string) ([]string, error) {
	text, err := client.HGet(ctx, state, "counters").Result()
	words := strings.Fields(text)
	if err == nil && len(words) != len(countNames()) {
		err = errors.New("counters: " + text)
	}
	return words, err
}
